"""Programs that download, as their users call them, and what their exit status means."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from campaign.cases import ARIA2C, CURL, CURL_LOOP, WGET
from campaign.download import LIMIT, Run, Target

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


async def run(
    *command: str | Path,
    given: bytes | None = None,
    directory: Path | None = None,
    output: int = asyncio.subprocess.PIPE,
) -> tuple[int | None, bytes]:
    """Run a program; its exit status, None when it hangs, and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        env=ENVIRONMENT,
        cwd=directory,
    )
    try:
        async with asyncio.timeout(LIMIT):
            wrote, _ = await process.communicate(given)
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            return None, b""
        raise
    return process.returncode, wrote or b""


async def _curl(target: Target, path: Path, *options: str, pinned: bool = False) -> Run:
    head = target.directory / "head"
    head.unlink(missing_ok=True)
    before = _size(path)
    url = target.url(pinned=pinned)
    options += tuple(f"-H{header}" for header in target.headers)
    code, wrote = await run("curl", "-q", "-sS", "-g", *options, "-D", head, "-o", path, url)
    return _judged(code, head.read_bytes() if head.exists() else b"", path, before, wrote)


async def _curl_loop(target: Target, path: Path) -> Run:
    return await _curl(target, path, "-f", "-C", "-", pinned=True)


async def _wget(target: Target, path: Path) -> Run:
    before = _size(path)
    url = target.url(pinned=True)
    code, wrote = await run(
        "wget", "--no-config", "-c", "-nv", "-S", "--tries=1", *_headers(target), "-O", path, url
    )  # fmt: skip
    # It indents the answer's head.
    return _judged(code, re.sub(rb"(?m)^ +", b"", wrote), path, before, wrote)


async def _aria2c(target: Target, path: Path) -> Run:
    before = _size(path)
    code, wrote = await run(
        "aria2c", "--no-conf", "-c", "-q", "-x4", "-s4", "-k1M", "--max-tries=1",
        "--file-allocation=none", "--auto-file-renaming=false", "--allow-overwrite=true",
        *_headers(target), "-d", target.directory, "-o", path.name, target.url(pinned=True),
    )  # fmt: skip
    outcomes: Mapping[int | None, str] = {0: "whole", None: "hangs"}
    return Run(outcomes.get(code, "failed"), got=_size(path) - before, note=_note(code, wrote))


TOOLS: Mapping[str, Callable[[Target, Path], Awaitable[Run]]] = {
    CURL: _curl,
    CURL_LOOP: _curl_loop,
    WGET: _wget,
    ARIA2C: _aria2c,
}


def _judged(code: int | None, head: bytes, path: Path, before: int, wrote: bytes) -> Run:
    """What a tool's exit status and the answer's head say together."""
    result = Run.of_head(head, _size(path) - before, _note(code, wrote))
    if code is None:
        result.outcome = "hangs"
    elif result.status >= 400:
        result.outcome = "refused"
        if code == 0:  # it was not told to fail then, and keeps what it got
            result.body, result.got = path.read_bytes(), 0
    elif result.status in {200, 206}:
        result.outcome = "whole" if code == 0 else "short"
    return result


def _headers(target: Target) -> list[str]:
    return [f"--header={header}" for header in target.headers]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note(code: int | None, wrote: bytes) -> str:
    return f"exit {code} {' '.join(wrote.decode(errors='replace').split())[-200:]}"
