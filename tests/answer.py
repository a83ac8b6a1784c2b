"""What an honest origin says to a request (RFC 9110 13-14), as data that faults may change."""

from __future__ import annotations

import hashlib
import http.client
import math
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

from made import Made

if TYPE_CHECKING:  # they stand above this module
    from faults import Fault
    from origin import Connection

AUTO = "auto"  # no entity-tag looks like this: they have quotes
BEFORE_HEAD = -1  # where that happens which happens before the status line

Act: TypeAlias = "Callable[[Connection], Awaitable[None]]"


@dataclass(eq=False)
class Object:
    """What lies at a path. The entity-tag is that of the first content, whatever comes later."""

    content: bytes | Made
    etag: str | None = AUTO
    last_modified: float | None = 1_000_000_000  # old enough to count as strong
    content_type: str = "application/octet-stream"
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.etag != AUTO:
            return
        if isinstance(self.content, Made):
            self.etag = f'"made-{self.content.seed}-{self.size}"'
        else:
            self.etag = f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.content.size if isinstance(self.content, Made) else len(self.content)

    @property
    def modified(self) -> str | None:
        """Last-Modified as an HTTP-date (RFC 9110 5.6.7)."""
        return None if self.last_modified is None else formatdate(self.last_modified, usegmt=True)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop)."""
        content = self.content
        return content.read(start, stop) if isinstance(content, Made) else content[start:stop]


@dataclass(eq=False)
class Request:
    """A request as it came, and what became of it."""

    method: str
    target: str  # as it stood in the request line
    version: str
    headers: dict[str, str]  # names in lower case; of several lines one, with commas
    connection: int  # 0 for the first connection that the origin accepted, and so on
    opened: float = field(default_factory=time.monotonic)
    status: int | None = None  # None until the answer is chosen
    sent: int = 0  # bytes of content that the kernel has taken
    finished: bool = False  # the answer went out whole, as far as its faults let it

    @property
    def path(self) -> str:
        """The target without its query, decoded: the key into `Origin.objects`."""
        return unquote(self.target.partition("?")[0])


class Answer:
    """What is sent to one request. It begins honest; faults change it before it is sent."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.status = 0
        self.status_line: bytes | None = None
        self.headers: list[tuple[str, str]] = []
        self.resource: Object | None = None  # what lies at the path
        self.object: Object | None = None  # whose bytes these are; None for an error's text
        self.read: Callable[[int, int], bytes] = lambda _start, _stop: b""
        self.start = 0
        self.stop = 0
        self.chunked = False
        self.tail = b""  # sent after the content
        self.acts: list[tuple[int, Act]] = []  # what happens at which offset in the content
        options = request.headers.get("connection", "").lower()
        self.announced = True  # whether a close is
        self.close = "close" in options
        if request.version != "HTTP/1.1":
            self.close = "keep-alive" not in options

    @property
    def size(self) -> int:
        """Bytes of the object at the path."""
        return 0 if self.resource is None else self.resource.size

    def put(self, name: str, value: str) -> None:
        """Set a header, in place of those of that name."""
        self.drop(name)
        self.headers.append((name, value))

    def drop(self, *names: str) -> None:
        """Leave headers out; names in lower case count too."""
        gone = {name.lower() for name in names}
        self.headers = [header for header in self.headers if header[0].lower() not in gone]

    def get(self, name: str) -> str | None:
        """Return a header's value, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def carry(self, content: bytes) -> None:
        """Send these bytes in place of the object's; what was to happen within those does not."""
        self.object = None
        self.acts = [(place, act) for place, act in self.acts if place == BEFORE_HEAD]
        self.read = lambda start, stop: content[start:stop]
        self.start, self.stop = 0, len(content)
        self.put("Content-Length", str(len(content)))

    def refuse(self, status: int) -> None:
        """Answer with a status and a line of text."""
        self.status = status
        self.headers = [("Date", formatdate(usegmt=True)), ("Content-Type", "text/plain")]
        self.carry(f"{status} {http.client.responses.get(status, '')}\n".encode())
        if status in {204, 304}:
            self.stop = 0
            self.drop("Content-Length")

    def give(self, thing: Object, asked: dict[str, str]) -> None:
        """Answer as an honest origin does to these request headers (RFC 9110 13.2.2, 14.2)."""
        self.resource = thing
        status = _precondition(thing, asked)
        span = (0, thing.size)
        if status == 200 and self.request.method == "GET" and _range_stands(thing, asked):
            selected = _span(asked.get("range", ""), thing.size)
            if selected is not None:
                span, status = selected, 206 if selected[0] < selected[1] else 416
        if status in {412, 416}:
            self.refuse(status)
            if status == 416:
                self.put("Content-Range", f"bytes */{thing.size}")
            return
        self.object, self.read, self.status = thing, thing.read, status
        self.start, self.stop = span
        self.headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", thing.content_type),
            ("Accept-Ranges", "bytes"),
        ]
        if thing.etag is not None:
            self.put("ETag", thing.etag)
        if thing.modified is not None:
            self.put("Last-Modified", thing.modified)
        if status == 304:
            self.stop = self.start
            return
        self.put("Content-Length", str(self.stop - self.start))
        if status == 206:
            self.put("Content-Range", f"bytes {self.start}-{self.stop - 1}/{thing.size}")

    def head(self) -> bytes:
        """Return the status line and the headers as they go out."""
        phrase = http.client.responses.get(self.status, "")
        line = self.status_line or f"HTTP/1.1 {self.status} {phrase}".encode()
        headers = list(self.headers)
        if self.close and self.announced:
            headers.append(("Connection", "close"))
        elif not self.close and self.request.version != "HTTP/1.1":
            headers.append(("Connection", "keep-alive"))
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return line + b"\r\n" + fields.encode("latin-1") + b"\r\n"


def _precondition(thing: Object, asked: dict[str, str]) -> int:
    """Return 200, 304 or 412 (RFC 9110 13.2.2; weak and strong comparison: 8.8.3.2)."""
    tag, changed = thing.etag or "", _seconds(thing.modified)
    if "if-match" in asked:
        strong = tag in _tags(asked["if-match"]) and not tag.startswith("W/")
        if asked["if-match"] != "*" and not strong:
            return 412
    elif changed > _seconds(asked.get("if-unmodified-since"), unknown=math.inf):
        return 412
    if "if-none-match" in asked:
        weak = [other.removeprefix("W/") for other in _tags(asked["if-none-match"])]
        if asked["if-none-match"] == "*" or tag.removeprefix("W/") in weak:
            return 304
    elif changed <= _seconds(asked.get("if-modified-since"), unknown=-math.inf):
        return 304
    return 200


def _range_stands(thing: Object, asked: dict[str, str]) -> bool:
    """Tell whether If-Range lets the Range count (RFC 9110 13.1.5)."""
    condition = asked.get("if-range")
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return condition == thing.etag and not condition.startswith("W/")
    return condition == thing.modified


def _tags(value: str) -> list[str]:
    return re.findall(r'(?:W/)?"[^"]*"', value)


def _seconds(date: str | None, unknown: float = math.nan) -> float:
    try:
        return unknown if date is None else parsedate_to_datetime(date).timestamp()
    except ValueError:
        return unknown


def _span(value: str, size: int) -> tuple[int, int] | None:
    """Return [start, stop) of a single byte range, empty if unsatisfiable; None: no such range."""
    found = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", value.strip(), re.IGNORECASE)
    if found is None or value.strip().endswith("=-"):
        return None
    first, last = found.groups()
    if not first:
        return max(size - int(last), 0), size
    if last and int(last) < int(first):
        return None
    return min(int(first), size), min(int(last) + 1, size) if last else size
