"""Repair: a transient failure at byte k of an object is re-opened at byte k, with its validator.

A member is given up after `attempts` tries in a row that brought less than `PROGRESS` bytes, or
after `patience` seconds without a byte, all tries together. Bytes that come more slowly than
`Pace` allows do not count. What changed is never continued.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Self

from tarstream.errors import OriginBroken, OriginTimeout
from tarstream.layout import Source, is_strong
from tarstream.portion import Portion
from tarstream.splice import Pipe, Splice
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

    def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AbstractAsyncContextManager[Body]:
        """Begin to open; whether that works shows when the body is asked to be ready or to move.

        So a member may be opened long before its turn: patience with its origin begins with it.
        """

        def reopen(position: int) -> AbstractAsyncContextManager[Body]:
            return self._store.open(source, position, stop, size, validator)

        tries = _Tries(self._attempts, self._patience)
        return _RepairedBody(reopen, start, tries, self._pace, continuable=is_strong(validator))


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
        self.now = asyncio.get_running_loop().time
        self.begin()

    def begin(self) -> None:
        """A byte came, or is awaited from here on."""
        self.deadline = self.now() + self._patience

    async def pause(self, error: OriginBroken, brought: int = 0) -> None:
        """Wait before the next try, or raise what ended the last one when there is none."""
        self._failed = 0 if brought >= PROGRESS else self._failed + 1
        pause = min(_FIRST_PAUSE * 2.0 ** max(self._failed - 1, 0), _LONGEST_PAUSE)
        pause *= random.uniform(0.5, 1)  # nosec B311 # noqa: S311 - so that not all come back at once
        pause = max(pause, error.retry_after or 0)
        if self._failed >= self._attempts or self.now() + pause >= self.deadline:
            raise error
        await asyncio.sleep(pause)


class _RepairedBody(AbstractAsyncContextManager[Body]):
    """Entered, it is being opened; waiting for that, and all failures, are for its turn."""

    _connection: AbstractAsyncContextManager[Body] | None
    _opening: asyncio.Task[Body]

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

    async def __aenter__(self) -> Self:
        self._open(self._start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    def _open(self, position: int) -> None:
        """Open from `position` on, in a task: only its turn waits for it, under its deadline."""
        self._connection = self._reopen(position)
        self._opening = asyncio.create_task(self._connection.__aenter__())
        # Its failure is for its turn, which may never come.
        self._opening.add_done_callback(_retrieve)

    async def _close(self) -> None:
        """Give up what is open or being opened."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._opening.cancel():
            await asyncio.wait([self._opening])
        if not self._opening.cancelled() and self._opening.exception() is None:
            await connection.__aexit__(None, None, None)

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
            await self._close()
            await self._tries.pause(error)
            self._open(self._start)

    async def copy_to(self, sink: Sink) -> None:
        """Move all bytes, over as many connections as it takes."""
        base = sink.position - self._start
        self._tries.begin()
        while True:
            began = sink.position
            # What is there already needs no limit, until more of it is waited for.
            limit = asyncio.timeout_at(None if self._opening.done() else self._tries.deadline)
            watched = _Watched(sink, self._tries, self._pace, limit)
            try:
                async with limit:
                    if not self._opening.done():
                        await watched.flush()
                    body = await self._opening
                    return await body.copy_to(watched)
            except (OriginBroken, TimeoutError) as failure:
                error = _cause(failure, limit)
            await self._close()
            # Without a strong validator nothing proves that the rest is of the same version.
            if sink.position > base + self._start and not self._continuable:
                raise error
            await _flush(sink, self._tries)
            await self._tries.pause(error, sink.position - began - watched.too_slow)
            sink.repaired(error)
            self._open(sink.position - base)


class _Watched:
    """A sink that tells when a byte came. Waits for the client are not the origin's fault."""

    def __init__(self, sink: Sink, tries: _Tries, pace: Pace, limit: asyncio.Timeout) -> None:
        self._sink = sink
        self._tries = tries
        self._pace = pace
        self._limit = limit
        self.too_slow = 0
        """Bytes that came while it was found too slow: they are no reason to try once more."""
        self._waits_since: float | None = None
        self._waited = 0.0
        self._came = 0

    @property
    def position(self) -> int:
        return self._sink.position

    @property
    def portion(self) -> Portion:
        return self._sink.portion

    def splice(self) -> Splice | None:
        splice = self._sink.splice()
        if splice is None:
            return None

        async def take(pipe: Pipe) -> None:
            self._check(pipe.held)
            await splice(pipe)
            self._tries.begin()

        return take

    async def write(self, chunk: bytes) -> None:
        self._check(len(chunk))
        await self._sink.write(chunk)
        self._tries.begin()

    async def flush(self) -> None:
        if self._limit.when() is not None:
            self._limit.reschedule(None)
        await _flush(self._sink, self._tries)
        self._limit.reschedule(self._tries.deadline)
        self._waits_since = self._tries.now()

    def _check(self, size: int) -> None:
        """Count what came; raises OriginTimeout when it was too little for too long."""
        # The limit stands while the origin is waited for: from each flush to what comes next.
        if self._limit.when() is not None:
            self._limit.reschedule(None)
        self._came += size
        if self._waits_since is None:
            return  # it was there already
        self._waited += self._tries.now() - self._waits_since
        self._waits_since = None
        if self._waited < self._pace.window:
            return
        if self._came < self._pace.min_rate * self._waited:
            self.too_slow = self._came
            raise OriginTimeout(
                f"its origin gives less than {self._pace.min_rate:g} bytes a second "
                "([upstream] min_rate)",
                kind="slow",
            )
        self._waited, self._came = 0.0, 0

    def repaired(self, cause: OriginBroken) -> None:
        self._sink.repaired(cause)


def _retrieve(opening: "asyncio.Task[Body]") -> None:
    if not opening.cancelled():
        opening.exception()


async def _flush(sink: Sink, tries: _Tries) -> None:
    """Pass on what was gathered, at no cost for the origin."""
    began = tries.now()
    await sink.flush()
    tries.deadline += tries.now() - began


def _cause(failure: OriginBroken | TimeoutError, limit: asyncio.Timeout) -> OriginBroken:
    """What ended a try. Raises what was not the origin's: a sink may time out too."""
    if isinstance(failure, OriginBroken):
        return failure
    if not limit.expired():
        raise failure
    return OriginTimeout("its origin is too slow")
