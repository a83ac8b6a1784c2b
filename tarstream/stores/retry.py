"""Repair: a transient failure at byte k of an object is re-opened at byte k, with its validator.

A member is given up after `attempts` tries in a row that brought less than `PROGRESS` bytes, or
after `patience` seconds without a byte, all tries together. What changed is never continued.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from tarstream.errors import OriginBroken, OriginTimeout, TarstreamError
from tarstream.layout import Source, is_strong
from tarstream.stores.base import Body, ObjectMeta, Sink, Store

PROGRESS = 64 * 1024
"""Bytes that make a try count as one that helped: an origin that gives a few bytes a time and
breaks off would be opened thousands of times."""

_FIRST_PAUSE = 0.2  # seconds, doubling ...
_LONGEST_PAUSE = 5.0  # ... up to here


class Retrying:
    """A store that tries again."""

    def __init__(self, store: Store, *, attempts: int, patience: float) -> None:
        self._store = store
        self._attempts = attempts
        self._patience = patience

    async def head(self, source: Source) -> ObjectMeta:
        """Ask, and ask again."""
        tries = _Tries(self._attempts, self._patience)
        while True:
            try:
                async with asyncio.timeout_at(tries.deadline):
                    return await self._store.head(source)
            except (OriginBroken, TimeoutError) as error:
                await tries.pause(error)

    @asynccontextmanager
    async def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AsyncIterator[Body]:
        """Try to open; a failure shows only when the body is asked to be ready or to move.

        So a member may be opened long before its turn: patience with its origin begins with it.
        """
        async with AsyncExitStack() as connection:

            async def reopen(position: int) -> Body:
                await connection.aclose()
                return await connection.enter_async_context(
                    self._store.open(source, position, stop, size, validator)
                )

            tries = _Tries(self._attempts, self._patience)
            body = _RepairedBody(reopen, start, tries, continuable=is_strong(validator))
            await body.open_early()
            yield body


class _Tries:
    """How often, and how long still."""

    def __init__(self, attempts: int, patience: float) -> None:
        self._attempts = attempts
        self._patience = patience
        self._failed = 0  # tries in a row that brought next to nothing
        self.begin()

    def begin(self) -> None:
        """A byte came, or is awaited from here on."""
        self.deadline = asyncio.get_running_loop().time() + self._patience

    async def pause(self, error: Exception, brought: int = 0) -> None:
        """Wait before the next try, or raise what ended the last one when there is none."""
        self._failed = 0 if brought >= PROGRESS else self._failed + 1
        pause = min(_FIRST_PAUSE * 2.0 ** max(self._failed - 1, 0), _LONGEST_PAUSE)
        pause *= random.uniform(0.5, 1)  # noqa: S311 - so that not all come back at once
        if isinstance(error, OriginBroken):
            pause = max(pause, error.retry_after or 0)
        else:
            error = OriginTimeout("its origin is too slow")
        now = asyncio.get_running_loop().time()
        if self._failed >= self._attempts or now + pause >= self.deadline:
            raise error
        await asyncio.sleep(pause)


class _RepairedBody:
    def __init__(
        self,
        reopen: Callable[[int], Awaitable[Body]],
        start: int,
        tries: _Tries,
        *,
        continuable: bool,
    ) -> None:
        self._reopen = reopen
        self._start = start
        self._tries = tries
        self._continuable = continuable
        self._body: Body | None = None
        self._failure: TarstreamError | None = None

    async def open_early(self) -> None:
        """One try, whose failure is kept for later."""
        try:
            self._body = await self._reopen(self._start)
        except TarstreamError as error:
            self._failure = error

    async def ready(self) -> None:
        """Return once a body is open, or raise when it is given up."""
        self._tries.begin()
        while True:
            try:
                async with asyncio.timeout_at(self._tries.deadline):
                    body = await self._opened(self._start)
                    return await body.ready()
            except (OriginBroken, TimeoutError) as error:
                self._body = None
                await self._tries.pause(error)

    async def copy_to(self, sink: Sink) -> None:
        """Move all bytes, over as many connections as it takes."""
        base = sink.position - self._start
        self._tries.begin()
        while True:
            began = sink.position
            try:
                async with asyncio.timeout_at(self._tries.deadline) as limit:
                    body = await self._opened(began - base)
                    return await body.copy_to(_Watched(sink, self._tries, limit))
            except (OriginBroken, TimeoutError) as error:
                self._body = None
                # Without a strong validator nothing proves that the rest is of the same version.
                if sink.position > base + self._start and not self._continuable:
                    raise
                await self._tries.pause(error, sink.position - began)
                sink.repaired(error)

    async def _opened(self, position: int) -> Body:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._body is None:
            self._body = await self._reopen(position)
        return self._body


class _Watched:
    """A sink that tells when a byte came. Waits for the client are not the origin's fault."""

    def __init__(self, sink: Sink, tries: _Tries, limit: asyncio.Timeout) -> None:
        self._sink = sink
        self._tries = tries
        self._limit = limit

    @property
    def position(self) -> int:
        return self._sink.position

    async def write(self, chunk: bytes) -> None:
        # From the first byte on it is the store's own read timeout that notices a stall.
        if self._limit.when() is not None:
            self._limit.reschedule(None)
        await self._sink.write(chunk)
        self._tries.begin()

    async def flush(self) -> None:
        if self._limit.when() is None:
            await self._sink.flush()
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._limit.reschedule(None)
        await self._sink.flush()
        self._tries.deadline += loop.time() - began
        self._limit.reschedule(self._tries.deadline)

    def repaired(self, cause: Exception) -> None:
        self._sink.repaired(cause)
