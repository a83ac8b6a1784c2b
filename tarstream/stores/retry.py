"""Repair: a transient failure at byte k of an object is re-opened at byte k, with its validator.

A member is given up after `attempts` tries in a row that brought less than `PROGRESS` bytes, or
after `patience` seconds without a byte, all tries together. What changed is never continued.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from tarstream.errors import OriginBroken, OriginTimeout
from tarstream.layout import Source, is_strong
from tarstream.stores.base import Body, ObjectMeta, Sink, Store

PROGRESS = 64 * 1024
"""Bytes that make a try count as one that helped: an origin that gives a few bytes a time and
breaks off would be opened thousands of times."""

_FIRST_PAUSE = 0.2  # seconds, doubling ...
_LONGEST_PAUSE = 5.0  # ... up to here


class Retrying:
    """A store that tries again."""

    def __init__(
        self, store: Store, *, attempts: int, patience: float, pace: "Pace | None" = None
    ) -> None:
        self._store = store
        self._attempts = attempts
        self._patience = patience
        self._pace = pace or Pace(min_rate=0, window=1)

    async def head(self, source: Source) -> ObjectMeta:
        """Ask, and ask again."""
        tries = _Tries(self._attempts, self._patience)
        while True:
            limit = asyncio.timeout_at(tries.deadline)
            try:
                async with limit:
                    return await self._store.head(source)
            except (OriginBroken, TimeoutError) as failure:
                error = _cause(failure, limit)
            await tries.pause(error)

    @asynccontextmanager
    async def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AsyncIterator[Body]:
        """Begin to open; whether that works shows when the body is asked to be ready or to move.

        So a member may be opened long before its turn: patience with its origin begins with it.
        """

        def reopen(position: int) -> AbstractAsyncContextManager[Body]:
            return self._store.open(source, position, stop, size, validator)

        tries = _Tries(self._attempts, self._patience)
        body = _RepairedBody(reopen, start, tries, self._pace, continuable=is_strong(validator))
        try:
            yield body
        finally:
            await body.close()


class Pace(NamedTuple):
    """What an origin must give while it is waited for, so that one that drips is noticed."""

    min_rate: float
    """Bytes per second ..."""
    window: float
    """... on average over so many seconds of waiting."""


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

    async def pause(self, error: OriginBroken, brought: int = 0) -> None:
        """Wait before the next try, or raise what ended the last one when there is none."""
        self._failed = 0 if brought >= PROGRESS else self._failed + 1
        pause = min(_FIRST_PAUSE * 2.0 ** max(self._failed - 1, 0), _LONGEST_PAUSE)
        pause *= random.uniform(0.5, 1)  # noqa: S311 - so that not all come back at once
        pause = max(pause, error.retry_after or 0)
        now = asyncio.get_running_loop().time()
        if self._failed >= self._attempts or now + pause >= self.deadline:
            raise error
        await asyncio.sleep(pause)


class _RepairedBody:
    def __init__(
        self,
        reopen: Callable[[int], AbstractAsyncContextManager[Body]],
        start: int,
        tries: _Tries,
        pace: Pace,
        *,
        continuable: bool,
    ) -> None:
        self._reopen = reopen
        self._start = start
        self._tries = tries
        self._pace = pace
        self._continuable = continuable
        self._connection = AsyncExitStack()
        self._opening = self._open(start)

    async def close(self) -> None:
        """Give up what is open or being opened."""
        self._opening.cancel()
        try:
            if not self._opening.done():
                await asyncio.wait([self._opening])
        finally:
            await self._connection.aclose()

    async def ready(self) -> None:
        """Return once a body is open, or raise when it is given up."""
        self._tries.begin()
        while True:
            limit = asyncio.timeout_at(self._tries.deadline)
            try:
                async with limit:
                    body = await self._opening
                    return await body.ready()
            except (OriginBroken, TimeoutError) as failure:
                error = _cause(failure, limit)
            await self.close()
            await self._tries.pause(error)
            self._opening = self._open(self._start)

    async def copy_to(self, sink: Sink) -> None:
        """Move all bytes, over as many connections as it takes."""
        base = sink.position - self._start
        self._tries.begin()
        while True:
            began = sink.position
            limit = asyncio.timeout_at(self._tries.deadline)
            try:
                async with limit:
                    watched = _Watched(sink, self._tries, self._pace, limit)
                    if not self._opening.done():
                        await watched.flush()
                    body = await self._opening
                    return await body.copy_to(watched)
            except (OriginBroken, TimeoutError) as failure:
                error = _cause(failure, limit)
            await self.close()
            # Without a strong validator nothing proves that the rest is of the same version.
            if sink.position > base + self._start and not self._continuable:
                raise error
            await _flush(sink, self._tries)
            await self._tries.pause(error, sink.position - began)
            sink.repaired(error)
            self._opening = self._open(sink.position - base)

    def _open(self, position: int) -> asyncio.Task[Body]:
        """Open from `position` on, in a task: only its turn waits for it, under its deadline."""
        context = self._reopen(position)
        opening = asyncio.ensure_future(self._connection.enter_async_context(context))
        # Its failure is for its turn, which may never come.
        opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        return opening


class _Watched:
    """A sink that tells when a byte came. Waits for the client are not the origin's fault."""

    def __init__(self, sink: Sink, tries: _Tries, pace: Pace, limit: asyncio.Timeout) -> None:
        self._sink = sink
        self._tries = tries
        self._pace = pace
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._waits_since: float | None = None
        self._waited = 0.0
        self._came = 0

    @property
    def position(self) -> int:
        return self._sink.position

    async def write(self, chunk: bytes) -> None:
        # The limit stands while the origin is waited for: from each flush to the next write.
        if self._limit.when() is not None:
            self._limit.reschedule(None)
        self._check_pace(len(chunk))
        await self._sink.write(chunk)
        self._tries.begin()

    async def flush(self) -> None:
        if self._limit.when() is not None:
            self._limit.reschedule(None)
        await _flush(self._sink, self._tries)
        self._limit.reschedule(self._tries.deadline)
        self._waits_since = self._loop.time()

    def _check_pace(self, size: int) -> None:
        """Count what came; raises OriginTimeout when it was too little for too long."""
        self._came += size
        if self._waits_since is None:
            return  # it was there already
        self._waited += self._loop.time() - self._waits_since
        self._waits_since = None
        if self._waited < self._pace.window:
            return
        if self._came < self._pace.min_rate * self._waited:
            raise OriginTimeout(
                f"its origin gives less than {self._pace.min_rate:g} bytes a second "
                "([upstream] min_rate)"
            )
        self._waited, self._came = 0.0, 0

    def repaired(self, cause: Exception) -> None:
        self._sink.repaired(cause)


async def _flush(sink: Sink, tries: _Tries) -> None:
    """Pass on what was gathered, at no cost for the origin."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await sink.flush()
    tries.deadline += loop.time() - began


def _cause(failure: OriginBroken | TimeoutError, limit: asyncio.Timeout) -> OriginBroken:
    """What ended a try. Raises what was not the origin's: a sink may time out too."""
    if isinstance(failure, OriginBroken):
        return failure
    if not limit.expired():
        raise failure
    return OriginTimeout("its origin is too slow")
