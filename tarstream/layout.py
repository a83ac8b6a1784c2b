"""Where every byte of an archive lies, before any of it exists.

A layout holds offsets, not bytes: headers are rendered again when a slice touches them. What was
counted and what is rendered are compared each time, so that a drift can never be sent.
"""

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

LAYOUT_VERSION = 1
"""Part of every entity-tag: changes whenever the same members give other bytes."""

STEP = 256
"""Members laid out between two chances for other downloads to run; about a millisecond."""

Open = Callable[[int, int], AsyncIterator[bytes] | Awaitable[AsyncIterator[bytes]]]
"""Gives the bytes [start, stop) of contents, as an asynchronous generator function does."""


class Opener:
    """Contents that somebody else opens; each is only equal to itself.

    `once` says that they can be opened one time, whatever `open` is given, from their beginning.
    """

    __slots__ = ("once", "open")

    def __init__(self, open: Open, *, once: bool) -> None:
        self.open = open
        self.once = once


class Listing:
    """Contents that follow from those of other members: their digests, see `checksums`."""

    __slots__ = ("algorithm", "members")

    def __init__(self, algorithm: str, members: "Sequence[Member]") -> None:
        self.algorithm = algorithm
        self.members = members


Source = str | bytes | Path | Opener | Listing
"""Where contents are: at a URL, here, in a file, with what knows how to open them, or in others."""


class Member(NamedTuple):
    """A file in an archive; all that the archive's bytes depend on besides its contents."""

    name: str
    """That of an empty directory ends in a slash."""
    size: int
    """Bytes."""
    mtime: int
    """Whole seconds since the epoch, not negative."""
    source: Source
    validator: str | None = None
    """An entity-tag or an HTTP date as the origin sent it; `W/` before it when it is weak."""
    digests: tuple[tuple[str, str], ...] = ()
    """Algorithm and lower-case hex of what the contents must be, as far as it was stated."""
    id: str | None = None
    """What it was asked for by; None for a member that the gateway adds."""

    @property
    def is_directory(self) -> bool:
        """Whether it is an empty directory, and no file."""
        return self.name.endswith("/")

    def digest(self, algorithm: str) -> str | None:
        """What was stated of it, in lower-case hex."""
        return next((stated for name, stated in self.digests if name == algorithm), None)


class Content(NamedTuple):
    """A placeholder for the bytes [start, stop) of a member's contents."""

    member: Member
    start: int
    stop: int


class Deferred(NamedTuple):
    """Bytes whose number is known, and whose value once all of a member's contents were seen."""

    length: int
    member: Member
    algorithm: str
    """Of the digest that they follow from."""
    render: Callable[[str], bytes]
    """The bytes, from the digest in lower-case hex."""


class Late(NamedTuple):
    """A placeholder for the bytes [start, stop) of what is deferred."""

    deferred: Deferred
    start: int
    stop: int


Part = bytes | Deferred
Piece = bytes | Content | Late
"""What a slice is made of."""


class Format(Protocol):
    """How an archive is laid out. A module is a format."""

    def mend(self, name: str) -> str:
        """The nearest name that its readers take, see `names`."""

    @property
    def MEDIA_TYPE(self) -> str: ...  # noqa: D102, N802 - a constant of the module
    @property
    def SUFFIX(self) -> str: ...  # noqa: D102, N802 - likewise
    @property
    def DIGEST(self) -> str | None:  # noqa: N802 - likewise
        """The algorithm of what is deferred, in a format that defers anything."""

    def before(self, member: Member) -> bytes:
        """What stands before the contents."""

    def after(self, member: Member) -> Part:
        """What stands after the contents."""

    def entry(self, member: Member, start: int) -> Part:
        """What the trailer says of a member, whose `before` begins at `start` in the archive."""

    def end(self, number: int, start: int, size: int) -> bytes:
        """What ends the trailer: `number` entries begin at `start`, and have `size` bytes."""

    def measure(self, member: Member, start: int) -> tuple[int, int, int]:
        """Lengths of `before(member)`, `after(member)` and `entry(member, start)`.

        In bytes; rendering may be spared.
        """


def is_strong(validator: str | None) -> bool:
    """Whether equal validators mean equal bytes (RFC 9110 8.8.1)."""
    return validator is not None and not validator.startswith("W/")


class Layout:
    """The archive of `members` in `format`, as offsets.

    `size` is exact. `etag` is strong when every member has a strong validator, weak when each has
    at least a weak one, else None. `seekable` says that a part of it may be asked for alone.
    """

    def __init__(self, format: Format, members: Sequence[Member]) -> None:
        steps = lay_out(format, members, into=self)
        while next(steps, self) is not self:
            pass

    format: Format
    members: Sequence[Member]
    size: int
    etag: str | None
    _starts: "array[int]"
    """Where each member begins, and where the trailer does."""
    _contents: "array[int]"
    _entries: "array[int]"
    """Where each entry of the trailer begins, and where its end does; empty without entries."""

    @property
    def seekable(self) -> bool:
        """Whether the entity-tag is strong."""
        return is_strong(self.etag)

    @property
    def trailer_start(self) -> int:
        """Offset of the first byte behind all members."""
        return self._starts[-1]

    def content_start(self, index: int) -> int:
        """Offset of the first byte of the contents of member `index`."""
        return self._contents[index]

    def slice(self, start: int, stop: int) -> Iterator[Piece]:
        """The bytes [start, stop) in order: literal bytes, and placeholders for others.

        What lies beyond the archive is left out. No piece is empty.
        Raises RuntimeError when a header is not as long as it was counted.
        """
        stop = min(stop, self.size)
        if start >= stop:
            return
        for index in _touched(self._starts, start, stop):
            yield from self._member_slice(index, start, stop)
        for index in _touched(self._entries, start, stop):
            base, following = self._entries[index], self._entries[index + 1]
            entry = self.format.entry(self.members[index], self._starts[index])
            yield from _cut(entry, following - base, start - base, stop - base)
        base, directory = self._end, self._starts[-1]
        end = self.format.end(len(self.members), directory, base - directory)
        yield from _cut(end, self.size - base, start - base, stop - base)

    @property
    def listing(self) -> Listing | None:
        """The contents of the last member, if they follow from those of others."""
        source = self.members[-1].source if self.members else None
        return source if isinstance(source, Listing) else None

    @property
    def described_start(self) -> int:
        """Offset from which on bytes follow from the contents of all members."""
        return self._starts[-1] if self.listing is None else self._contents[-1]

    @property
    def algorithms(self) -> Sequence[str]:
        """Of the digests that bytes follow from."""
        listing, deferred = self.listing, self.format.DIGEST
        found = {deferred, None if listing is None else listing.algorithm}
        return sorted(algorithm for algorithm in found if algorithm is not None)

    def beforehand(self, start: int, stop: int) -> Iterator[tuple[Member, str]]:
        """Members, each with the algorithm of a digest that the bytes [start, stop) follow from.

        Those are left out of which it was stated, whose contents pass first, or are empty. A list
        comes behind all that it lists.
        """
        if start >= stop:
            return
        listing, deferred = self.listing, self.format.DIGEST
        entries = _touched(self._entries, start, stop)
        # The contents of all that follow pass, as far as bytes that follow from them do.
        first = bisect_left(self._contents, start)

        def describes(index: int) -> bool:
            content_stop = self._contents[index] + self.members[index].size
            touched = max(start, content_stop) < min(stop, self._starts[index + 1])
            return deferred is not None and (touched or index in entries)

        if listing is not None:
            last = len(self.members) - 1
            content, size = self._contents[last], self.members[last].size
            touched = max(start, content) < min(stop, content + size)
            if touched or (last < first and describes(last)):
                for member in islice(self.members, min(first, last)):
                    if member.size and not member.digest(listing.algorithm):
                        yield member, listing.algorithm
        if deferred is not None:
            for index in range(first):
                member = self.members[index]
                if member.size and not member.digest(deferred) and describes(index):
                    yield member, deferred

    @property
    def _end(self) -> int:
        return self._entries[-1] if self._entries else self._starts[-1]

    def _member_slice(self, index: int, start: int, stop: int) -> Iterator[Piece]:
        member = self.members[index]
        base, content, following = (
            self._starts[index],
            self._contents[index],
            self._starts[index + 1],
        )
        content_stop = content + member.size
        if max(start, base) < min(stop, content):
            before = self.format.before(member)
            yield from _cut(before, content - base, start - base, stop - base)
        if max(start, content) < min(stop, content_stop):
            yield Content(member, max(start - content, 0), min(stop, content_stop) - content)
        if max(start, content_stop) < min(stop, following):
            after = self.format.after(member)
            yield from _cut(
                after, following - content_stop, start - content_stop, stop - content_stop
            )


def lay_out(
    format: Format,
    members: Sequence[Member],
    *,
    into: Layout | None = None,
) -> Generator[None, None, Layout]:
    """Lay out in steps: yields after each `STEP` members, returns the layout.

    100,000 members take long enough to be felt by every other download of the process.
    """
    layout = Layout.__new__(Layout) if into is None else into
    starts, contents, entries = array("q"), array("q"), array("q")
    offset = trailer = 0
    strong = known = True
    digest = hashlib.sha256(f"tarstream {LAYOUT_VERSION} {format.SUFFIX}\n".encode())
    for first in range(0, len(members), STEP):
        described = []
        for member in members[first : first + STEP]:
            before, after, entry = format.measure(member, offset)
            starts.append(offset)
            if entry:
                entries.append(trailer)
                trailer += entry
            contents.append(offset + before)
            offset += before + member.size + after
            validator = member.validator
            if validator is None:
                strong = known = False
            elif not is_strong(validator):
                strong = False
            # None of them holds NUL or LF, so this reads in one way only.
            described.append(
                f"{member.name}\0{member.size}\0{member.mtime}\0{validator}\0{member.digests}"
                f"\0{_path(member.source)}\n"
            )
        # An entity-tag may hold bytes that are not UTF-8 (obs-text, RFC 9110 8.8.3); they are
        # surrogates in a str.
        digest.update("".join(described).encode("utf-8", "surrogatepass"))
        yield
    starts.append(offset)
    tag = digest.hexdigest()[:32]
    layout.format = format
    layout.members = members
    if entries:
        entries.append(trailer)
        for index in range(len(entries)):
            entries[index] += offset
    layout.size = offset + trailer + len(format.end(len(members), offset, trailer))
    layout.etag = f'"{tag}"' if strong else f'W/"{tag}"' if known else None
    layout._starts = starts  # noqa: SLF001 - this function builds it
    layout._contents = contents  # noqa: SLF001
    layout._entries = entries  # noqa: SLF001
    return layout


def _path(source: Source) -> str:
    """That of a URL: another one's validator proves nothing (RFC 9110 8.8.3).

    Its origin may have several names, and its query may hold a signature.
    """
    return source.split("/", 3)[-1].partition("?")[0] if isinstance(source, str) else ""


def length_of(part: Part) -> int:
    """Bytes."""
    return part.length if isinstance(part, Deferred) else len(part)


def _touched(starts: "array[int]", start: int, stop: int) -> range:
    """Indices of what lies at least in part in [start, stop); the last start is that of the end."""
    first = max(bisect_right(starts, start) - 1, 0)
    return range(first, min(bisect_left(starts, stop), len(starts) - 1))


def _cut(part: Part, counted: int, start: int, stop: int) -> Iterator[Piece]:
    """The bytes [start, stop) of a part, as far as there are any."""
    length = length_of(part)
    if length != counted:
        raise RuntimeError(f"rendered {length} bytes where {counted} were counted")
    start, stop = max(start, 0), min(stop, length)
    if start < stop:
        yield Late(part, start, stop) if isinstance(part, Deferred) else part[start:stop]
