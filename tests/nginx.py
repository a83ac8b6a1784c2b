"""A real nginx on loopback: a configuration as it stands, but for the paths and ports of a test."""

import getpass
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway import ROOT, archive_path

RECOMMENDED = (ROOT / "deploy" / "nginx.conf").read_text()

STOCK = """
error_log /var/log/nginx/error.log warn;
pid /run/nginx.pid;
events {}
http {
    access_log /var/log/nginx/access.log;
    server {
        listen 80;
        location / {
            proxy_pass http://127.0.0.1:8080;
        }
    }
}
"""
"""What nginx does when it is told nothing: buffering, 60 seconds; before 1.29.7, HTTP/1.0."""

HTTP_1_0 = STOCK.replace("proxy_pass", "proxy_http_version 1.0; proxy_pass")
"""What it did before 1.29.7, whichever it is."""

BUFFERING = STOCK.replace("proxy_pass", "proxy_ignore_headers X-Accel-Buffering; proxy_pass")
"""What it would do if the gateway did not ask it not to buffer."""

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx:
    """An nginx that runs."""

    def __init__(self, directory: Path, port: int, pid: int) -> None:
        self.port = port
        self._directory = directory
        self._pid = pid

    @property
    def root(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, ids: Iterable[str] = (), route: str = "/archive", **parameters: str) -> str:
        """The URL that asks for `ids` through it."""
        return self.root + archive_path(ids, route, **parameters)

    @property
    def errors(self) -> str:
        """What it has logged of level `warn` and above."""
        return (self._directory / "error.log").read_text()

    @property
    def access(self) -> str:
        """The requests that it has logged."""
        return (self._directory / "access.log").read_text()

    def forget(self) -> None:
        """Have new workers only: for 10 seconds they remember which gateways did not answer."""
        before = self._workers()
        os.kill(self._pid, signal.SIGHUP)
        deadline = time.monotonic() + 30
        while not before.isdisjoint(self._workers()):
            assert time.monotonic() < deadline, "nginx keeps its workers"
            time.sleep(0.01)

    def _workers(self) -> set[str]:
        return set(Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split())

    @property
    def stored(self) -> bool:
        """Whether it ever stored a part of an answer on disk.

        Its temporary files have no name any more, but the directories made for them stay.
        """
        return any((self._directory / "proxy").iterdir()) or "response is buffered" in self.errors


def substituted(conf: str, directory: Path, port: int, *gateways: int) -> str:
    """The configuration with our paths, our port, and gateways on these ports."""
    server = r"(?:server|proxy_pass) \S*127\.0\.0\.1:8080;"
    for pattern in (r"\blisten 80;", server, "/run/nginx.pid"):
        assert len(re.findall(pattern, conf)) == 1, f"{pattern} must stand there once"
    line = re.search(server, conf)[0]
    ours = " ".join(line.replace(":8080", f":{gateway}") for gateway in gateways)
    temporary = "".join(f" {kind}_temp_path {directory / kind} 1;" for kind in _TEMPORARY)
    return (
        conf.replace("listen 80;", f"listen 127.0.0.1:{port};")
        .replace(line, ours)
        .replace("/run/nginx.pid", str(directory / "nginx.pid"))
        .replace("/var/log/nginx", str(directory))
        .replace("http {", "http {" + temporary, 1)
    )


def command(conf: Path, *options: str) -> list[str]:
    """The command line that runs a configuration in the foreground."""
    # As root its workers would be somebody who may not enter our directories.
    user = f" user {getpass.getuser()};" if os.geteuid() == 0 else ""
    return ["nginx", "-c", str(conf), "-e", "stderr", "-g", f"daemon off;{user}", *options]


@contextmanager
def nginx(directory: Path, conf: str, *gateways: int) -> Iterator[Nginx]:
    """Run nginx with a configuration in front of gateways on these ports."""
    directory.mkdir()
    path, output, pid = (directory / name for name in ("nginx.conf", "output", "nginx.pid"))
    with held_port() as port:
        path.write_text(substituted(conf, directory, port, *gateways))
        with output.open("wb") as stderr:
            popen = subprocess.Popen(command(path), stdout=stderr, stderr=stderr)
        try:
            deadline = time.monotonic() + 30
            while not pid.exists():  # written once it listens
                if popen.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"nginx did not start:\n{output.read_text()}")
                time.sleep(0.01)
            yield Nginx(directory, port, popen.pid)
        finally:
            popen.terminate()
            popen.wait(10)


@contextmanager
def held_port() -> Iterator[int]:
    """A port of loopback that only a server which asks for this very one can have."""
    with socket.socket() as holder:
        # Bound, but not listening: with SO_REUSEADDR on both, another may listen.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
