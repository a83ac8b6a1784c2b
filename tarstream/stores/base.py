"""What a store is: the objects of an origin, read and nothing else.

A store raises `TarstreamError`s only; what passes by itself is an `OriginBroken`. Wrappers that
retry, guard or limit have this interface too.
"""

import re
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from tarstream.errors import OriginBroken
from tarstream.layout import Source
from tarstream.portion import Portion
from tarstream.splice import Splice

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#\\]*)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class ObjectMeta(NamedTuple):
    """What an origin says about an object."""

    size: int
    """Bytes."""
    mtime: int | None
    """Whole seconds since the epoch, where the origin tells."""
    validator: str | None
    """See `Member.validator`."""


class Sink(Protocol):
    """Where a body goes."""

    @property
    def position(self) -> int:
        """Bytes taken so far; counts on over several bodies."""

    @property
    def portion(self) -> Portion:
        """How much to give at a time, where a body can choose; the same over several of them."""

    def splice(self) -> Splice | None:
        """Takes what is in a pipe, as `write` does a chunk; None where contents must be seen.

        The last `splice.TAIL` bytes are to be written.
        """

    async def write(self, chunk: bytes) -> None:
        """Take a chunk; returns when there is room for the next."""

    async def flush(self) -> None:
        """Pass on what was gathered. To be called before a wait for the origin."""

    def repaired(self, cause: OriginBroken) -> None:
        """A body broke off because of `cause` and goes on."""


class Body(Protocol):
    """The bytes that were asked for, on their way."""

    async def ready(self) -> None:
        """Return once the origin has answered as planned; raises when it will not."""

    async def copy_to(self, sink: Sink) -> None:
        """Move exactly the bytes that were asked for into the sink, or raise."""


class Store(Protocol):
    """Objects of an origin."""

    async def head(self, source: Source) -> ObjectMeta:
        """Ask what the object is."""

    def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AbstractAsyncContextManager[Body]:
        """Open the bytes [start, stop), which are not empty, of an object that has `size` bytes.

        Raises ObjectChanged when the object is not of that size and validator.
        It may be entered by one task and left by another.
        """


class Redirected(Exception):
    """The origin points to `location`."""

    def __init__(self, location: str) -> None:
        super().__init__("redirected")
        self.location = location


class Elsewhere(str):
    """A URL that another origin than its own has named, by a redirect.

    A request for it carries nothing that proves who we are: or an origin that may be read could
    have us read for it what is private at another one.
    """

    __slots__ = ()


class AddressRefused(OSError):
    """Raised by a socket factory for an address that must not be connected to.

    An OSError, because only those survive the race for the fastest address unchanged.
    """


def origin_of(source: Source) -> str:
    """Scheme and authority of a URL, to tell origins apart; "" for what is no URL."""
    if not isinstance(source, str):
        return ""
    found = _ORIGIN.match(source)
    if found is None:
        return source
    scheme, authority = found[1].lower(), found[2].lower()
    return f"{scheme}://{authority.removesuffix(_DEFAULT_PORTS.get(scheme, ' '))}"
