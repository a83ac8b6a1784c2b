"""A case: one download, all of it chosen by a seed and an index and by nothing else.

Every run of `len(CELLS)` indices holds each cell once, in an order that the seed chooses.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from origin import Made, Object

from campaign.cells import FIRST, HEAD, HEALED, LARGE, LARGEST, LAST, MIDDLE, PART, REPAIR, Kind
from campaign.forms import FORMS, TAR, Form
from campaign.kinds import CELLS, KINDS, Cell

SIZES = {
    0: 6, 1: 8, 511: 8, 512: 14, 513: 8, 5 * 1024: 18, 65_535: 8, 65_536: 10, 65_537: 8,
    300_000: 8, 2 * 1024**2: 2,
}  # fmt: skip
"""Bytes of a member, and how often: the edges of blocks, and of what the gateway gathers."""

NAMES = ("a.bin", "plain", "d/e/f.dat", "ü ñ.txt", "long " + "x" * 120, "日本語.txt", ".hidden")

LAPS = 5000  # that are looked through for cases that are wanted

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

LARGE_ONES = 0.25
"""Of downloads with one passing failure, the part whose struck member is large."""

FRESH, REMEMBERING, WARM, PATIENT = "fresh", "remembering", "warm", "patient"
GATEWAYS = {FRESH: 5, REMEMBERING: 2, WARM: 3}

THRIFTY = {REMEMBERING, WARM}
"""Gateways that read nothing which they do not send (`[zip] reread_bytes = 0`), and let the kernel
move nothing (`[server] zero_copy = false`)."""

MIB = 1024**2

SPLICED = 2 * MIB
"""Bytes of contents from which on the kernel moves them, ..."""

TAIL = 64 * 1024
"""... up to so many before their end."""

HEADSTART = MIB
"""Bytes of them beyond what a gateway has read before the kernel takes over."""

SPLICED_SIZES = (3 * MIB, 3 * MIB + 1, 4 * MIB, 5 * MIB + 511, 6 * MIB)

SPLICED_ONES = {FIRST: 0.3, MIDDLE: 0.8, LAST: 0.4, REPAIR: 0.35}
"""Of tars, by position, the part that has such a member where the fault strikes."""

STATED, LEARNT, UNKNOWN = "stated", "learnt", "unknown"
KNOWN = (STATED, LEARNT, UNKNOWN)
"""Where digests come from that bytes of the archive follow from: all of them in the catalog, from
an archive that was sent before, or from nowhere until the contents pass."""

BEHIND = 0.6
"""Of zips whose CRC-32 nobody knows and of which a part is wanted, those where that lies behind."""

FILE, TEXT, DIRECTORY = "file", "text", "directory"

CLEAN = "clean"  # what ids begin with of which nothing shall be learnt
ALL = "all"  # the last part of a collection's id, and its prefix

MIXED = 0.15
"""Of all cases, the part with a text, an empty directory or a collection among its members."""


class Member(NamedTuple):
    """A member and its object at the origin."""

    name: str
    size: int
    seed: int
    validator: str  # "tag", "date", "weak" or "none"
    stated: bool  # the catalog states size, mtime and entity-tag
    digest: str | None  # one that the catalog states
    source: str = FILE  # where its contents are: a file at the origin, or in the catalog

    @property
    def content(self) -> Made:
        """Its bytes."""
        return Made(self.size, self.seed)

    @property
    def text(self) -> str:
        """What the catalog holds of it, if it is a text."""
        return self.content.read().hex()[: self.size]

    def object(self) -> Object:
        """What lies at the origin, or would lie there."""
        if self.source != FILE:
            return Object(self.text.encode())
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
    form: Form = TAR
    known: str = UNKNOWN
    collection: range = range(0)  # members that one id stands for

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
        return [id_ for id_, _ in self.groups]

    @property
    def clean_ids(self) -> list[str]:
        """The same for the clean download: others, where nothing shall be learnt from that."""
        return [f"{CLEAN}/{id_}" for id_ in self.ids] if self.secluded else self.ids

    @property
    def secluded(self) -> bool:
        """Whether the gateway must not know what the clean download would teach it."""
        return self.gateway == FRESH and self.known != LEARNT and self.form.follows

    @property
    def groups(self) -> list[tuple[str, list[int]]]:
        """What is asked for, and the members that it stands for."""
        every: list[tuple[str, list[int]]] = []
        for number in range(len(self.members)):
            if number not in self.collection:
                every.append((f"{self.name}/{number}", [number]))
            elif number == self.collection[0]:
                every.append((f"{self.name}/{ALL}", list(self.collection)))
        return every

    @property
    def heals(self) -> bool:
        """Whether one failure that passes is all that befalls it, and nobody may notice."""
        return heals(self.cell) and self.strong and self.client not in {GONE, HALF_CLOSED}

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
        if self.cell.position == HEAD or self.reads_struck:
            return True
        if self.cell.position == REPAIR or self.kind.inside:
            return False
        return self.first_needed

    @property
    def first_needed(self) -> bool:
        """Whether the struck member is opened before the headers go out."""
        begin = self.begin.member if self.begin and not self.whole_instead else 0
        return self.reads_struck or not any(
            member.size for member in self.members[begin : self.struck]
        )

    def unknown(self, algorithm: str) -> list[Member]:
        """Members before what the client wants whose digest nobody knows."""
        if self.begin is None or self.known == LEARNT:
            return []
        # One of which not the first byte is wanted does not pass either.
        before = self.members[: self.begin.member + bool(self.begin.byte)]
        return [
            member
            for member in before
            if member.source == FILE and member.size and member.digest != algorithm
        ]

    @property
    def whole_instead(self) -> bool:
        """Whether who asks for a part is given the whole, for that would take too much reading."""
        thrifty = self.gateway in THRIFTY and self.kind.signal is None
        return bool(
            (self.form.checksums and self.unknown("sha256"))
            or (self.form.is_zip and thrifty and self.unknown("crc32"))
        )

    @property
    def read_first(self) -> list[Member]:
        """Members that are read, and not sent, before the answer begins."""
        if not self.form.is_zip or self.whole_instead:
            return []
        return self.unknown("crc32")

    @property
    def reads_struck(self) -> bool:
        """Whether the struck member is one of them."""
        return self.members[self.struck] in self.read_first

    @property
    def has_spliced(self) -> bool:
        """Whether the kernel has something to move, where the gateway lets it."""
        return any(self._spliced(member) for member in self.members)

    @property
    def strikes_spliced(self) -> bool:
        """Whether what strikes first does so among bytes that the kernel moves."""
        struck = self.members[self.struck]
        repair = self.cell.position == REPAIR
        byte = self.cut if repair else self.at
        return (
            self._spliced(struck)
            and (repair or (self.kind.inside and not self.kind.unframed))
            and (self.gateway not in THRIFTY or self.kind.signal is not None)
            and HEADSTART <= byte < struck.size - TAIL
        )

    def _spliced(self, member: Member) -> bool:
        plain = member.source == FILE and member.digest is None
        return self.form == TAR and plain and member.size >= SPLICED

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
        more += [str(self.form)] if self.form != TAR else []
        more += [self.known] if self.form.follows else []
        more += [
            f"{member.source} {n}" for n, member in enumerate(self.members) if member.source != FILE
        ]
        more += [f"collection {self.collection}"] if self.collection else []
        return (
            f"{self.replay} {self.cell} | {sizes} at {self.at} cut {self.cut} | {self.client} | "
            f"{self.path} | {self.gateway} | {', '.join(more)}"
        )


def heals(cell: Cell) -> bool:
    """Whether a single failure strikes that passes, so that repair hides it."""
    kind, once = KINDS[cell.kind], not cell.lasting and cell.position != REPAIR
    return kind.passes and once and kind.verdict(cell.position, lasting=False) == HEALED


def path_of(case: Case, number: int) -> str:
    """The path of a member at the origin."""
    return f"/{case.name}/{number}"


def case_of(seed: int, index: int) -> Case:
    """The case of a seed and an index."""
    lap, place = divmod(index, len(CELLS))
    cell = _shuffled(seed, lap)[place]
    # What it is asked for as is chosen apart, so that the rest is the same whatever it is; and so
    # is what the kernel moves of it.
    ways = ("", " form", " spliced")
    return _Choice(*(random.Random(f"{seed} {index}{way}") for way in ways), cell).case(seed, index)


def cases(
    seed: int,
    number: int,
    places: Collection[str] = (),
    wanted: Callable[[Case], bool] = lambda _: True,
) -> Iterator[Case]:
    """The first cases of a seed that are wanted, of these places only if any are given."""
    every = (
        case_of(seed, lap * len(CELLS) + place)
        for lap in range(LAPS)
        for place, cell in enumerate(_shuffled(seed, lap))
        if not places or cell.place in places
    )
    return itertools.islice(filter(wanted, every), number)


@cache
def _shuffled(seed: int, lap: int) -> tuple[Cell, ...]:
    cells = list(CELLS)
    random.Random(f"{seed} lap {lap}").shuffle(cells)
    return tuple(cells)


class _Choice:
    """Chooses what else a case consists of."""

    def __init__(
        self, rng: random.Random, other: random.Random, splicing: random.Random, cell: Cell
    ) -> None:
        self.rng = rng
        self.other = other
        self.splicing = splicing
        self.cell = cell
        self.kind = KINDS[cell.kind]
        self.form = self._form()
        self.known = self._known()

    def case(self, seed: int, index: int) -> Case:
        struck = self._struck(index)
        others = [self._other(index, number) for number in range(self.rng.randint(0, 5))]
        place = self.rng.choice([0, len(others) // 2, len(others)])
        members = [*others[:place], struck, *others[place:]]
        members, collection = self._mixed(index, members)
        place = members.index(struck)
        members = [
            m._replace(name=f"{ALL}/" * (number in collection) + f"{number}-{m.name}")
            for number, m in enumerate(members)
        ]
        members = [self._stating(m, struck=n == place) for n, m in enumerate(members)]
        cut, at = self._bytes(struck.size)
        if struck.size == LARGE:
            at = {FIRST: 0, LAST: at}.get(self.cell.position, self.rng.randrange(LARGE))
        spliced = self._spliced(members, place)
        if spliced is not None:
            size = self.splicing.choice(SPLICED_SIZES)
            members[spliced] = members[spliced]._replace(size=size, digest=None)
        if spliced == place:
            cut, at = self._spliced_bytes(size)
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
            self.form,
            self.known,
            collection,
        )

    def _form(self) -> Form:
        forms = dict(FORMS)
        if self.cell.position == PART:
            forms = {form: weight for form, weight in forms.items() if not form.compressed}
        return self.other.choices(list(forms), list(forms.values()))[0]

    def _known(self) -> str:
        known = self.other.choice(KNOWN)
        if self.cell.position == PART and self.form.follows:
            return LEARNT  # or the part would not be asked for, or not first
        if self.kind.signal is not None and known == LEARNT:
            return UNKNOWN  # any of several gateways may be asked
        return known

    def _mixed(self, index: int, members: list[Member]) -> tuple[list[Member], range]:
        """Members from elsewhere among them, and those that have one id in common."""
        members = list(members)
        if self.other.random() >= MIXED:
            return members, range(0)
        what = self.other.randrange(1, 8)
        text, directory = [
            Member(self.other.choice(NAMES) + end, size, index * 10 + seed, "tag", False, None, how)
            for end, size, seed, how in (
                ("", self.other.choice([0, 1, 512, 5000]), 8, TEXT),
                ("/", 0, 9, DIRECTORY),
            )
        ]
        for bit, member in ((1, text), (2, directory)):
            if what & bit:
                members.insert(self.other.randint(0, len(members)), member)
        if not what & 4:
            return members, range(0)
        first = self.other.randrange(len(members))
        return members, range(first, self.other.randint(first, len(members) - 1) + 1)

    def _stating(self, member: Member, *, struck: bool) -> Member:
        """The same, with the digest in the catalog that its archive follows from."""
        replaced = struck and self.kind.resized is not None
        if self.known != STATED or not self.form.follows or member.source != FILE or replaced:
            return member
        return member._replace(digest="sha256" if self.form.checksums else "crc32")

    def _struck(self, index: int) -> Member:
        kind, position = self.kind, self.cell.position
        smallest = kind.smallest
        if position == HEAD and kind.empty and smallest == 1:
            smallest = 0
        if position == REPAIR and kind.partial:
            smallest = max(smallest, 2)
        member = self._member(index, -1, smallest, kind.largest)
        if heals(self.cell) and self.rng.random() < LARGE_ONES:
            member = member._replace(size=LARGE)
        chance = self.rng.random()
        wanted = (
            "tag"
            if chance < 0.7
            else "date"
            if chance < 0.85
            else self.rng.choice(["weak", "none"])
        )
        if (position in {REPAIR, PART} or member.size == LARGE) and wanted in {"weak", "none"}:
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

    def _spliced(self, members: list[Member], struck: int) -> int | None:
        """The member that is made so large that the kernel moves it, if one is.

        The one that is struck in its contents, or while it is repaired; or the one before an answer
        whose head is wrong for good, since what the kernel has moved must not end at a boundary.
        """
        kind, position = self.kind, self.cell.position
        if self.form != TAR or self.splicing.random() >= SPLICED_ONES.get(position, 0):
            return None
        if position == REPAIR or (kind.inside and not kind.unframed):
            fits = kind.largest >= LARGEST and not kind.digest and members[struck].size < LARGE
            return struck if fits else None
        before = position == FIRST and self.cell.lasting and struck > 0
        return struck - 1 if before and members[struck - 1].source == FILE else None

    def _spliced_bytes(self, size: int) -> tuple[int, int]:
        """Where such a member is cut first, and where it is struck."""
        last = size - 1
        cut = self.splicing.randrange(HEADSTART, size - TAIL)
        if self.cell.position == REPAIR:
            return cut, self.splicing.choice([cut, self.splicing.randrange(cut, size), last])
        return cut, {FIRST: 0, LAST: last}.get(self.cell.position, cut)

    def _client(self, struck: Member) -> str:
        kind = self.kind
        if self.cell.position == PART:
            return RANGE
        weights = dict(CLIENTS)
        without: set[str] = set()
        if struck.validator in {"weak", "none"} or kind.digest:
            # Nothing pins it; and what a digest condemns must not be completed.
            without |= RESUMING | {RANGE}
        if self.cell.position == HEAD and not kind.passes:
            without |= {RANGE}  # it may see another entity-tag, and so the whole
        if kind.signal:
            without |= {GONE, HALF_CLOSED, ARIA2C}
            if self.form.checksums:
                without |= PINNED  # another gateway knows no digests, and gives the whole
        if self.form.compressed:
            without |= RESUMING | {RANGE}
        if self.form.follows and self.known != LEARNT:
            without |= {ARIA2C}  # it takes nothing but parts
        weights = {client: weight for client, weight in weights.items() if client not in without}
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def _path(self) -> str:
        return self.rng.choices(list(PATHS), list(PATHS.values()))[0]

    def _gateway(self, client: str) -> str:
        gateway = self.rng.choices(list(GATEWAYS), list(GATEWAYS.values()))[0]
        if client == GONE:
            return PATIENT
        if self.form.follows and self.known == LEARNT and gateway in THRIFTY:
            return FRESH if self.cell.position == HEAD else WARM  # what it has sent it remembers
        if gateway == WARM and self.cell.position == HEAD:
            return REMEMBERING
        return gateway

    def _foreseen(self) -> bool:
        """Whether a failure in what is only read is as good as one at the very beginning."""
        repair = self.cell.position == REPAIR
        # After another plan there is no first failure, and so nothing to be repaired.
        again = repair and not {REPAIR, PART}.isdisjoint(self.kind.elsewhere)
        # Gateways that are killed before they answer are not asked again by nginx for a while.
        return self.kind.signal is None and not again

    def _begin(self, members: list[Member], struck: int) -> Begin:
        if self.cell.position == PART:
            return Begin(struck, self.rng.randrange(1, members[struck].size))
        size = members[struck].size
        unknown = self.form.is_zip and self.known != LEARNT and members[struck].digest != "crc32"
        if unknown and size > 1 and self._foreseen() and self.other.random() < BEHIND:
            # It is read before the answer begins, or the answer is the whole.
            member = self.other.randint(struck, len(members) - 1)
            return Begin(member, self.other.randrange(1, size) if member == struck else None)
        member = self.rng.randint(0, struck)
        size = members[member].size
        if member == struck or not size or self.rng.random() < 0.3:
            return Begin(member, None)
        return Begin(member, self.rng.randrange(size))
