"""The right answer: a clean download, extracted by GNU tar and compared with the sources."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from origin import Made, Object, Request

from campaign import tools
from campaign.cases import Case, Member, path_of
from campaign.cells import HEAD
from campaign.download import LIMIT
from campaign.judge import Archive


class Wrong(Exception):
    """Already the clean download is wrong, so nothing can be compared with it."""


async def clean(port: int, path: str, case: Case, objects: Sequence[Object], to: Path) -> Archive:
    """The archive as a gateway gives it while no fault is armed. Raises Wrong."""
    status, headers, body = await get(port, path)
    if status != 200 or int(headers.get("content-length", -1)) != len(body):
        raise Wrong(f"the clean download: status {status}, {len(body)} bytes, {headers}")
    to.mkdir()
    code, said = await tools.run("tar", "-x", given=body, directory=to)
    if code != 0:
        raise Wrong(f"the clean download: tar exits {code}: {said!r}")
    expected = {
        member.name: sha256(_made(thing))
        for member, thing in zip(case.members, objects, strict=True)
    }
    if (found := _extracted(to)) != expected:
        raise Wrong(f"the clean download: {sorted(found)} are not {sorted(expected)}")
    with tarfile.open(fileobj=BytesIO(body)) as archive:
        members = archive.getmembers()
    return Archive(
        body,
        headers.get("etag"),
        [member.offset for member in members],
        [member.offset_data for member in members],
    )


async def get(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """An answer: status, headers with names in lower case, and the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        request = f"{method} {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        async with asyncio.timeout(LIMIT):
            received = await reader.read(-1)
    finally:
        writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    return int(line.split()[1]) if line else 0, headers, body


def sha256(content: Made) -> str:
    """The digest of made-up content."""
    digest = hashlib.sha256()
    for piece in content.pieces():
        digest.update(piece)
    return digest.hexdigest()


def needed(members: Sequence[Member], archive: Archive, begin: int) -> int:
    """Bytes of contents in the archive from `begin` on."""
    return sum(
        max(start + member.size - max(start, begin), 0)
        for member, start in zip(members, archive.contents, strict=True)
    )


def read_again(case: Case, asked: Sequence[Request]) -> int:
    """Bytes of contents that had come to the gateway, and were asked for again.

    What comes after the struck byte, or with a head that is none, is nothing that one could use.
    """
    again = 0
    came: dict[str, int] = {}
    struck = path_of(case, case.struck)
    for request in asked:
        if request.method != "GET" or request.status not in {200, 206}:
            continue
        found = re.match(r"bytes=([0-9]+)-", request.headers.get("range", ""))
        start = int(found[1]) if found else 0
        until = start + request.sent
        first = request.path == struck and struck not in came
        if first and case.cell.position != HEAD:
            until = min(until, case.at if case.kind.inside else 0)
        again += max(came.get(request.path, 0) - start, 0)
        came[request.path] = max(until, came.get(request.path, 0))
    return again


def _made(thing: Object) -> Made:
    assert isinstance(thing.content, Made)
    return thing.content


def _extracted(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }
