"""The gateway as tests run it: in this process, or as the process that operators run."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from tarstream.app import Gateway, runner_of
from tarstream.catalogs import CATALOGS
from tarstream.config import Settings

ROOT = Path(__file__).parent.parent


def archive_path(ids: Iterable[str], route: str = "/archive", **parameters: str) -> str:
    """Path and query that ask for `ids`."""
    query = "&".join(f"id={quote(id_, safe='/')}" for id_ in ids)
    return f"{route}?{query}" + "".join(f"&{k}={quote(v)}" for k, v in parameters.items())


def write_catalog(path: Path, entries: Iterable[Mapping[str, Any]]) -> Path:
    """A catalog file of these entries."""
    with path.open("w") as lines:
        lines.writelines(json.dumps(entry) + "\n" for entry in entries)
    return path


class Running:
    """A gateway that runs in this process."""

    def __init__(self, gateway: Gateway, runner: web.AppRunner) -> None:
        self.gateway = gateway
        self.runner = runner
        self.port: int = runner.addresses[0][1]

    def url(self, ids: Iterable[str] = (), route: str = "/archive", **parameters: str) -> str:
        """The URL that asks for `ids`."""
        return f"http://127.0.0.1:{self.port}" + archive_path(ids, route, **parameters)


@asynccontextmanager
async def running(catalog: Mapping[str, Any], allow: Sequence[str], **sections: Any):
    """Run a gateway here. `sections` are `upstream`, `limits`, `server` as dicts."""
    upstream = {"allow": tuple(allow)} | sections.pop("upstream", {})
    settings = Settings(catalog=catalog, upstream=upstream, **sections)
    kind = CATALOGS[settings.catalog.kind]
    gateway = Gateway(settings, kind.catalog(settings.catalog))
    runner = runner_of(gateway)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Running(gateway, runner)
    finally:
        await gateway.cut()
        await runner.cleanup()


class Process:
    """`server.py` as a process of its own."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self.pid = popen.pid
        self._log = log
        found = self.wait_for_log(r"listening host=\S+ port=(\d+)")
        self.port = int(found[1])

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace")

    def url(self, ids: Iterable[str] = (), route: str = "/archive", **parameters: str) -> str:
        """The URL that asks for `ids`."""
        return f"http://127.0.0.1:{self.port}" + archive_path(ids, route, **parameters)

    def wait_for_log(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Wait until its log holds a pattern."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.log)):
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no {pattern!r} in the log:\n{self.log}")
            time.sleep(0.01)
        return found

    def peak_memory(self) -> int:
        """The most resident memory it ever had, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def forget_peak_memory(self) -> None:
        """Let `peak_memory` count from here on (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal and wait; the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.popen.wait(seconds)


@contextmanager
def process(
    directory: Path,
    config: str,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
):
    """Run `server.py --config` with this TOML on a free port."""
    path = directory / f"config-{time.monotonic_ns()}.toml"
    path.write_text(config)
    log = path.with_suffix(".log")
    with log.open("wb") as stderr:
        popen = subprocess.Popen(
            [python, str(ROOT / "server.py"), "--config", str(path), "--port", "0"],
            stderr=stderr,
            stdout=stderr,
            env={**os.environ, **(environment or {})},
            cwd=directory,
        )
    try:
        yield Process(popen, log)
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait()


async def raw(port: int, request: bytes, seconds: float = 10) -> bytes:
    """Send bytes on a socket of its own; all that comes back until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(seconds):
            return await reader.read(-1)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
