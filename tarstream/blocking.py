"""Streams for programs without an event loop: an iterator, and a file that can be sought in.

Each has a thread with an event loop of its own, from the first byte to the last. So nothing is
shared between threads, and a process may fork before.
"""

import asyncio
import atexit
import io
import operator
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any, Self, TypeVar

from tarstream.stream import Stream

_T = TypeVar("_T")

_AT_EXIT = 5
"""Seconds for which the end of the process waits for streams that were left open."""


class BlockingStream:
    """An iterator of bytes, to be iterated once; see `Stream`.

    `close` gives up what is open; so do the end, an error, and garbage collection.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._thread: _Thread | None = None
        self._closed = False
        self._ended = False

    def ready(self) -> None:
        """Return once the first member that is needed is open; raises when it cannot be."""
        self._run(self._stream.ready())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        chunk = self._run(_next(self._stream))
        if not chunk:
            self._ended = True
            self.close()
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Give up what is open, and wait until it is closed."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None and thread.process == os.getpid():
            thread.end()
            if thread is not threading.current_thread():  # where garbage may be collected
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._thread is not None and self._thread.process == os.getpid():
            self._thread.end()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        if self._closed:
            coroutine.close()
            raise ValueError("the stream is closed")
        if self._thread is None:
            self._thread = _Thread(self._stream)
            self._thread.start()
        elif self._thread.process != os.getpid():
            coroutine.close()
            raise ValueError("the stream was begun in another process, which has its connections")
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._thread.loop).result()
        except BaseException:
            self.close()
            raise


async def _next(stream: Stream) -> bytes:
    return await anext(stream, b"")


class _Thread(threading.Thread):
    """An event loop for a stream, until that is closed.

    A daemon: a stream that somebody forgot does not keep the process from ending.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(name="tarstream", daemon=True)
        self.process = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._stream = stream
        self._ends = False

    def run(self) -> None:
        """Run the loop until it is stopped."""
        # When the process ends there is no other thread to wait in for those that read files.
        with suppress(RuntimeError), asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop().run_forever()

    def end(self) -> None:
        """Close the stream in its loop, then stop the loop; once."""
        if not self._ends:
            self._ends = True
            with suppress(RuntimeError):  # then the loop is closed
                self.loop.call_soon_threadsafe(lambda: self.loop.create_task(self._end()))

    async def _end(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self.loop.stop()


@atexit.register
def _end_all() -> None:
    """Close what was left open: a loop that ends with the process complains of what it has open."""
    threads = [thread for thread in threading.enumerate() if isinstance(thread, _Thread)]
    for thread in threads:
        thread.end()
    ends = monotonic() + _AT_EXIT
    for thread in threads:
        thread.join(max(ends - monotonic(), 0))


class ArchiveFile(io.RawIOBase):
    """An archive as a file: read-only, and seekable where parts of it may be asked for.

    A read gives as many bytes as it is asked for, unless the end comes first. Reading on after
    seeking opens the members anew. `size` is None where nobody knows it before the end.
    """

    def __init__(
        self, open_at: Callable[[int], BlockingStream], size: int | None, *, seekable: bool
    ) -> None:
        super().__init__()
        self._open_at = open_at
        self._size = size
        self._seekable = seekable
        self._position = 0
        self._stream: BlockingStream | None = None
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """Whether any part of the archive may be asked for alone."""
        return self._seekable

    def tell(self) -> int:
        """Offset in the archive, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another offset; what is open is closed when that is not where it stands."""
        self._check()
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        if whence not in bases:
            raise ValueError(f"whence must be 0, 1 or 2, and is {whence!r}")
        base = bases[whence]
        if base is None:
            raise io.UnsupportedOperation("nobody knows where the archive ends")
        position = base + operator.index(offset)
        if position < 0:
            raise ValueError(f"there is nothing at {position}")
        if position != self._position:
            if not self._seekable:
                raise io.UnsupportedOperation("no part of the archive can be had alone")
            self._leave()
            self._position = position
        return position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - what has a buffer has no other type
        """Fill the buffer, as far as there are bytes. Raises TarstreamError."""
        self._check()
        view = memoryview(buffer).cast("B")
        wanted = len(view)
        if self._size is not None:
            wanted = min(wanted, max(self._size - self._position, 0))
        filled = 0
        while filled < wanted:
            if not self._chunk:
                if self._stream is None:
                    self._stream = self._open_at(self._position)
                try:
                    self._chunk = memoryview(next(self._stream, b""))
                except BaseException:
                    if self._seekable:  # as if nothing had been read: it may be tried again
                        self._leave()
                        self._position -= filled
                    raise
                if not self._chunk:
                    break
            part = self._chunk[: wanted - filled]
            view[filled : filled + len(part)] = part
            self._chunk = self._chunk[len(part) :]
            filled += len(part)
            self._position += len(part)
        return filled

    def close(self) -> None:
        """Give up what is open."""
        if not self.closed:
            self._leave()
        super().close()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _leave(self) -> None:
        self._chunk = memoryview(b"")
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
