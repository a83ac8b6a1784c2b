"""The plan of an archive as JSON: what is in it, where, and how to ask for exactly that."""

import json
from collections.abc import Iterator
from typing import Any

from tarstream.archive import Archive
from tarstream.layout import STEP
from tarstream.stores.validators import is_entity_tag


def as_json(archive: Archive, format_: str, url: str | None) -> Iterator[bytes]:
    """One JSON object, in chunks of some hundred members."""
    resolution = archive.resolution
    head = {"format": format_, "size": archive.size, "etag": archive.etag, "url": url}
    tail = {
        "renamed": [{"id": r.id, "from": r.from_, "to": r.to} for r in resolution.renamed],
        "missing": [{"id": m.id, "reason": m.reason} for m in resolution.missing],
    }
    yield _dump(head)[:-1] + b', "members": ['
    separator = b""
    for members in _members(archive):
        yield separator + b", ".join(map(_dump, members))
        separator = b", "
    yield b"], " + _dump(tail)[1:] + b"\n"


def as_lines(archive: Archive) -> Iterator[bytes]:
    """One JSON object a line for each member, in chunks of some hundred lines."""
    for members in _members(archive):
        yield b"".join(_dump(member) + b"\n" for member in members)


def _members(archive: Archive) -> Iterator[list[dict[str, Any]]]:
    layout = archive.layout
    for first in range(0, len(layout.members), STEP):
        yield [
            {
                "id": member.id,
                "name": member.name,
                "size": member.size,
                "mtime": member.mtime,
                "offset": layout.content_start(index),
                "etag": member.validator if is_entity_tag(member.validator) else None,
            }
            for index, member in enumerate(layout.members[first : first + STEP], first)
        ]


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
