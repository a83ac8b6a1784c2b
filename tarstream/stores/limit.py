"""How many connections an origin sees, and how much may wait in buffers before its turn.

HEADs wait for a connection. A member opened ahead takes one only when it is free, and gives it
back at its turn: what slow clients are being sent must not hold up anybody else.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tarstream.layout import Source
from tarstream.stores.base import Body, ObjectMeta, Store, origin_of

AHEAD_COST = 128 * 1024
"""Bytes that a member opened ahead may hold in our buffers: aiohttp's, and one read of a socket."""


class Slots:
    """Connections per origin, and bytes opened ahead in the whole process.

    Every fourth connection is kept from members opened ahead, so that clients who stopped reading
    cannot take all of them: planning goes on.
    """

    def __init__(self, connections: int, ahead_total_bytes: int) -> None:
        self._connections = connections
        self._for_ahead = connections - (connections + 3) // 4
        self._bytes = ahead_total_bytes
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def connection(self, source: Source) -> AsyncIterator[None]:
        """Hold one connection to the source's origin, waiting for it in order of arrival."""
        origin = origin_of(source)
        if self._taken.get(origin, 0) >= self._connections:
            await self._wait(origin)
        else:
            self._taken[origin] = self._taken.get(origin, 0) + 1
        try:
            yield
        finally:
            self._give(origin)

    def take_ahead(self, source: Source, size: int) -> int | None:
        """Take a connection if one is free; what to hand to `give_ahead`, else None."""
        origin = origin_of(source)
        cost = min(size, AHEAD_COST)
        taken = self._taken.get(origin, 0)
        if taken >= self._for_ahead or cost > self._bytes:
            return None
        self._taken[origin] = taken + 1
        self._bytes -= cost
        return cost

    def give_ahead(self, source: Source, cost: int) -> None:
        """Give back what `take_ahead` gave."""
        self._bytes += cost
        self._give(origin_of(source))

    async def _wait(self, origin: str) -> None:
        """Wait until a connection is handed over; it is counted as taken all the while."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(origin, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(origin)  # handed over in the very moment we left
            raise

    def _give(self, origin: str) -> None:
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
