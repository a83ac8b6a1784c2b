"""The plan of an archive as JSON: what is in it, where, and how to ask for exactly that."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from tarstream.archive import Archive
from tarstream.formats import KINDS
from tarstream.layout import STEP
from tarstream.stores.validators import is_entity_tag


def as_json(archive: Archive, format_: str, url: str | None) -> Iterator[bytes]:
    """One JSON object, in chunks of some hundred members."""
    resolution = archive.resolution
    kind = KINDS[format_]
    size = archive.size if kind.coding is None else None
    head = {"format": format_, "size": size, "etag": kind.etag(archive.etag), "url": url}
    yield _dump(head)[:-1] + b', "members": '
    yield from _array(_members(archive))
    yield b', "renamed": '
    yield from _array({"id": r.id, "from": r.from_, "to": r.to} for r in resolution.renamed)
    yield b', "missing": '
    yield from _array({"id": m.id, "reason": m.reason} for m in resolution.missing)
    yield b"}\n"


def line_headers(archive: Archive, format_: str, url: str | None) -> dict[str, str]:
    """What a plan of lines has no line for."""
    kind = KINDS[format_]
    headers = {
        "Content-Type": "application/x-ndjson",
        "X-Archive-Members": str(len(archive.layout.members)),
        "X-Accel-Buffering": "no",
    }
    if kind.coding is None:
        headers["X-Archive-Size"] = str(archive.size)
    if etag := kind.etag(archive.etag):
        headers["ETag"] = etag
    if url:
        headers["Link"] = f'<{url}>; rel="canonical"'
    return headers


def as_lines(archive: Archive) -> Iterator[bytes]:
    """One JSON object a line for each member, in chunks of some hundred lines."""
    for members in _batches(_members(archive)):
        yield b"".join(_dump(member) + b"\n" for member in members)


def _members(archive: Archive) -> Iterator[dict[str, Any]]:
    layout = archive.layout
    for index, member in enumerate(layout.members):
        yield {
            "id": member.id,
            "name": member.name,
            "size": member.size,
            "mtime": member.mtime,
            "offset": layout.content_start(index),
            "etag": member.validator if is_entity_tag(member.validator) else None,
        }


def _array(items: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    separator = b"["
    for batch in _batches(items):
        yield separator + b", ".join(map(_dump, batch))
        separator = b", "
    yield b"[]" if separator == b"[" else b"]"


def _batches(items: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    left = iter(items)
    while batch := list(islice(left, STEP)):
        yield batch


def _dump(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    if not text.isprintable():  # an id may move the cursor of a terminal: JSON escapes C0 only
        text = json.dumps(value)
    return text.encode()
