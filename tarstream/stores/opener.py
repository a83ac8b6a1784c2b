"""Contents that somebody else opens: a function that gives them from any byte on, or an iterator.

Whatever it raises may pass, and is tried again; a `TarstreamError` says itself whether it does.
Giving anything else than bytes is a mistake of the program, and a TypeError at once.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tarstream.errors import ObjectChanged, OriginBroken, OriginError, TarstreamError
from tarstream.layout import Opener, Source
from tarstream.stores.base import Body, ObjectMeta, Sink


class OpenerStore:
    """Sources that are `Opener`s. What they give is counted, and cannot be asked about."""

    async def head(self, source: Source) -> ObjectMeta:
        """Nobody to ask."""
        raise OriginError("only who opens it can say how long it is")

    @asynccontextmanager
    async def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AsyncIterator[Body]:
        """Open it, and take its first chunk: of a generator nothing has run before."""
        assert isinstance(source, Opener)
        body = _OpenerBody(source, start, stop, ends=stop == size)
        try:
            await body.begin()
            yield body
        finally:
            await body.close()


class _OpenerBody:
    def __init__(self, opener: Opener, start: int, stop: int, *, ends: bool) -> None:
        self._opener = opener
        self._start = start
        self._stop = stop
        self._left = stop - start
        # What can be opened once begins at its beginning.
        self._skip = start if opener.once else 0
        self._ends = ends
        self._chunks: AsyncIterator[Any] | None = None
        self._first: bytes | None = None
        # A generator must not be closed while it runs, which it may do in another task.
        self._running = asyncio.Lock()

    async def begin(self) -> None:
        with _failing(self._opener):
            async with self._running:
                opened = self._opener.open(self._start, self._stop)
                if inspect.isawaitable(opened):
                    opened = await opened
        if not hasattr(opened, "__aiter__"):
            raise TypeError(
                "a function that is a source must give an asynchronous iterator, as `async def` "
                f"with `yield` does: it gave a {type(opened).__name__}"
            )
        self._chunks = aiter(opened)
        self._first = await self._next()

    async def ready(self) -> None:
        """Its first chunk is here."""

    async def copy_to(self, sink: Sink) -> None:
        chunk, self._first = self._first, None
        while chunk is not None:
            if self._skip:
                chunk, self._skip = chunk[self._skip :], max(self._skip - len(chunk), 0)
            if len(chunk) > self._left:
                if self._ends:
                    raise ObjectChanged("it has more bytes than planned")
                chunk = chunk[: self._left]
            if chunk:
                self._left -= len(chunk)
                await sink.write(chunk)
            if not self._left and not self._ends:
                return
            await sink.flush()
            chunk = await self._next()
        if self._left:
            with _failing(self._opener):
                raise EOFError("it ends early")

    async def close(self) -> None:
        async with self._running:
            close = getattr(self._chunks, "aclose", None)
            if close is not None:
                await close()

    async def _next(self) -> bytes | None:
        assert self._chunks is not None
        with _failing(self._opener):
            async with self._running:
                try:
                    chunk = await anext(self._chunks)
                except StopAsyncIteration:
                    return None
        if isinstance(chunk, bytes):
            return chunk
        try:
            # Copied: it is held for a while, and whoever gave it may fill it again.
            return bytes(memoryview(chunk))
        except TypeError:
            kind = type(chunk).__name__
            raise TypeError(f"a source must give bytes: it gave a {kind}") from None


@contextmanager
def _failing(opener: Opener) -> Iterator[None]:
    """What is raised, as an error of ours: one that passes, if it can be opened again."""
    try:
        yield
    except TarstreamError:
        raise
    except EOFError as error:
        raise _kind(opener)("its source ends it early") from error
    except Exception as error:
        raise _kind(opener)("its source failed") from error


def _kind(opener: Opener) -> type[OriginError]:
    return OriginError if opener.once else OriginBroken
