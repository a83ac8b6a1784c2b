"""What can go wrong, where, and what the contract says then: one row for each kind of fault.

A cell is a kind at a position, once or for good. What follows depends on more than the cell (has
the answer begun?), so a row holds a verdict, and `expect` makes outcomes of it.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Mapping
from signal import SIGKILL, SIGSTOP, SIGTERM
from typing import NamedTuple

import faults
from answer import Answer
from faults import Fault
from origin import Connection

from campaign.cells import (
    BROKEN_OFF,
    CONTRADICTED,
    FIRST,
    HEAD,
    HEALED,
    LARGEST,
    LAST,
    MIDDLE,
    MISPLANNED,
    PART,
    REPAIR,
    REPLACED,
    UNPINNED,
    Kind,
    Struck,
    fails,
)

ANSWERS = (HEAD, FIRST, REPAIR)  # where an answer's head can be wrong
CONTENTS = (FIRST, MIDDLE, LAST, REPAIR)  # where its content can
BODIES = (FIRST, REPAIR)  # where the way in which it is sent can
PARTS = (PART, REPAIR)  # where an answer to Range can
BEFALLEN = (MIDDLE, REPAIR)  # where the gateway is at work, and its origin hesitates

ANY = ("tag", "date", "weak", "none")
TAG = ("tag",)

REFUSED = {"lasting": fails(502)}  # tries come to an end
GIVEN_UP = {"once": fails(502), "lasting": fails(502)}  # no try would help
FORBIDDEN = {"once": fails(403), "lasting": fails(403)}
LOUD = {"once": fails(0), "lasting": fails(0)}  # found out after the first byte, always
HARMLESS = {"lasting": HEALED}
PASSING = {"passes": True, "validators": ANY}
OF_A_PART = {"partial": True, "smallest": 2}

Make = Callable[[Struck], list[Fault]]


def answers(fault: Callable[..., Fault], *how: object, **more: object) -> Make:
    """A fault of the answers that are struck."""
    return lambda it: [fault(*how, **more, **it.which)]


def bytes_of(fault: Callable[..., Fault], *how: object, **more: object) -> Make:
    """A fault at the byte that is struck."""
    return lambda it: [fault(*how, at=it.at, **more, **it.which)]


def both(*makes: Make) -> Make:
    """Several faults of the same answers."""
    return lambda it: [fault for make in makes for fault in make(it)]


_103 = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def _hints(**which) -> Fault:
    """500 times 103 at once, and then the answer."""
    return Fault("hints", act=lambda it: it.send(500 * _103), before_head=True, **which)


def _flood(**which) -> Fault:
    """103 after 103, each in time."""

    async def flood(connection: Connection) -> None:
        while True:
            await connection.send(_103)
            await asyncio.sleep(0.05)

    return Fault("flood", act=flood, before_head=True, **which)


def _unasked_part(**which) -> Fault:
    def change(answer: Answer, _: int) -> None:
        answer.status = 206
        answer.put("Content-Range", f"bytes {answer.start}-{answer.stop - 1}/{answer.size}")

    return Fault("unasked_part", change, **which)


def _coded_alike(**which) -> Fault:
    """Coded, and as long as it should be: nothing but Content-Encoding tells."""

    def change(answer: Answer, _: int) -> None:
        length = answer.stop - answer.start
        coded = gzip.compress(answer.read(answer.start, answer.stop), mtime=0)
        answer.carry(coded[:length].ljust(length, b"\0"))
        answer.put("Content-Encoding", "gzip")

    return Fault("coded_alike", change, **which)


def _drip(it: Struck) -> list[Fault]:
    """The rest in eight drops, or in as few as make four times `min_rate`."""
    left = it.object.size - it.at
    return [faults.drip(0.25, size=max(left // 8, 1024), at=it.at, **it.which)]


def _hesitates(it: Struck) -> list[Fault]:
    """Send nothing until the gateway has got its signal."""

    async def wait(connection: Connection) -> None:
        await it.befallen.wait()

    return [Fault("hesitates", act=wait, at=it.at, **it.which)]


def _longer(it: Struck) -> list[Fault]:
    return [faults.becomes(it.longer(), **it.which)]


def _replaced(it: Struck) -> list[Fault]:
    assert it.other is not None
    return [faults.becomes(it.other, when=it.from_then_on)]


def _heedless(it: Struck) -> list[Fault]:
    """Conditions are ignored, so that only the answer's own validator tells."""
    names = ("If-Match", "If-Unmodified-Since", "If-Range")
    return [faults.ignores(*names, when=it.from_then_on)]


def _redirect_to(where: str) -> Make:
    return lambda it: [faults.redirect(getattr(it, where), **it.which)]


_CONNECTIONS = (
    Kind("refused", ANSWERS, _redirect_to("dead"), **REFUSED, **PASSING),
    Kind("hangs up", ANSWERS, answers(faults.hang_up), **REFUSED, **PASSING),
    Kind("hangs up, RST", ANSWERS, answers(faults.hang_up, rst=True), **REFUSED, passes=True),
    Kind("closes unannounced", ANSWERS, answers(faults.closes), **HARMLESS),
    Kind("stalls before headers", ANSWERS, answers(faults.late), lasting=fails(504), **PASSING),
)

_HEADS = (
    Kind("nothing", (FIRST,), answers(faults.puts, "X-Nothing", "1")),
    Kind("torn head", ANSWERS, answers(faults.torn_head, 30), **REFUSED, passes=True),
    Kind("garbage", ANSWERS, answers(faults.garbled), **REFUSED, **PASSING),
    Kind("a huge header", ANSWERS, answers(faults.padded), **REFUSED, passes=True),
    Kind("500 times 1xx", ANSWERS, answers(_hints), **HARMLESS),
    # It outlasts all patience, so that no time is left for another try.
    Kind("1xx for ever", ANSWERS, answers(_flood), once=fails(504), lasting=fails(504)),
)

_STATUSES = (
    Kind("500", ANSWERS, answers(faults.status, 500), **REFUSED, passes=True),
    Kind("503", ANSWERS, answers(faults.status, 503), **REFUSED, **PASSING),
    Kind("429, 1 s", ANSWERS, answers(faults.status, 429, retry_after="1"), **REFUSED, passes=True),
    # Patience does not last until then, so it gives up at once.
    Kind("503, 60 s", ANSWERS, answers(faults.status, 503, retry_after="60"), **GIVEN_UP),
    # HEAD may be refused where GET is welcome.
    Kind(
        "403", ANSWERS, answers(faults.status, 403), **GIVEN_UP,
        elsewhere={HEAD: (HEALED, HEALED)}, empty=False,
    ),
    Kind("404", ANSWERS, answers(faults.status, 404), **GIVEN_UP),
    Kind("410", ANSWERS, answers(faults.status, 410), **GIVEN_UP),
    Kind("405", (HEAD,), answers(faults.status, 405), **HARMLESS, empty=False),
    Kind("204", BODIES, answers(faults.status, 204), **GIVEN_UP),
    Kind("redirected", ANSWERS, _redirect_to("copy"), **HARMLESS),
    Kind("redirected abroad", ANSWERS, _redirect_to("abroad"), **HARMLESS),
    Kind("redirected in circles", ANSWERS, _redirect_to("url"), **REFUSED),
    Kind(
        "redirected elsewhere", ANSWERS, answers(faults.redirect, "http://192.0.2.1/"), **FORBIDDEN
    ),
    Kind(
        "redirected to a file", ANSWERS, answers(faults.redirect, "file:///etc/passwd"), **FORBIDDEN
    ),
)  # fmt: skip

_CONTRADICTED = {"once": CONTRADICTED, "lasting": CONTRADICTED}

_WRONG_LENGTH = {
    "once": CONTRADICTED,
    "lasting": CONTRADICTED,
    "elsewhere": {HEAD: (MISPLANNED, MISPLANNED), REPAIR: (fails(502), fails(502))},
    "smallest": 2,
}

_FRAMING = (
    Kind("chunked", ANSWERS, answers(faults.chunked), **HARMLESS, empty=False),
    Kind("until close", BODIES, answers(faults.close_delimited), **HARMLESS),
    Kind("Content-Length - 1", ANSWERS, answers(faults.length, -1), **_WRONG_LENGTH, rude=True),
    Kind("Content-Length + 5", ANSWERS, answers(faults.length, 5), **_WRONG_LENGTH),
    Kind("extra bytes", ANSWERS, answers(faults.extra), **HARMLESS, rude=True),
    Kind(
        "longer, chunked", BODIES, both(_longer, answers(faults.chunked)),
        **_CONTRADICTED, inside=True, unframed=True,
    ),
    Kind(
        "longer, until close", BODIES, both(_longer, answers(faults.close_delimited)),
        **_CONTRADICTED, inside=True, unframed=True,
    ),
    Kind("coded", ANSWERS, answers(faults.coded), **GIVEN_UP, largest=70_000),
    Kind("coded, as long", BODIES, answers(_coded_alike), **GIVEN_UP, largest=70_000),
)  # fmt: skip

_CONTENTS = (
    Kind("FIN", CONTENTS, bytes_of(faults.fin), lasting=fails(502), inside=True, **PASSING),
    Kind("RST", CONTENTS, bytes_of(faults.rst), lasting=fails(502), inside=True, **PASSING),
    Kind("stalls", CONTENTS, bytes_of(faults.stall), lasting=fails(504), inside=True, **PASSING),
    Kind("drips", CONTENTS, _drip, **HARMLESS, inside=True),
    # Each drop comes in time, and all of them are less than half of `min_rate`: given up after as
    # many tries as are allowed, long before all has come. A busy machine only makes it slower.
    Kind(
        "trickles", (FIRST,), answers(faults.drip, 0.1, 40),
        lasting=fails(504), inside=True, smallest=5000,
    ),
    # It breaks off where nobody was told how long it is.
    Kind(
        "FIN, until close", CONTENTS, both(answers(faults.close_delimited), bytes_of(faults.fin)),
        lasting=fails(502), inside=True, unframed=True, passes=True,
    ),
    Kind(
        "a broken chunk", CONTENTS, bytes_of(faults.broken_chunk),
        lasting=fails(502), inside=True, unframed=True, passes=True,
    ),
    Kind(
        "a short chunk", CONTENTS,
        both(bytes_of(faults.broken_chunk, b"ffff\r\n"), bytes_of(faults.fin)),
        lasting=fails(502), inside=True, unframed=True, passes=True,
    ),
    Kind(
        "no last chunk", (LAST, REPAIR), answers(faults.chunked, last=False),
        lasting=fails(502), inside=True, unframed=True, passes=True,
    ),
    # What counts is 64 KiB, not tries. As much again may be lost with the connection: what has
    # come is gone when the gateway learns of the end before it has taken it.
    Kind(
        "150,000 bytes a time", (FIRST,), answers(faults.fin, after=150_000),
        once=None, lasting=HEALED, inside=True, smallest=LARGEST,
    ),
    Kind(
        "1,000 bytes a time", (FIRST,), answers(faults.fin, after=1000),
        once=None, lasting=fails(502), inside=True, smallest=5000,
    ),
    Kind(
        "a wrong byte", (FIRST, MIDDLE, LAST), bytes_of(faults.corrupt),
        **LOUD, inside=True, digest=True,
    ),
)  # fmt: skip

# Of the part that a client wants first, it contradicts the plan before anything has been sent.
_MISPLACED = GIVEN_UP | {"elsewhere": {PART: (CONTRADICTED, CONTRADICTED)}}

_RANGES = (
    Kind("Range ignored", PARTS, answers(faults.ignores, "Range"), **HARMLESS, **OF_A_PART),
    Kind("a part unasked", (FIRST,), answers(_unasked_part), **GIVEN_UP),
    Kind("wrong start", PARTS, answers(faults.misranged, first=-1), **GIVEN_UP, **OF_A_PART),
    Kind("wrong stop", PARTS, answers(faults.misranged, last=-1), **GIVEN_UP, **OF_A_PART),
    Kind("wrong total", PARTS, answers(faults.misranged, total=1), **_MISPLACED, **OF_A_PART),
    Kind("unknown total", PARTS, answers(faults.misranged, total=None), **GIVEN_UP, **OF_A_PART),
    Kind("another part", PARTS, answers(faults.shifted, -1), **GIVEN_UP, **OF_A_PART),
    Kind("multipart", PARTS, answers(faults.multipart), **GIVEN_UP, **OF_A_PART),
    Kind("416", PARTS, answers(faults.unsatisfiable), **_MISPLACED, **OF_A_PART),
)

_OTHER_OBJECT = {"once": None, "lasting": REPLACED}

_VALIDATORS = (
    Kind(
        "ETag changed", ANSWERS, answers(faults.puts, "ETag", '"other"'), **_CONTRADICTED,
        elsewhere={HEAD: (MISPLANNED, MISPLANNED)}, validators=TAG,
    ),
    Kind(
        "ETag missing", ANSWERS, answers(faults.without, "ETag"), **_CONTRADICTED,
        elsewhere={HEAD: (UNPINNED, UNPINNED)}, validators=TAG,
    ),
    Kind(
        "ETag weak", ANSWERS, answers(faults.weak_etag), **_CONTRADICTED,
        elsewhere={HEAD: (UNPINNED, UNPINNED)}, validators=TAG,
    ),
    Kind("no validator", BODIES, answers(faults.without, "ETag", "Last-Modified"), **_CONTRADICTED),
    Kind("replaced", ANSWERS, _replaced, **_OTHER_OBJECT, resized=lambda size: size),
    Kind("grown", ANSWERS, _replaced, **_OTHER_OBJECT, resized=lambda size: size + 100),
    Kind(
        "shrunk", ANSWERS, _replaced, **_OTHER_OBJECT, smallest=2, resized=lambda size: size // 2
    ),
    Kind(
        "replaced, conditions ignored", BODIES, both(_replaced, _heedless), **_OTHER_OBJECT,
        resized=lambda size: size,
    ),
    Kind(
        "grown, conditions ignored", BODIES, both(_replaced, _heedless), **_OTHER_OBJECT,
        resized=lambda size: size + 100,
    ),
)  # fmt: skip

_SIGNALS = (
    Kind("SIGTERM", BEFALLEN, _hesitates, inside=True, signal=SIGTERM),
    Kind("SIGSTOP", BEFALLEN, _hesitates, inside=True, signal=SIGSTOP),
    Kind("SIGKILL", BEFALLEN, _hesitates, once=BROKEN_OFF, inside=True, signal=SIGKILL),
)

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kinds in (
        _CONNECTIONS,
        _HEADS,
        _STATUSES,
        _FRAMING,
        _CONTENTS,
        _RANGES,
        _VALIDATORS,
        _SIGNALS,
    )
    for kind in kinds
}


class Cell(NamedTuple):
    """A kind of fault at a position; `lasting` when it strikes every answer that it can."""

    kind: str
    position: str
    lasting: bool

    @property
    def place(self) -> str:
        """Kind and position, as --cell takes them."""
        return f"{self.kind} / {self.position}"

    def __str__(self) -> str:
        return f"{self.place} / {'lasting' if self.lasting else 'once'}"


CELLS = tuple(
    Cell(kind.name, position, lasting)
    for kind in KINDS.values()
    for position in kind.positions
    for lasting in (False, True)
    if kind.verdict(position, lasting=lasting) is not None
)
