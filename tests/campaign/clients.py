"""Clients: one that resumes is run again until it succeeds, a few times at most."""

from __future__ import annotations

from campaign import sockets
from campaign.cases import IF_RANGE, RESUMING
from campaign.download import Download, Target
from campaign.tools import TOOLS

RUNS = 2  # of a client that resumes


async def download(target: Target) -> Download:
    """Let the client download, until it succeeds or gives up."""
    if target.client in TOOLS:
        return await _by_tool(target)
    return await _by_socket(target)


async def _by_tool(target: Target) -> Download:
    result = Download()
    path = target.directory / "received"
    for _ in range(RUNS if target.client in RESUMING else 1):
        result.runs.append(await TOOLS[target.client](target, path))
        if result.succeeded:
            break
    if path.exists() and not result.runs[-1].body:
        result.received = path.read_bytes()
    return result


async def _by_socket(target: Target) -> Download:
    result = Download(begin=target.begin or 0)
    received = bytearray()
    offset, etag = target.begin, target.etag
    for _ in range(RUNS if target.client == IF_RANGE else 1):
        run, body, part = await sockets.ask(target, offset, etag)
        result.runs.append(run)
        if run.status in {200, 206}:
            if not part:
                result.begin = 0
                received.clear()
            received += body
            etag = run.etag or etag
            offset = result.begin + len(received) or None
        if result.succeeded:
            break
    result.received = bytes(received)
    return result
