"""A last member that lists the digests of all others, as `sha256sum -c` reads them.

Its length is known beforehand. Its contents are once those of all others have passed.
"""

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence

from tarstream.digests import Digest, Digests, of, stated
from tarstream.layout import STEP, Listing, Member
from tarstream.stores.base import Sink

_VALIDATOR = "listing"  # a strong one: equal members have equal digests


def listing_in_steps(
    algorithm: str, members: Sequence[Member], name: str
) -> Generator[None, None, Member]:
    """The member that lists `members`; yields now and then. Directories have no contents to list.

    Where each digest is stated, so is its own CRC-32.
    """
    listing = Listing(algorithm, [member for member in members if not member.is_directory])
    unknown = of(b"", algorithm)  # of the length of any other
    size, certain = 0, True
    crc = Digest("crc32", None)

    def digest(member: Member, algorithm: str) -> str:
        nonlocal certain
        value = stated(member, algorithm)
        certain = certain and value is not None
        return value or unknown

    for lines in _lines(listing, digest):
        size += len(lines)
        crc.update(lines)
        yield
    digests = (("crc32", crc.finish()),) if certain else ()
    return Member(name, size, 0, listing, _VALIDATOR, digests)


class ListingBody:
    """The bytes [start, stop) of a listing, made when it is their turn."""

    def __init__(self, listing: Listing, start: int, stop: int, digests: Digests) -> None:
        self._listing = listing
        self._start = start
        self._stop = stop
        self._digests = digests

    async def ready(self) -> None:
        """No origin is asked."""

    async def copy_to(self, sink: Sink) -> None:
        """Move the lines into the sink."""
        begins = 0
        for lines in _lines(self._listing, self._digests.of):
            first, last = max(self._start - begins, 0), self._stop - begins
            begins += len(lines)
            if first < min(last, len(lines)):
                await sink.write(lines[first:last])
            await asyncio.sleep(0)  # others may have waited for these to be made


def _lines(listing: Listing, digest: Callable[[Member, str], str]) -> Iterator[bytes]:
    """Its lines, some hundred at a time."""
    for first in range(0, len(listing.members), STEP):
        yield b"".join(
            f"{digest(member, listing.algorithm)}  {_path(member.name)}\n".encode()
            for member in listing.members[first : first + STEP]
        )


def _path(name: str) -> str:
    # To sha256sum it means standard input. Names hold nothing else that it would read otherwise.
    return "./-" if name == "-" else name
