"""What a catalog is: ids in, what they stand for out."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tarstream.digests import described


class Entry(NamedTuple):
    """One file that an id stands for, and what is known of it beforehand.

    Or an empty directory: its name ends in a slash, and its contents are `b""`.
    """

    source: str | bytes
    """A URL, or the contents themselves; see `inline`."""
    name: str
    """As the catalog gives it; made safe and unique later."""
    size: int | None = None
    """Bytes."""
    mtime: int | None = None
    """Whole seconds since the epoch."""
    etag: str | None = None
    """As the origin sends it, quotes included."""
    digests: tuple[tuple[str, str], ...] = ()
    """Algorithm and lower-case hex."""


def inline(data: bytes, name: str, mtime: int = 0) -> Entry:
    """The entry of contents that are at hand, of which everything is known."""
    return Entry(data, name, len(data), mtime, *described(data))


class Unknown(NamedTuple):
    """Why there is nothing for an id."""

    reason: str


class Caller(NamedTuple):
    """Who asks."""

    address: str
    request_id: str


Found = Sequence[Entry] | Unknown


class Catalog(Protocol):
    """Where ids come from."""

    async def lookup(self, ids: Sequence[str], caller: Caller) -> Sequence[Found]:
        """For each id, in order, its entries, in theirs, or why there are none.

        All ids are asked for at once, since a catalog may be a database. Raises TarstreamError
        when it cannot answer at all.
        """

    async def watch(self) -> None:
        """Keep up with changes until cancelled; returns at once where nothing can change."""


class CatalogError(Exception):
    """A catalog that cannot be used; the message says where and why, for operators."""
