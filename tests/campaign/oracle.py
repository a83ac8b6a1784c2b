"""The right answer: a clean download, extracted and compared with the sources and with its plan.

GNU tar extracts it, compressed or not, or unzip does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from origin import Made, Object, Request

from campaign import tools
from campaign.canaries import BEARER
from campaign.cases import DIRECTORY, FILE, Case, path_of
from campaign.cells import HEAD
from campaign.download import LIMIT, unchunked
from campaign.forms import LISTING, UNPACK, unpacked
from campaign.judge import Archive


class Wrong(Exception):
    """Already the clean download is wrong, so nothing can be compared with it."""


async def clean(port: int, path: str, case: Case, objects: Sequence[Object], to: Path) -> Archive:
    """The archive as a gateway gives it while no fault is armed. Raises Wrong."""
    answer, plan = await asyncio.gather(
        get(port, path, fields=(BEARER,)),
        get(port, path.replace("/archive", "/plan", 1), fields=(BEARER,)),
    )
    status, headers, sent = answer
    length = headers.get("content-length", "none")
    if status != 200 or length != ("none" if case.form.compressed else str(len(sent))):
        raise Wrong(f"the clean download: status {status}, {len(sent)} bytes, {headers}")
    if case.form.compressed and headers.get("accept-ranges") != "none":
        raise Wrong(f"the clean download is compressed and says that it has ranges: {headers}")
    await _extract(case, sent, to)
    body = await asyncio.to_thread(_unpacked, case, sent)
    expected = await asyncio.to_thread(_expected, case, objects)
    if (found := await asyncio.to_thread(_extracted, to)) != expected:
        raise Wrong(f"promise 1: the clean download: {sorted(found)} are not {sorted(expected)}")
    contents = await asyncio.to_thread(_planned, case, plan, body, expected, headers)
    return Archive(body, headers.get("etag"), _headers(case, body), contents, len(sent))


async def _extract(case: Case, sent: bytes, to: Path) -> None:
    """Extract with what people use."""
    to.mkdir()
    if case.form.is_zip:
        file = to.with_suffix(".zip")
        file.write_bytes(sent)
        code, said = await tools.run("unzip", "-qq", file, "-d", to)
        file.unlink()
    else:
        options = UNPACK.get(case.form.format, ())
        code, said = await tools.run("tar", "-x", *options, given=sent, directory=to)
    if code != 0:
        raise Wrong(f"promise 1: the clean download: extracting it ends with {code}: {said!r}")


def _unpacked(case: Case, sent: bytes) -> bytes:
    if not case.form.compressed:
        return sent
    try:
        body, ended = unpacked(case.form.format, sent)
    except ValueError as error:
        raise Wrong(f"promise 1: the clean download: {error}") from error
    if not ended:
        raise Wrong("promise 1: the clean download: it has no end")
    return body


def _expected(case: Case, objects: Sequence[Object]) -> dict[str, str]:
    """The digest of what each file has to hold, in the order of the archive."""
    expected = {
        member.name: "" if member.source == DIRECTORY else sha256(thing.content)
        for member, thing in zip(case.members, objects, strict=True)
    }
    if case.form.checksums:
        listing = "".join(f"{digest}  {name}\n" for name, digest in expected.items() if digest)
        expected[LISTING] = sha256(listing.encode())
    return expected


def _planned(
    case: Case,
    plan: tuple[int, dict[str, str], bytes],
    body: bytes,
    expected: dict[str, str],
    headers: dict[str, str],
) -> list[int]:
    """Offsets of contents, where the plan says and they are. Raises Wrong."""
    status, _, text = plan
    told = json.loads(text)
    size = None if case.form.compressed else len(body)
    if (status, told["size"], told["etag"]) != (200, size, headers.get("etag")):
        raise Wrong(f"promise 1: the plan is of another archive: {status}, {text[:200]!r}")
    found = {
        each["name"]: sha256(body[each["offset"] : each["offset"] + each["size"]])
        if not each["name"].endswith("/")
        else ""
        for each in told["members"]
    }
    if list(found.items()) != list(expected.items()):
        raise Wrong(f"promise 1: the contents are not where the plan says: {text[:500]!r}")
    return [each["offset"] for each in told["members"]]


def _headers(case: Case, body: bytes) -> list[int]:
    """Offsets of headers, as a reader finds them. Raises Wrong."""
    if case.form.is_zip:
        try:
            with zipfile.ZipFile(BytesIO(body)) as archive:
                bad = archive.testzip()
                headers = [member.header_offset for member in archive.infolist()]
        except zipfile.BadZipFile as error:
            raise Wrong(f"promise 1: the clean download: {error}") from error
        if bad is not None:
            raise Wrong(f"promise 1: the clean download: Python finds {bad!r} damaged")
        return headers
    with tarfile.open(fileobj=BytesIO(body)) as archive:
        return [member.offset for member in archive.getmembers()]


async def get(
    port: int, path: str, method: str = "GET", fields: Sequence[str] = ()
) -> tuple[int, dict[str, str], bytes]:
    """An answer: status, headers with names in lower case, and the body, as far as they came."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        try:
            lines = (f"{method} {path} HTTP/1.1", "Host: gateway", "Connection: close", *fields)
            writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
            async with asyncio.timeout(LIMIT):
                while data := await reader.read(1 << 18):
                    received += data
        finally:
            writer.close()
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    if headers.get("transfer-encoding") == "chunked":
        body, ended = unchunked(body)
        body = body if ended else b""
    return int(line.split()[1]) if line else 0, headers, body


def sha256(content: Made | bytes) -> str:
    """The digest of content."""
    digest = hashlib.sha256()
    for piece in content.pieces() if isinstance(content, Made) else [content]:
        digest.update(piece)
    return digest.hexdigest()


def needed(case: Case, archive: Archive, begin: int) -> int:
    """Bytes of files that the archive from `begin` on holds, or follows from."""
    begin = 0 if case.whole_instead else begin
    passing = sum(
        max(start + member.size - max(start, begin), 0)
        for member, start in zip(case.members, archive.contents, strict=False)
        if member.source == FILE
    )
    return passing + sum(member.size for member in case.read_first)


def sent(case: Case, asked: Sequence[Request]) -> int:
    """Bytes of contents that origins sent, of what one could use.

    Counted is what an origin's kernel took, in answers to GET that are no errors. Of the answer
    that was struck only what stands before the struck byte: what follows it, or comes with a head
    that is no HTTP, is lost whatever a gateway does.
    """
    total = 0
    spared = case.cell.position == HEAD
    for request in asked:
        if request.method != "GET":
            continue
        usable = request.sent if request.status in {200, 206} else 0
        if request.path == path_of(case, case.struck) and not spared:
            spared = True
            found = re.match(r"bytes=([0-9]+)-", request.headers.get("range", ""))
            at = case.at if case.kind.inside else 0
            usable = min(usable, max(at - (int(found[1]) if found else 0), 0))
        total += usable
    return total


def _extracted(directory: Path) -> dict[str, str]:
    files = {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }
    empty = [path for path in directory.rglob("*") if path.is_dir() and not any(path.iterdir())]
    return files | {f"{path.relative_to(directory)}/": "" for path in empty}
