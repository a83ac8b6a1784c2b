"""What is remembered of objects: what HEAD said, for a short while; digests that were computed.

A gateway is asked for the same archive again and again: by parallel downloaders, for each range.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from tarstream.layout import Source
from tarstream.stores.base import ObjectMeta

K = TypeVar("K")
V = TypeVar("V")


class Memory(Protocol[K, V]):
    """Where it is remembered; many at once, because it may be another process."""

    async def get_many(self, keys: Sequence[K]) -> Mapping[K, V]:
        """What is remembered of these."""

    async def put_many(self, items: Mapping[K, V]) -> None:
        """Remember these."""

    async def forget(self, key: K) -> None:
        """Remember nothing of this one."""


class LocalMemory(Generic[K, V]):
    """Remembers in this process, for `seconds`, the latest `limit` of them."""

    def __init__(
        self, seconds: float, limit: int = 50_000, clock: Callable[[], float] | None = None
    ) -> None:
        self._seconds = seconds
        self._limit = limit
        self._clock = clock or asyncio.get_running_loop().time
        self._items: OrderedDict[K, tuple[float, V]] = OrderedDict()

    async def get_many(self, keys: Sequence[K]) -> Mapping[K, V]:
        """What is remembered and not yet too old."""
        now = self._clock()
        found = {}
        for key in keys:
            item = self._items.get(key)
            if item is not None and now < item[0]:
                found[key] = item[1]
        return found

    async def put_many(self, items: Mapping[K, V]) -> None:
        """Remember, and drop what is too old or too much."""
        now = self._clock()
        if self._seconds > 0:
            for key, value in items.items():
                self._items[key] = (now + self._seconds, value)
                self._items.move_to_end(key)
        while self._items:
            oldest = next(iter(self._items))
            if len(self._items) <= self._limit and now < self._items[oldest][0]:
                break
            del self._items[oldest]

    async def forget(self, key: K) -> None:
        """Forget."""
        self._items.pop(key, None)


class Flights:
    """One question at a time about each source: who asks the same meanwhile shares the answer."""

    def __init__(self, ask: Callable[[Source], Awaitable[ObjectMeta]]) -> None:
        self._ask = ask
        self._flights: dict[Source, tuple[asyncio.Task[ObjectMeta], list[int]]] = {}

    async def ask(self, source: Source) -> ObjectMeta:
        """The answer. The question is dropped only when everybody who waits for it has left."""
        flight = self._flights.get(source)
        if flight is None:
            task = asyncio.ensure_future(self._fly(source))
            # Its failure is for those who wait; nobody may be left.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            flight = self._flights[source] = (task, [0])
        task, waiting = flight
        waiting[0] += 1
        try:
            # It is not cancelled with who waits. `shield` would log its failure as nobody's when
            # one of them has left.
            await asyncio.wait((task,))
            return task.result()
        finally:
            waiting[0] -= 1
            if not waiting[0] and not task.done():
                task.cancel()
                # Whoever asks from here on asks anew.
                self._flights.pop(source, None)

    async def _fly(self, source: Source) -> ObjectMeta:
        try:
            return await self._ask(source)
        finally:
            flight = self._flights.get(source)
            if flight is not None and flight[0] is asyncio.current_task():
                del self._flights[source]
