"""The bytes of a transfer, pulled: what moves them is a task of its own (PEP 789).

A stream that is closed, or that nobody holds any more, ends that task and all that it opened.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self, TypeVar

from tarstream.compress import Compression
from tarstream.transfer import MemberFailed, Transfer, Write

_T = TypeVar("_T")

Run = Callable[[Callable[[Transfer], Awaitable[None]]], Awaitable[None]]
"""Makes a transfer, has it moved by what it is given, and cleans up."""


class Stream:
    """An asynchronous iterator of bytes, to be iterated once, in one event loop.

    Nothing is opened before the first chunk is asked for, or `ready` awaited. Ends only when all
    bytes were given; else it raises a TarstreamError, and what was given ends inside of a member,
    also in what can be decompressed of it.
    `aclose` gives up what is open; so do the end, an error, a cancelled wait, and garbage
    collection. After that it raises ValueError.
    """

    def __init__(self, run: Run, compression: Callable[[], Compression] | None = None) -> None:
        self._run = run
        self._compression = compression
        self._task: asyncio.Task[None] | None = None
        self._handover: _Handover
        self._closed = False

    async def ready(self) -> None:
        """Return once the first member that is needed is open; raises when it cannot be."""
        await self._waiting(self._start().begun())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._waiting(self._start().take())
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Give up what is open, and wait until it is closed."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._task is not None and not self._task.done():
            with suppress(RuntimeError):  # then the loop is closed, and the task with it
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def _start(self) -> "_Handover":
        if self._closed:
            raise ValueError("the stream is closed")
        if self._task is None:
            # The task knows what it hands over, and not the stream: so nobody may hold that.
            self._handover = _Handover()
            self._task = asyncio.create_task(_push(self._run, self._compression, self._handover))
        return self._handover

    async def _waiting(self, awaitable: Awaitable[_T]) -> _T:
        try:
            return await awaitable
        except BaseException:
            # As an async generator: who stopped waiting, or was told of a failure, is done.
            await self.aclose()
            raise


class _Handover:
    """One chunk at a time, from the task to whoever pulls."""

    def __init__(self) -> None:
        self._chunk = b""
        self._error: Exception | None = None
        self._began = asyncio.Event()
        self._full = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()
        self._ended = False

    def begin(self) -> None:
        self._began.set()

    async def begun(self) -> None:
        await self._began.wait()
        if self._error is not None and not self._chunk:
            raise self._error

    async def put(self, chunk: bytes) -> None:
        await self._free.wait()
        self._free.clear()
        self._chunk = chunk
        self._full.set()

    async def take(self) -> bytes:
        """The next chunk; empty at the end."""
        await self._full.wait()
        chunk, self._chunk = self._chunk, b""
        if not chunk and self._error is not None:
            raise self._error
        if not self._ended:
            self._full.clear()
        self._free.set()
        return chunk

    def end(self, error: Exception | None) -> None:
        self._error = error
        self._ended = True
        self._began.set()
        self._full.set()


async def _push(
    run: Run, compression: Callable[[], Compression] | None, handover: _Handover
) -> None:
    coding = compression and compression()

    async def put(chunk: bytes) -> None:
        await handover.put(await coding.compress(chunk) if coding else chunk)

    async def begin() -> Write:
        handover.begin()
        return put

    async def move(transfer: Transfer) -> None:
        try:
            await transfer.run(begin)
            if coding:
                await handover.put(await coding.finish())
        except MemberFailed as failed:
            rest = transfer.abort()
            if rest:
                await put(rest)
            cause = failed.cause
            raise cause.about(failed.member.id or failed.member.name) from failed

    error: Exception | None = RuntimeError("the event loop ended before the stream did")
    try:
        await run(move)
    except Exception as failure:  # noqa: BLE001 - raised where the stream is pulled
        error = failure
    else:
        error = None
    finally:
        handover.end(error)
