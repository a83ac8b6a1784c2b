"""What can be wrong with an answer: each function makes a fault, to be held by objects or origins.

Faults change an answer in the order in which they stand: first those that change the request's
meaning (`ignores`, `becomes`), then those that replace the answer (`status`, `redirect`), then the
rest.
Every function also takes the fields of `Fault` that say which answers are struck.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, Unpack

from answer import BEFORE_HEAD, Act, Answer, Object

if TYPE_CHECKING:
    from origin import Connection


@dataclass(frozen=True, eq=False)
class Fault:
    """A change to an answer, or an act while it is sent; and which answers it strikes.

    `at` is an offset in the object, `after` one in the answer's content: only an answer whose
    content reaches that byte is struck; an act happens there. Of the answers that it could strike,
    `skip` are spared first, then `times` are struck (None: all), counted for each object that
    holds the fault, or for the origin as a whole where the origin holds it. A change counts when
    the answer is chosen, an act when its byte is reached.
    """

    name: str
    change: Callable[[Answer, int], None] | None = None
    act: Act | None = None
    before_head: bool = False  # when it acts
    at: int | None = None
    after: int | None = None
    skip: int = 0
    times: int | None = None
    methods: Collection[str] = ("GET", "HEAD")
    statuses: Collection[int] | None = None
    when: Callable[[Answer], bool] | None = None

    def position(self, answer: Answer) -> int | None:
        """Return the offset in the content at which this answer would be struck, or None."""
        if answer.request.method not in self.methods:
            return None
        if self.statuses is not None and answer.status not in self.statuses:
            return None
        if self.when is not None and not self.when(answer):
            return None
        if self.at is not None:
            at_end = answer.object is not None and self.at == answer.stop == answer.object.size
            reached = answer.start <= self.at < answer.stop or at_end
            return self.at if answer.object and reached else None
        position = answer.start + (self.after or 0)
        return position if position <= answer.stop else None


class Which(TypedDict, total=False):
    """Which answers a fault strikes: fields of `Fault`."""

    at: int | None
    after: int | None
    skip: int
    times: int | None
    methods: Collection[str]
    statuses: Collection[int] | None
    when: Callable[[Answer], bool] | None


def late(seconds: float | None = None, **which: Unpack[Which]) -> Fault:
    """Say nothing for so long, or until released."""
    return Fault("late", act=lambda it: it.pause(seconds), before_head=True, **which)


def hang_up(*, rst: bool = False, **which: Unpack[Which]) -> Fault:
    """Close in place of an answer."""
    return Fault(
        "hang_up", act=lambda it: it.reset() if rst else it.finish(), before_head=True, **which
    )


def informational(count: float = math.inf, **which: Unpack[Which]) -> Fault:
    """Send so many 103 before the answer; by default the answer never comes."""

    async def flood(connection: Connection) -> None:
        sent = 0
        while sent < count:
            await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            sent += 1

    return Fault("informational", act=flood, before_head=True, **which)


def torn_head(length: int, **which: Unpack[Which]) -> Fault:
    """Close after so many bytes of the head."""

    def change(answer: Answer, _: int) -> None:
        async def tear(connection: Connection) -> None:
            await connection.send(answer.head()[:length])
            await connection.finish()

        answer.acts.append((BEFORE_HEAD, tear))

    return Fault("torn_head", change, **which)


def fin(**which: Unpack[Which]) -> Fault:
    """Close with FIN; every byte before it arrives."""
    return _in_content("fin", lambda it: it.finish(), which)


def rst(**which: Unpack[Which]) -> Fault:
    """Close with RST, once the client's kernel has every byte before it."""
    return _in_content("rst", lambda it: it.reset(), which)


def stall(seconds: float | None = None, **which: Unpack[Which]) -> Fault:
    """Send nothing for so long, or until released; then go on."""
    return _in_content("stall", lambda it: it.pause(seconds), which)


def drip(interval: float, size: int = 1, **which: Unpack[Which]) -> Fault:
    """Go on with `size` bytes at a time, and `interval` seconds after each."""

    async def slow_down(connection: Connection) -> None:
        connection.pace = (size, interval)

    return _in_content("drip", slow_down, which)


def corrupt(**which: Unpack[Which]) -> Fault:
    """Send one wrong byte."""
    which.setdefault("methods", ("GET",))

    def change(answer: Answer, position: int) -> None:
        read = answer.read

        def misread(start: int, stop: int) -> bytes:
            piece = bytearray(read(start, stop))
            if start <= position < stop:
                piece[position - start] ^= 0xFF
            return bytes(piece)

        answer.read = misread

    return Fault("corrupt", change, **which)


def becomes(other: Object, **which: Unpack[Which]) -> Fault:
    """Answer from another object, as if it had replaced the first; `skip` says from when on."""
    return Fault("becomes", lambda answer, _: answer.give(other, answer.request.headers), **which)


def ignores(*names: str, **which: Unpack[Which]) -> Fault:
    """Answer as if the request did not have these headers (Range, If-Match, ...)."""
    ignored = {name.lower() for name in names}

    def change(answer: Answer, _: int) -> None:
        asked = {key: text for key, text in answer.request.headers.items() if key not in ignored}
        if answer.resource is not None:
            answer.give(answer.resource, asked)

    which.setdefault("when", lambda answer: not ignored.isdisjoint(answer.request.headers))
    return Fault("ignores", change, **which)


def status(code: int, *, retry_after: str | None = None, **which: Unpack[Which]) -> Fault:
    """Answer with an error's text; `retry_after` is seconds or an HTTP-date."""

    def change(answer: Answer, _: int) -> None:
        answer.refuse(code)
        if retry_after is not None:
            answer.put("Retry-After", retry_after)

    return Fault("status", change, **which)


def redirect(location: str, code: int = 302, **which: Unpack[Which]) -> Fault:
    """Send the client elsewhere."""

    def change(answer: Answer, _: int) -> None:
        answer.refuse(code)
        answer.put("Location", location)

    return Fault("redirect", change, **which)


def unsatisfiable(**which: Unpack[Which]) -> Fault:
    """Answer 416 where 206 is right."""

    def change(answer: Answer, _: int) -> None:
        size = answer.size
        answer.refuse(416)
        answer.put("Content-Range", f"bytes */{size}")

    return _of_206("unsatisfiable", change, which)


def multipart(**which: Unpack[Which]) -> Fault:
    """Answer a single range as multipart/byteranges."""

    def change(answer: Answer, _: int) -> None:
        head = f"Content-Type: text/plain\r\nContent-Range: {answer.get('Content-Range')}"
        content = answer.read(answer.start, answer.stop)
        answer.carry(b"--part\r\n%b\r\n\r\n%b\r\n--part--\r\n" % (head.encode(), content))
        answer.put("Content-Type", "multipart/byteranges; boundary=part")
        answer.drop("Content-Range")

    return _of_206("multipart", change, which)


def coded(**which: Unpack[Which]) -> Fault:
    """Send the content with gzip, whatever the client accepts. For small objects."""

    def change(answer: Answer, _: int) -> None:
        answer.carry(gzip.compress(answer.read(answer.start, answer.stop), mtime=0))
        answer.put("Content-Encoding", "gzip")

    return Fault("coded", change, **which)


def puts(name: str, value: str, **which: Unpack[Which]) -> Fault:
    """Send this header, in place of those of that name."""
    return Fault("puts", lambda answer, _: answer.put(name, value), **which)


def adds(name: str, value: str, **which: Unpack[Which]) -> Fault:
    """Send this header too, even if there is one of that name."""
    return Fault("adds", lambda answer, _: answer.headers.append((name, value)), **which)


def without(*names: str, **which: Unpack[Which]) -> Fault:
    """Leave headers out."""
    return Fault("without", lambda answer, _: answer.drop(*names), **which)


def weak_etag(**which: Unpack[Which]) -> Fault:
    """Call the entity-tag weak."""

    def change(answer: Answer, _: int) -> None:
        tag = answer.get("ETag")
        if tag is not None and not tag.startswith("W/"):
            answer.put("ETag", "W/" + tag)

    return Fault("weak_etag", change, **which)


def padded(length: int = 100_000, lines: int = 1, **which: Unpack[Which]) -> Fault:
    """Send so many bytes of headers too many, in one line or several."""

    def change(answer: Answer, _: int) -> None:
        for line in range(lines):
            answer.put(f"X-Padding-{line}", "x" * (length // lines))

    return Fault("padded", change, **which)


def garbled(line: bytes = b"\x00\x80 nonsense", **which: Unpack[Which]) -> Fault:
    """Send something else for a status line."""

    def change(answer: Answer, _: int) -> None:
        answer.status_line = line

    return Fault("garbled", change, **which)


def misranged(
    *, first: int = 0, last: int = 0, total: int | None = 0, **which: Unpack[Which]
) -> Fault:
    """Say a Content-Range that is off by so much, over the right bytes; total None: `*`."""

    def change(answer: Answer, _: int) -> None:
        size = "*" if total is None else answer.size + total
        span = f"{answer.start + first}-{answer.stop - 1 + last}"
        answer.put("Content-Range", f"bytes {span}/{size}")

    return _of_206("misranged", change, which)


def shifted(by: int, **which: Unpack[Which]) -> Fault:
    """Answer another range than the one asked for, and say so."""

    def change(answer: Answer, _: int) -> None:
        start, stop = max(answer.start + by, 0), min(answer.stop + by, answer.size)
        answer.start, answer.stop = start, stop
        answer.put("Content-Length", str(stop - start))
        answer.put("Content-Range", f"bytes {start}-{stop - 1}/{answer.size}")

    return _of_206("shifted", change, which)


def chunked(*, last: bool = True, **which: Unpack[Which]) -> Fault:
    """Send chunks and no Content-Length; without the last chunk, close where it should come."""

    def change(answer: Answer, _: int) -> None:
        _chunk(answer)
        if not last:
            answer.tail, answer.close, answer.announced = b"", True, False

    return Fault("chunked", change, **which)


def broken_chunk(line: bytes = b"zz\r\n", **which: Unpack[Which]) -> Fault:
    """Send chunks, and within the content a line that is none."""
    which.setdefault("methods", ("GET",))

    def change(answer: Answer, position: int) -> None:
        _chunk(answer)
        answer.acts.append((position, lambda it: it.send(line)))

    return Fault("broken_chunk", change, **which)


def close_delimited(**which: Unpack[Which]) -> Fault:
    """Send no Content-Length, and let the close end the content."""

    def change(answer: Answer, _: int) -> None:
        answer.drop("Content-Length")
        answer.close = True

    return Fault("close_delimited", change, **which)


def length(by: int, **which: Unpack[Which]) -> Fault:
    """Say a Content-Length that is off by so much; close where too much was said."""

    def change(answer: Answer, _: int) -> None:
        answer.put("Content-Length", str(answer.stop - answer.start + by))
        if by > 0:
            answer.close, answer.announced = True, False

    return Fault("length", change, **which)


def extra(data: bytes = b"more than was said", **which: Unpack[Which]) -> Fault:
    """Send more after the answer."""
    which.setdefault("methods", ("GET",))

    def change(answer: Answer, _: int) -> None:
        answer.tail += data

    return Fault("extra", change, **which)


def closes(**which: Unpack[Which]) -> Fault:
    """Close after the answer without having said so: the next request meets a closed connection."""

    def change(answer: Answer, _: int) -> None:
        answer.close, answer.announced = True, False

    return Fault("closes", change, **which)


def _in_content(name: str, act: Act, which: Which) -> Fault:
    which.setdefault("methods", ("GET",))
    return Fault(name, act=act, **which)


def _of_206(name: str, change: Callable[[Answer, int], None], which: Which) -> Fault:
    which.setdefault("statuses", (206,))
    return Fault(name, change, **which)


def _chunk(answer: Answer) -> None:
    answer.drop("Content-Length")
    answer.put("Transfer-Encoding", "chunked")
    answer.chunked, answer.tail = True, b"0\r\n\r\n"
