"""How many connections an origin sees, and how much may wait in buffers before its turn.

HEADs wait for a connection. A member opened ahead takes one only when it is free, and gives it
back at its turn: what slow clients are being sent must not hold up anybody else.

Fair is that an archive of many members holds up none of few: of either kind it has no more than
half, and of those ahead the less the more archives have some.
"""

import asyncio
from collections import deque
from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager
from math import ceil
from typing import NamedTuple

from tarstream.layout import Source
from tarstream.stores.base import Body, ObjectMeta, Store, origin_of

AHEAD_COST = 128 * 1024
"""Bytes that a member opened ahead may hold in our buffers: aiohttp's, and one read of a socket."""


class Ahead(NamedTuple):
    """A connection for a member opened ahead, to be given back."""

    origin: str
    cost: int
    """Bytes that it may hold in buffers."""
    archive: Hashable


class Slots:
    """Connections per origin, and bytes opened ahead in the whole process.

    Every fourth connection is kept from members opened ahead, so that clients who stopped reading
    cannot take all of them: planning goes on. An archive gets no more than would be its
    share if there were one more, so that the next one finds some.
    """

    def __init__(self, connections: int, ahead_total_bytes: int) -> None:
        self._connections = connections
        self._for_ahead = connections - (connections + 3) // 4
        self._bytes = ahead_total_bytes
        self._taken: dict[str, int] = {}
        self._ahead: dict[str, dict[Hashable, int]] = {}  # of those, opened ahead, by archive
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def at_once(self) -> int:
        """Connections that one archive may ask for at a time: others are next in the queue."""
        return max(self._connections // 2, 1)

    def connection(self, source: Source) -> AbstractAsyncContextManager[None]:
        """Hold one connection to the source's origin, waiting for it in order of arrival."""
        return _Connection(self, origin_of(source))

    async def take(self, origin: str) -> None:
        """Take a connection, which has to be given back."""
        taken = self._taken.get(origin, 0)
        if taken >= self._connections:
            await self._wait(origin)
        else:
            self._taken[origin] = taken + 1

    def take_ahead(self, source: Source, size: int, archive: Hashable) -> Ahead | None:
        """Take a connection if one is free and `archive` has less than its share, else None."""
        origin = origin_of(source)
        cost = min(size, AHEAD_COST)
        taken = self._taken.get(origin, 0)
        if taken >= self._for_ahead or cost > self._bytes:
            return None
        held = self._ahead.setdefault(origin, {})
        has = held.get(archive, 0)
        archives = len(held) + (0 if has else 1)
        if has >= ceil(self._for_ahead / (archives + 1)):
            return None
        self._taken[origin] = taken + 1
        held[archive] = has + 1
        self._bytes -= cost
        return Ahead(origin, cost, archive)

    def give_ahead(self, ahead: Ahead) -> None:
        """Give back what `take_ahead` gave."""
        origin, cost, archive = ahead
        held = self._ahead[origin]
        if held[archive] > 1:
            held[archive] -= 1
        else:
            del held[archive]
        if not held:
            del self._ahead[origin]
        self._bytes += cost
        self.give(origin)

    async def _wait(self, origin: str) -> None:
        """Wait until a connection is handed over; it is counted as taken all the while."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(origin, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(origin)  # handed over in the very moment we left
            raise

    def give(self, origin: str) -> None:
        """Give back a connection: to who waits longest, or to nobody."""
        waiting = self._waiting.get(origin)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._waiting.pop(origin, None)
        self._taken[origin] -= 1
        if not self._taken[origin]:
            del self._taken[origin]


class _Connection(AbstractAsyncContextManager[None]):
    def __init__(self, slots: Slots, origin: str) -> None:
        self._slots = slots
        self._origin = origin

    async def __aenter__(self) -> None:
        await self._slots.take(self._origin)

    async def __aexit__(self, *_: object) -> None:
        self._slots.give(self._origin)


class Limited:
    """A store whose HEADs wait for a connection. What is opened is counted by who opens it."""

    def __init__(self, store: Store, slots: Slots) -> None:
        self._store = store
        self._slots = slots

    async def head(self, source: Source) -> ObjectMeta:
        """Ask, when there is a connection for it."""
        async with self._slots.connection(source):
            return await self._store.head(source)

    def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AbstractAsyncContextManager[Body]:
        """Open without waiting."""
        return self._store.open(source, start, stop, size, validator)
