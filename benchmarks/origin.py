"""The origin of all measurements: nginx, and files on tmpfs; and the nginx that only passes on."""

import getpass
import hashlib
import os
import random
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Process, free_port, started

ROOT = Path(__file__).parent.parent

MTIME = 1_700_000_000

BLOCK = 1024 * 1024

CONF = """
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {http}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        {server}
    }}
}}
"""

PASSES_ON = "upstream origin {{ server 127.0.0.1:{origin}; keepalive 100; }}"

PASSING = """
        location / {
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_max_temp_file_size 0;
        }
"""
"""As deploy/nginx.conf: connections are used again; nothing is stored on disk."""


@dataclass(frozen=True)
class File:
    """A file of the origin; `path` is that of its URL."""

    path: str
    size: int
    crc32: str
    sha256: str

    @property
    def etag(self) -> str:
        """As nginx makes it of mtime and size."""
        return f'"{MTIME:x}-{self.size:x}"'


def made(root: Path, path: str, size: int, *, is_text: bool = False) -> File:
    """Write a file of random bytes, of which no two blocks are equal; of text: hex digits."""
    noise = random.Random(path).randbytes(min(size, BLOCK))  # nosec B311 # noqa: S311 - no secret
    if is_text:
        noise = noise.hex().encode()
    target = root / path
    target.parent.mkdir(exist_ok=True)
    crc32, sha256 = 0, hashlib.sha256()
    with target.open("wb") as file:
        for start in range(0, size, BLOCK):
            mark = b"%08x" % start if is_text else start.to_bytes(8)
            block = (mark + noise)[: min(BLOCK, size - start)]
            crc32 = zlib.crc32(block, crc32)
            sha256.update(block)
            file.write(block)
    os.utime(target, (MTIME, MTIME))
    return File(path, size, f"{crc32:08x}", sha256.hexdigest())


class Origin:
    """An origin that runs."""

    def __init__(self, directory: Path, root: Path, port: int, stack: ExitStack) -> None:
        self.root = root
        self._directory = directory
        self._ports = {0.0: port}
        self._stack = stack

    def port_at(self, latency: float) -> int:
        """Where it is `latency` seconds away; a process of its own delays it."""
        if latency not in self._ports:
            port = free_port()
            command = [sys.executable, "-m", "benchmarks.delay"]
            arguments = [str(port), str(self._ports[0]), str(latency)]
            output = self._directory / f"delay-{port}"
            process = started([*command, *arguments], output, {"PYTHONPATH": str(ROOT)})
            self._stack.enter_context(process).wait_for_port(port)
            self._ports[latency] = port
        return self._ports[latency]


@contextmanager
def origin(directory: Path) -> Iterator[Origin]:
    """Run it; its files go below `root`."""
    root = directory / "files"
    root.mkdir()
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(nginx(directory / "origin", port, f"root {root};"))
        yield Origin(directory, root, port, stack)


@contextmanager
def nginx(directory: Path, port: int, server: str, http: str = "") -> Iterator[Process]:
    """Run an nginx with one worker, and these lines of configuration."""
    directory.mkdir()
    command = configured(directory, port, server, http)
    with started(command, directory / "output") as process:
        process.wait_for_port(port)
        yield process


def configured(directory: Path, port: int, server: str, http: str = "") -> list[str]:
    """The command that runs it, with a configuration that this writes."""
    # As root its workers would be somebody who may not enter our directories.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    conf = directory / "nginx.conf"
    conf.write_text(
        CONF.format(directory=directory, port=port, user=user, server=server, http=http)
    )
    return ["nginx", "-c", str(conf), "-e", "stderr", "-g", "daemon off;"]


def passing_on(directory: Path, port: int, origin_port: int) -> list[str]:
    """The command of an nginx that is a proxy of the origin."""
    return configured(directory, port, PASSING, PASSES_ON.format(origin=origin_port))
