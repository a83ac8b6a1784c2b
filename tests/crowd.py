"""Many clients at once, on bare sockets, and what they cost the gateway that serves them."""

import asyncio
import fcntl
import hashlib
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.request import urlopen

from gateway import Process
from nginx import command, held_port

DESCRIPTORS = 10_000
"""File descriptors that a test with a thousand clients and their origin's sockets may take."""

_TELLS = """
import asyncio, ctypes, gc, os, signal

def _tell(*_):
    tasks = [each for each in gc.get_objects() if isinstance(each, asyncio.Task)]
    ctypes.CDLL(None).malloc_trim(0)
    with open(os.environ["TOLD"], "w") as told:
        told.write(f"{sum(not task.done() for task in tasks)}\\n")

signal.signal(signal.SIGUSR1, _tell)
"""


@contextmanager
def room_for_a_crowd() -> Iterator[None]:
    """Let this process have many descriptors, and one crowd at a time be on this machine.

    What the kernel has for all connections together (`tcp_mem`) is enough for the sockets of one
    crowd. Beyond it cuts connections, whoever they belong to. Processes that are started meanwhile
    inherit the limit of descriptors.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS, "ulimit -Hn is too low"
    # For each user: somebody else's file could not be opened.
    name = Path(tempfile.gettempdir(), f"tarstream-tests-{os.getuid()}.lock")
    with name.open("w") as lock:  # is free when it is closed, however this process ends
        fcntl.flock(lock, fcntl.LOCK_EX)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Held(NamedTuple):
    """What a process holds."""

    descriptors: int
    tasks: int
    """That are not done."""
    memory: int
    """Resident, in bytes, without what the C library keeps of what was freed."""


class Usage:
    """What a gateway's process has, seen from outside; run it with `environment(directory)`."""

    def __init__(self, gateway: Process, directory: Path) -> None:
        self._gateway = gateway
        self._told = directory / "told"

    @staticmethod
    def environment(directory: Path) -> Mapping[str, str]:
        """The environment of a Python that tells its tasks at SIGUSR1."""
        (directory / "sitecustomize.py").write_text(_TELLS)
        return {"PYTHONPATH": str(directory), "TOLD": str(directory / "told")}

    @property
    def descriptors(self) -> int:
        """Open file descriptors."""
        return sum(1 for _ in Path(f"/proc/{self._gateway.pid}/fd").iterdir())

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        pages = Path(f"/proc/{self._gateway.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    @property
    def processor(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self._gateway.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def archives(self) -> int:
        """Archives in flight, as the gateway counts them."""
        with urlopen(f"http://127.0.0.1:{self._gateway.port}/metrics", timeout=60) as answer:
            numbers = answer.read().decode()
        return int(
            float(re.search(r"^tarstream_archives_in_flight (\S+)$", numbers, re.MULTILINE)[1])
        )

    async def held(self) -> Held:
        """What it holds at this moment."""
        self._told.unlink(missing_ok=True)
        os.kill(self._gateway.pid, signal.SIGUSR1)
        told = await until(lambda: self._told.exists() and self._told.read_text())
        return Held(self.descriptors, int(told), self.memory)


@dataclass(eq=False)
class Client:
    """A client with one request, which reads when it is told to."""

    socket: socket.socket
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    received: int = 0  # bytes of the body
    first_byte: float = 0.0  # seconds after the request
    seconds: float = 0.0  # likewise, to the end
    sha256: str = ""

    @classmethod
    async def asking(
        cls,
        port: int,
        target: str,
        *,
        method: str = "GET",
        headers: str = "",
        receive_buffer: int | None = None,
    ) -> Self:
        """Connect and ask. `receive_buffer` is SO_RCVBUF, which Linux doubles."""
        client = cls(socket.socket())
        client.socket.setblocking(False)
        if receive_buffer:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            # As on Ethernet: what is on its way to it is as little there.
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        loop = asyncio.get_running_loop()
        client._asked = loop.time()
        try:
            await loop.sock_connect(client.socket, ("127.0.0.1", port))
            lines = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
            await loop.sock_sendall(client.socket, lines.encode())
        except BaseException:
            client.socket.close()
            raise
        return client

    @property
    def whole(self) -> bool:
        """Whether as much has come as was announced."""
        return self.received == int(self.headers["content-length"])

    @property
    def unread(self) -> int:
        """Bytes that wait in its socket."""
        return struct.unpack("i", fcntl.ioctl(self.socket, termios.FIONREAD, bytes(4)))[0]

    async def read_head(self) -> bytes:
        """Read status and headers; returns what has come of the body with them."""
        loop = asyncio.get_running_loop()
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = await loop.sock_recv(self.socket, 1 << 16)
            assert chunk, f"closed after {data!r}"
            if not data:
                self.first_byte = loop.time() - self._asked
            data += chunk
        head, _, rest = data.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        self.status = int(line.split(" ")[1])
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (each.partition(":") for each in fields)
        }
        return rest

    async def read_all(self, *, skip: int = 0, digest: int | None = None) -> Self:
        """Read the answer until the other side closes, and close as well.

        `sha256` is that of the first `digest` bytes of the body after `skip`, or of all of them.
        """
        loop = asyncio.get_running_loop()
        sha256 = hashlib.sha256()
        stop = None if digest is None else skip + digest

        def take(data: bytes | memoryview) -> None:
            begins = self.received
            self.received += len(data)
            sha256.update(
                data[max(skip - begins, 0) : None if stop is None else max(stop - begins, 0)]
            )

        room = bytearray(1 << 18)
        try:
            take(await self.read_head())
            while number := await loop.sock_recv_into(self.socket, room):
                take(memoryview(room)[:number])
        except ConnectionResetError:
            pass  # then it is not whole
        finally:
            self.socket.close()
        self.seconds = loop.time() - self._asked
        self.sha256 = sha256.hexdigest()
        return self

    async def read_body(self) -> bytes:
        """Read the answer until the other side closes, and close as well; its body."""
        loop = asyncio.get_running_loop()
        try:
            body = bytearray(await self.read_head())
            while chunk := await loop.sock_recv(self.socket, 1 << 18):
                body += chunk
        finally:
            self.socket.close()
        return bytes(body)

    def leave(self, how: str = "FIN") -> None:
        """Close with FIN or RST, or only our half."""
        if how == "half-close":
            self.socket.shutdown(socket.SHUT_WR)
            return
        if how == "RST":
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()


class Crowd:
    """Clients of one server; whoever has not left leaves at the end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._clients: list[Client] = []

    async def ask(self, target: str, **options: Any) -> Client:
        """See `Client.asking`."""
        client = await Client.asking(self._port, target, **options)
        self._clients.append(client)
        return client

    async def ask_all(self, targets: Iterable[str], **options: Any) -> list[Client]:
        """All of these at once."""
        return await asyncio.gather(*(self.ask(target, **options) for target in targets))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.leave()


def quantile(values: Iterable[float], share: float) -> float:
    """The value that this share of them does not exceed, more or less."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def measured(text: str) -> None:
    """What docs/operations.md has numbers of: `pytest -s` shows it."""
    print(f"\n{text}")  # noqa: T201


async def until(condition: Callable[[], object], seconds: float = 60, *, often: float = 0.02):
    """Wait until a condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        await asyncio.sleep(often)
    return found


_FILES = """
worker_processes 1;
worker_rlimit_nofile 8192;
error_log {directory}/error.log warn;
pid {directory}/nginx.pid;
events {{ worker_connections 8000; }}
http {{
    access_log {directory}/access.log;
    default_type application/octet-stream;
    sendfile on;
    sendfile_max_chunk 512k;
    keepalive_timeout 1;
    server {{
        # What the kernel has for all connections is limited (tcp_mem): beyond, it cuts some.
        listen 127.0.0.1:{port} backlog=4096 sndbuf=64k;
        location / {{ root {directory}/files; }}
        location = /stalls {{
            alias {directory}/files/big; limit_rate_after 1200k; limit_rate 16k;
        }}
        location = /status {{ access_log off; stub_status; }}
    }}
}}
"""


class Files:
    """An nginx that gives files: thousands of answers cost it next to nothing."""

    def __init__(self, directory: Path, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.directory = directory / "files"
        self._access = directory / "access.log"

    @property
    def connections(self) -> int:
        """Connections that are open to it."""
        with urlopen(self.root + "/status", timeout=10) as answer:
            return int(answer.readline().split(b":")[1]) - 1  # without the one that asks

    @property
    def requests(self) -> list[str]:
        """Its log: a line for each answer that has ended."""
        return self._access.read_text().splitlines()


@contextmanager
def files(directory: Path) -> Iterator[Files]:
    """Run an nginx that serves `files` below a directory."""
    (directory / "files").mkdir(parents=True)
    conf, output, pid = (directory / name for name in ("nginx.conf", "output", "nginx.pid"))
    with held_port() as port:
        conf.write_text(_FILES.format(directory=directory, port=port))
        with output.open("wb") as stderr:
            popen = subprocess.Popen(command(conf), stdout=stderr, stderr=stderr)
        try:
            deadline = time.monotonic() + 30
            while not pid.exists():  # written once it listens
                assert popen.poll() is None, output.read_text()
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.01)
            yield Files(directory, port)
        finally:
            popen.terminate()
            popen.wait(10)
