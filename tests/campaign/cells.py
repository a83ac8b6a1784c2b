"""The words of the table in `kinds`: positions, verdicts, and what a row of it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from signal import Signals
from typing import NamedTuple

import faults
from answer import Answer
from faults import Fault
from origin import Made, Object

HEAD = "HEAD"
FIRST = "first byte"
MIDDLE = "middle"
LAST = "last byte"
REPAIR = "repair"  # a cut comes first, and the fault strikes what repairs it
PART = "part"  # the client asks for a part that begins inside the member

LARGEST = 2 * 1024**2
LARGE = 16 * 1024**2
"""Bytes of members that tell what healing costs: a small one may be read twice by one failure."""


class Verdict(NamedTuple):
    """What the contract says."""

    name: str
    status: int = 0  # of an answer that refuses, where nothing has been sent


HEALED = Verdict("healed")  # the client sees nothing of it
CONTRADICTED = Verdict("contradicted", 503)  # the answer is not of the object that was planned
MISPLANNED = Verdict("misplanned", 503)  # HEAD described another object than GET gives
UNPINNED = Verdict("unpinned")  # HEAD names another validator, as good as the first
REPLACED = Verdict("replaced", 409)  # there is another object by now
BROKEN_OFF = Verdict("broken off")  # how it ends is open; a client that resumes gets it all


def fails(status: int) -> Verdict:
    """The member is given up: this status before the first byte, a loud failure after it."""
    return Verdict("fails", status)


@dataclass
class Struck:
    """The member that is struck, and what its faults may need to know."""

    object: Object
    at: int  # the byte that is struck
    url: str
    copy: str  # URL of an honest copy of it
    abroad: str  # URL of another, at another origin
    dead: str  # URL of a port where nobody listens
    other: Object | None  # what replaces it
    which: faults.Which  # which answers are struck
    from_then_on: Callable[[Answer], bool]  # true of every answer since the first one struck
    befallen: asyncio.Event  # set once the gateway has got its signal

    def longer(self) -> Object:
        """The same with bytes after its end; nothing but its length tells."""
        was = self.object
        assert isinstance(was.content, Made)
        content = Made(was.size + 700, was.content.seed)
        return Object(content, etag=was.etag, last_modified=was.last_modified)


@dataclass(frozen=True)
class Kind:
    """A kind of fault: where it can strike, how it is made, what is promised."""

    name: str
    positions: tuple[str, ...]
    make: Callable[[Struck], list[Fault]]  # the last one is the one that has to fire
    once: Verdict | None = HEALED
    lasting: Verdict | None = None
    elsewhere: Mapping[str, tuple[Verdict | None, Verdict | None]] = field(default_factory=dict)
    inside: bool = False  # strikes at a byte of the content, after an honest head
    unframed: bool = False  # sends no Content-Length
    partial: bool = False  # is about an answer to Range
    smallest: int = 1
    empty: bool = True  # HEAD of an empty object counts too
    largest: int = LARGEST
    validators: tuple[str, ...] = ("tag", "date")  # what the struck object may have
    digest: bool = False  # nothing but a digest in the catalog can tell
    passes: bool = False  # a failure that passes: what repair is for
    resized: Callable[[int], int] | None = None  # by another object, of this size
    rude: bool = False  # says more than it announced: may spoil its answer, and the next one's
    signal: Signals | None = None  # what befalls the gateway instead

    def verdict(self, position: str, *, lasting: bool) -> Verdict | None:
        """What is promised in a cell; None when there is no such cell."""
        return self.elsewhere.get(position, (self.once, self.lasting))[lasting]
