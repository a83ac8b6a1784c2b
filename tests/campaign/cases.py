"""A case: one download, all of it chosen by a seed and an index and by nothing else.

Every run of `len(CELLS)` indices holds each cell once, in an order that the seed chooses.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from origin import Made, Object

from campaign.cells import FIRST, HEAD, LAST, MIDDLE, REPAIR, Kind
from campaign.kinds import CELLS, KINDS, Cell

SIZES = {
    0: 6, 1: 8, 511: 8, 512: 14, 513: 8, 5 * 1024: 18, 65_535: 8, 65_536: 10, 65_537: 8,
    300_000: 8, 2 * 1024**2: 2,
}  # fmt: skip
"""Bytes of a member, and how often: the edges of blocks, and of what the gateway gathers."""

NAMES = ("a.bin", "plain", "d/e/f.dat", "ü ñ.txt", "long " + "x" * 120, "日本語.txt", ".hidden")

CURL, CURL_LOOP, WGET, ARIA2C = "curl", "curl -C -", "wget -c", "aria2c -x4"
PLAIN, SLOW, PAUSED, GONE = "Python", "Python, slow", "Python, paused", "Python, gone"
HALF_CLOSED, RANGE, IF_RANGE = "Python, half-closed", "Python, Range", "Python, If-Range"

CLIENTS = {
    CURL: 18, CURL_LOOP: 14, WGET: 10, ARIA2C: 6, PLAIN: 18, SLOW: 5, PAUSED: 5, GONE: 6,
    HALF_CLOSED: 2, RANGE: 8, IF_RANGE: 8,
}  # fmt: skip
PINNED = {CURL_LOOP, WGET, ARIA2C}  # without If-Range, only `version` protects who resumes
RESUMING = PINNED | {IF_RANGE}

DIRECT, OURS, DEFAULTS = "direct", "nginx, our file", "nginx, defaults"
PATHS = {DIRECT: 5, OURS: 3, DEFAULTS: 3}

FRESH, REMEMBERING, WARM, PATIENT = "fresh", "remembering", "warm", "patient"
GATEWAYS = {FRESH: 5, REMEMBERING: 2, WARM: 3}


class Member(NamedTuple):
    """A member and its object at the origin."""

    name: str
    size: int
    seed: int
    validator: str  # "tag", "date", "weak" or "none"
    stated: bool  # the catalog states size, mtime and entity-tag
    digest: str | None  # one that the catalog states

    @property
    def content(self) -> Made:
        """Its bytes."""
        return Made(self.size, self.seed)

    def object(self) -> Object:
        """What lies at the origin."""
        if self.validator == "tag":
            return Object(self.content)
        if self.validator == "date":
            return Object(self.content, etag=None)
        if self.validator == "weak":
            return Object(self.content, etag=f'W/"{self.seed}"', last_modified=None)
        return Object(self.content, etag=None, last_modified=None)


class Begin(NamedTuple):
    """Where a Range begins: in a member's contents, or at its header."""

    member: int
    byte: int | None


@dataclass(frozen=True)
class Case:
    """One download."""

    seed: int
    index: int
    cell: Cell
    members: tuple[Member, ...]
    struck: int  # which member
    at: int  # the byte that is struck, for faults inside contents
    cut: int  # where the first failure breaks it off, for faults that strike a repair
    client: str
    path: str
    gateway: str
    begin: Begin | None
    leaves: float  # the part of the body after which a client that leaves has left

    @property
    def name(self) -> str:
        """How it is called, in URLs too."""
        return f"{self.index:06d}"

    @property
    def replay(self) -> str:
        """What to pass to --replay."""
        return f"{self.seed}:{self.index}"

    @property
    def kind(self) -> Kind:
        """What strikes."""
        return KINDS[self.cell.kind]

    @property
    def ids(self) -> list[str]:
        """What is asked for."""
        return [f"{self.name}/{number}" for number in range(len(self.members))]

    @property
    def pinned(self) -> bool:
        """Whether the client asks for one version and no other."""
        return self.client in PINNED

    @property
    def strong(self) -> bool:
        """Whether the archive can be asked for in parts."""
        return self.members[self.struck].validator in {"tag", "date"}

    @property
    def before_first_byte(self) -> bool:
        """Whether what strikes an answer's head does so before the gateway has answered."""
        if self.cell.position == HEAD:
            return True
        if self.cell.position == REPAIR or self.kind.inside:
            return False
        return self.first_needed

    @property
    def first_needed(self) -> bool:
        """Whether the struck member is opened before the headers go out."""
        begin = self.begin.member if self.begin else 0
        return not any(member.size for member in self.members[begin : self.struck])

    def __str__(self) -> str:
        sizes = ", ".join(
            f"[{member.size}]" if number == self.struck else str(member.size)
            for number, member in enumerate(self.members)
        )
        struck = self.members[self.struck]
        more = [struck.validator]
        more += ["stated"] if struck.stated else []
        more += [struck.digest] if struck.digest else []
        more += [f"from {self.begin}"] if self.begin else []
        return (
            f"{self.replay} {self.cell} | {sizes} at {self.at} cut {self.cut} | {self.client} | "
            f"{self.path} | {self.gateway} | {', '.join(more)}"
        )


def path_of(case: Case, number: int) -> str:
    """The path of a member at the origin."""
    return f"/{case.name}/{number}"


def case_of(seed: int, index: int) -> Case:
    """The case of a seed and an index."""
    lap, place = divmod(index, len(CELLS))
    cell = _shuffled(seed, lap)[place]
    return _Choice(random.Random(f"{seed} {index}"), cell).case(seed, index)


def cases(seed: int, number: int, wanted: Callable[[Case], bool]) -> Iterator[Case]:
    """The first cases of a seed that are wanted."""
    every = (case_of(seed, index) for index in itertools.count())
    return itertools.islice(filter(wanted, every), number)


@cache
def _shuffled(seed: int, lap: int) -> tuple[Cell, ...]:
    cells = list(CELLS)
    random.Random(f"{seed} lap {lap}").shuffle(cells)
    return tuple(cells)


class _Choice:
    """Chooses what else a case consists of."""

    def __init__(self, rng: random.Random, cell: Cell) -> None:
        self.rng = rng
        self.cell = cell
        self.kind = KINDS[cell.kind]

    def case(self, seed: int, index: int) -> Case:
        struck = self._struck(index)
        others = [self._other(index, number) for number in range(self.rng.randint(0, 5))]
        place = self.rng.choice([0, len(others) // 2, len(others)])
        members = [*others[:place], struck, *others[place:]]
        members = [m._replace(name=f"{number}-{m.name}") for number, m in enumerate(members)]
        cut, at = self._bytes(struck.size)
        client = self._client(struck)
        return Case(
            seed,
            index,
            self.cell,
            tuple(members),
            place,
            at,
            cut,
            client,
            self._path(),
            self._gateway(client),
            self._begin(members, place) if client == RANGE else None,
            self.rng.random(),
        )

    def _struck(self, index: int) -> Member:
        kind, position = self.kind, self.cell.position
        smallest = kind.smallest
        if position == HEAD and kind.empty and smallest == 1:
            smallest = 0
        if position == REPAIR and kind.partial:
            smallest = max(smallest, 2)
        member = self._member(index, -1, smallest, kind.largest)
        chance = self.rng.random()
        wanted = (
            "tag"
            if chance < 0.7
            else "date"
            if chance < 0.85
            else self.rng.choice(["weak", "none"])
        )
        if position == REPAIR and wanted in {"weak", "none"}:
            wanted = "date"
        validator = wanted if wanted in kind.validators else kind.validators[0]
        digest = member.digest
        if kind.digest:
            digest = digest or "sha256"
        return member._replace(
            validator=validator,
            stated=member.stated and validator == "tag" and position != HEAD,
            digest=None if kind.resized else digest,
        )

    def _other(self, index: int, number: int) -> Member:
        member = self._member(index, number, 0, max(SIZES))
        validator = self.rng.choices(["tag", "date"], [4, 1])[0]
        return member._replace(validator=validator, stated=member.stated and validator == "tag")

    def _member(self, index: int, number: int, smallest: int, largest: int) -> Member:
        sizes = {size: weight for size, weight in SIZES.items() if smallest <= size <= largest}
        size = self.rng.choices(list(sizes), list(sizes.values()))[0]
        stated = self.rng.random() < 0.3
        digest = self.rng.choice(["sha256", "crc32"]) if self.rng.random() < 0.15 else None
        seed = index * 10 + number + 2
        return Member(self.rng.choice(NAMES), size, seed, "tag", stated, digest)

    def _bytes(self, size: int) -> tuple[int, int]:
        """Where it is cut first, and where it is struck."""
        middle, last = size // 2, max(size - 1, 0)
        cut = self.rng.choice([0, 1, middle, last])
        cut = min(max(cut, 1 if self.kind.partial else 0), last)
        if self.cell.position == REPAIR:
            return cut, self.rng.choice([cut, (cut + last) // 2, last])
        return cut, {FIRST: 0, MIDDLE: middle, LAST: last}.get(self.cell.position, 0)

    def _client(self, struck: Member) -> str:
        kind = self.kind
        weights = dict(CLIENTS)
        without: set[str] = set()
        if struck.validator in {"weak", "none"} or kind.digest:
            # Nothing pins it; and what a digest condemns must not be completed.
            without |= RESUMING | {RANGE}
        if self.cell.position == HEAD and not kind.passes:
            without |= {RANGE}  # it may see another entity-tag, and so the whole
        if kind.signal:
            without |= {GONE, HALF_CLOSED, ARIA2C}
        weights = {client: weight for client, weight in weights.items() if client not in without}
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def _path(self) -> str:
        return self.rng.choices(list(PATHS), list(PATHS.values()))[0]

    def _gateway(self, client: str) -> str:
        gateway = self.rng.choices(list(GATEWAYS), list(GATEWAYS.values()))[0]
        if client == GONE:
            return PATIENT
        if gateway == WARM and self.cell.position == HEAD:
            return REMEMBERING
        return gateway

    def _begin(self, members: list[Member], struck: int) -> Begin:
        member = self.rng.randint(0, struck)
        size = members[member].size
        if member == struck or not size or self.rng.random() < 0.3:
            return Begin(member, None)
        return Begin(member, self.rng.randrange(size))
