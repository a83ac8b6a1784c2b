"""Where every byte of an archive lies, before any of it exists.

A layout holds offsets, not bytes: headers are rendered again when a slice touches them. What was
counted and what is rendered are compared each time, so that a drift can never be sent.
"""

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, Protocol

LAYOUT_VERSION = 1
"""Part of every entity-tag: changes whenever the same members give other bytes."""

STEP = 256
"""Members laid out between two chances for other downloads to run; about a millisecond."""

Source = str | bytes
"""What a store can open: a URL, or the bytes themselves."""


class Member(NamedTuple):
    """A file in an archive; all that the archive's bytes depend on besides its contents."""

    name: str
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


class Content(NamedTuple):
    """A placeholder for the bytes [start, stop) of a member's contents."""

    member: Member
    start: int
    stop: int


class Format(Protocol):
    """How an archive is laid out. A module is a format."""

    @property
    def MEDIA_TYPE(self) -> str: ...  # noqa: D102, N802 - a constant of the module
    @property
    def SUFFIX(self) -> str: ...  # noqa: D102, N802 - likewise

    def before(self, member: Member) -> bytes:
        """What stands before the contents."""

    def after(self, member: Member) -> bytes:
        """What stands after the contents."""

    def trailer(self) -> bytes:
        """What ends the archive."""

    def measure(self, member: Member) -> tuple[int, int]:
        """Lengths in bytes of `before(member)` and `after(member)`; rendering may be spared."""


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
    _contents: "array[int]"

    @property
    def seekable(self) -> bool:
        """Whether the entity-tag is strong."""
        return is_strong(self.etag)

    def content_start(self, index: int) -> int:
        """Offset of the first byte of the contents of member `index`."""
        return self._contents[index]

    def slice(self, start: int, stop: int) -> Iterator[bytes | Content]:
        """The bytes [start, stop) in order: literal bytes, and placeholders for contents.

        What lies beyond the archive is left out. No piece is empty.
        Raises RuntimeError when a header is not as long as it was counted.
        """
        stop = min(stop, self.size)
        if start >= stop:
            return
        for index in range(max(bisect_right(self._starts, start) - 1, 0), len(self.members)):
            if self._starts[index] >= stop:
                return
            yield from self._member_slice(index, start, stop)
        base = self._starts[-1]
        if stop > base:
            yield _checked(self.format.trailer(), self.size - base)[
                max(start - base, 0) : stop - base
            ]

    def _member_slice(self, index: int, start: int, stop: int) -> Iterator[bytes | Content]:
        member = self.members[index]
        base, content, following = (
            self._starts[index],
            self._contents[index],
            self._starts[index + 1],
        )
        content_stop = content + member.size
        if max(start, base) < min(stop, content):
            before = _checked(self.format.before(member), content - base)
            yield before[max(start - base, 0) : stop - base]
        if max(start, content) < min(stop, content_stop):
            yield Content(member, max(start - content, 0), min(stop, content_stop) - content)
        if max(start, content_stop) < min(stop, following):
            after = _checked(self.format.after(member), following - content_stop)
            yield after[max(start - content_stop, 0) : stop - content_stop]


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
    starts, contents = array("q"), array("q")
    offset = 0
    strong = known = True
    digest = hashlib.sha256(f"tarstream {LAYOUT_VERSION} {format.SUFFIX}\n".encode())
    for first in range(0, len(members), STEP):
        described = []
        for member in members[first : first + STEP]:
            before, after = format.measure(member)
            starts.append(offset)
            contents.append(offset + before)
            offset += before + member.size + after
            validator = member.validator
            if validator is None:
                strong = known = False
            elif not is_strong(validator):
                strong = False
            # Neither names nor validators hold NUL or LF, so this reads in one way only.
            described.append(
                f"{member.name}\0{member.size}\0{member.mtime}\0{validator or ''}\0"
                f"{member.digests}\n"
            )
        # An entity-tag may hold bytes that are not UTF-8 (obs-text, RFC 9110 8.8.3); they are
        # surrogates in a str.
        digest.update("".join(described).encode("utf-8", "surrogatepass"))
        yield
    starts.append(offset)
    tag = digest.hexdigest()[:32]
    layout.format = format
    layout.members = members
    layout.size = offset + len(format.trailer())
    layout.etag = f'"{tag}"' if strong else f'W/"{tag}"' if known else None
    layout._starts = starts  # noqa: SLF001 - this function builds it
    layout._contents = contents  # noqa: SLF001
    return layout


def _checked(rendered: bytes, counted: int) -> bytes:
    if len(rendered) != counted:
        raise RuntimeError(f"rendered {len(rendered)} bytes where {counted} were counted")
    return rendered
