"""What a client is asked to do, and what it makes of it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

LIMIT = 60.0  # seconds for one answer; who is not told anything for so long hangs

STATUS = re.compile(rb"^HTTP/1\.[01] ([2-5][0-9][0-9])\b", re.MULTILINE)
LENGTH = re.compile(rb"^Content-Length: *([0-9]+)", re.MULTILINE | re.IGNORECASE)
CHUNKED = re.compile(rb"^Transfer-Encoding: *chunked", re.MULTILINE | re.IGNORECASE)
ETAG = re.compile(rb"^ETag: *(\S+)", re.MULTILINE | re.IGNORECASE)


@dataclass
class Target:
    """What is asked for, and how the client behaves."""

    client: str
    port: int
    path: str
    pinned: str  # the path that names one version
    headers: tuple[str, ...]  # that prove who asks, unless the path does
    etag: str | None
    begin: int | None  # for a Range
    size: int  # of the whole answer, about
    leaves: float  # the part of the body after which it leaves, if it does
    directory: Path

    def url(self, *, pinned: bool) -> str:
        """Where a tool goes."""
        return f"http://127.0.0.1:{self.port}{self.pinned if pinned else self.path}"


@dataclass
class Run:
    """One answer, as the client takes it."""

    outcome: str  # "whole", "short", "refused", "broken", "failed", "hangs", "left"
    status: int = 0
    length: int | None = None  # as Content-Length says
    got: int = 0  # bytes of the body
    etag: str | None = None
    body: bytes = b""  # of a refusal
    head: bytes = b""
    note: str = ""

    @classmethod
    def of_head(cls, head: bytes, got: int, note: str) -> Run:
        """An answer with the last of these heads, before anybody says how it ended."""
        status, length, etag = (field.findall(head) for field in (STATUS, LENGTH, ETAG))
        return cls(
            "broken",
            int(status[-1]) if status else 0,
            int(length[-1]) if length else None,
            got,
            etag[-1].decode("latin-1") if etag else None,
            note=note,
            head=head,
        )


@dataclass
class Download:
    """All that a client got."""

    runs: list[Run] = field(default_factory=list)
    received: bytes = b""
    begin: int = 0  # offset in the archive at which `received` begins

    @property
    def succeeded(self) -> bool:
        """Whether the client takes what it has for what it asked for."""
        return self.runs[-1].outcome == "whole"

    @property
    def outcome(self) -> str:
        """The first answer in the words of `expect`."""
        run = self.runs[0]
        names = {"whole": "healed", "short": "loud", "refused": f"refused {run.status}"}
        return names.get(run.outcome, run.outcome)


def unchunked(body: bytes) -> tuple[bytes, bool]:
    """What was sent in chunks, and whether the last one came (RFC 9112 7.1)."""
    data, place = bytearray(), 0
    while True:
        line, end, _ = body[place : place + 20].partition(b"\r\n")
        if not end:
            return bytes(data), False
        length = int(line, 16)
        if not length:
            return bytes(data), body[place:] == b"0\r\n\r\n"
        place += len(line) + 2
        data += body[place : place + length]
        place += length + 2


async def until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait for a condition; whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True
