"""Bytes that the kernel moves, and this process never sees: splice(2), which Linux alone has.

From a socket or a file into a pipe, from the pipe into a socket. A pipe serves one body: to make it
takes 15 microseconds, and what one has left in there is never another's.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import cache

try:
    from fcntl import F_SETPIPE_SZ, fcntl
    from os import SPLICE_F_MOVE, SPLICE_F_NONBLOCK, pipe2, splice
except ImportError:  # another platform
    splice = None  # type: ignore[assignment]

PIPE = 1024 * 1024
"""Bytes of a pipe: what Linux gives to everybody. With 64 KiB it costs three times as much."""

TAIL = 64 * 1024
"""Bytes at the end of contents that go the ordinary way: they leave together with what follows."""

LARGE = 2 * 1024 * 1024
"""Bytes of contents from which on it costs less than to read and write them, in spite of the
connection to an origin, which cannot be used again."""


class Pipe:
    """A pipe in which nobody waits. Raises OSError where there is none to be had."""

    def __init__(self) -> None:
        self.held = 0
        """Bytes in it."""
        self._out, self._in = pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Refused when this user's pipes have fs.pipe-user-pages-soft pages together.
            fcntl(self._in, F_SETPIPE_SZ, PIPE)
        except OSError:
            self.close()
            raise

    def fill(self, descriptor: int, most: int, offset: int | None = None) -> int:
        """Take at most so many bytes out of a socket, or those at `offset` out of a file.

        How many these were: 0 at the end. Raises OSError; BlockingIOError where none has come yet.
        """
        flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK
        came = splice(descriptor, self._in, most, offset_src=offset, flags=flags)
        self.held += came
        return came

    def empty(self, descriptor: int) -> int:
        """Put bytes into a socket; how many. Raises OSError; BlockingIOError where it is full."""
        went = splice(self._out, descriptor, self.held, flags=SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        self.held -= went
        return went

    def close(self) -> None:
        """Close it, with all that is in it."""
        os.close(self._out)
        os.close(self._in)


Splice = Callable[[Pipe], Awaitable[None]]
"""Takes all that is in a pipe. What is left in there when it raises was not taken."""


class Descriptor:
    """The socket of a transport once more: a loop lets nobody else wait for its own.

    The connection lasts until both are closed. Raises OSError where there are no descriptors left.
    """

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self.number = os.dup(transport.get_extra_info("socket").fileno())

    async def readable(self) -> None:
        """Wait until there is something to read, which may be the end."""
        await self._told(self._loop.add_reader, self._loop.remove_reader)

    async def writable(self) -> None:
        """Wait until there is room, or nobody left who reads."""
        await self._told(self._loop.add_writer, self._loop.remove_writer)

    def close(self) -> None:
        """Close it; nobody may wait for it."""
        os.close(self.number)

    async def _told(self, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
        told = self._loop.create_future()
        add(self.number, _tell, told)
        try:
            await told
        finally:
            remove(self.number)


def available() -> bool:
    """Whether this system can splice, and lets us: a sandbox may not."""
    try:
        return _available()
    except OSError:  # there are no descriptors left to try it with
        return False


@cache
def _available() -> bool:
    if splice is None:
        return False
    with ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        out, in_ = os.pipe()
        stack.callback(os.close, out)
        stack.callback(os.close, in_)
        theirs.send(b"x")
        try:
            return splice(ours.fileno(), in_, 1) == splice(out, ours.fileno(), 1) == 1
        except OSError:
            return False


def is_plain(transport: asyncio.BaseTransport | None) -> bool:
    """Whether the bytes of a transport are those of a TCP socket, as they are."""
    if transport is None or transport.is_closing():
        return False
    if transport.get_extra_info("sslcontext") or transport.get_extra_info("ssl_object"):
        return False
    sock = transport.get_extra_info("socket")
    return (
        sock is not None
        and sock.family in {socket.AF_INET, socket.AF_INET6}
        and sock.type == socket.SOCK_STREAM
    )


def _tell(told: "asyncio.Future[None]") -> None:
    if not told.done():
        told.set_result(None)
