"""A large body that passes by aiohttp, once that has read the headers of its answer.

The kernel moves it where the sink lets it. Else it is read here, in as large pieces as its client
takes: aiohttp would copy it three times where one will do, and read 250 KiB for every client.

Its connection is of no use to anybody afterwards, and is closed.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from aiohttp.client_proto import ResponseHandler

from tarstream.errors import OriginBroken, OriginTimeout
from tarstream.observer import Observer
from tarstream.splice import TAIL, Descriptor, Pipe, is_plain
from tarstream.stores.base import Sink
from tarstream.stores.exchange import Answer

PROTOCOL = ("transport", "pause_reading", "read_timeout")
"""What is used of aiohttp's protocol of a connection, beside `total_bytes` of its contents."""

READ = 4 * 1024 * 1024
"""Bytes of a body from which on it costs less to read it here than to leave it to aiohttp, in spite
of the connection. It is `splice.LARGE` where the kernel moves it."""


async def bypass(answer: Answer, left: int, sink: Sink, observer: Observer) -> int:
    """Move a body of which `left` bytes are missing, and after which nothing else may come.

    How many are left for aiohttp to read: all that could not be moved so, where that could not be.
    """
    protocol = _protocol(answer)
    if protocol is None or not is_plain(protocol.transport) or answer.content.exception():
        return left
    assert protocol.transport is not None
    with ExitStack() as stack:
        splice = sink.splice()
        between = _pipe(stack) if splice else None
        if between is None and left < READ:
            return left
        try:
            source = stack.enter_context(closing(Descriptor(protocol.transport)))
        except OSError:  # there are too many of them
            return left
        chunk = stack.enter_context(_taken_over(answer, protocol))
        read, now = answer.content.total_bytes, asyncio.get_running_loop().time
        if chunk:
            observer.received(len(chunk))
            left -= len(chunk)
            await sink.write(chunk)
        while left:
            came, chunk = await _draw(source, left, between, sink, protocol.read_timeout)
            observer.received(came)
            if answer.content.total_bytes != read:
                # What came since is not what follows. Nothing of it was sent: it is asked for anew.
                raise OriginBroken("its connection was read by two")
            left -= came
            if chunk:
                began = now()
                await sink.write(chunk)
                sink.portion.taken(came, now() - began)
            elif splice and between:  # as it is where there is no chunk
                await splice(between)
            await asyncio.sleep(0)  # where both sides are fast nothing else waits for anybody
    return 0


def _pipe(stack: ExitStack) -> Pipe | None:
    try:
        return stack.enter_context(closing(Pipe()))
    except OSError:  # there are too many of them
        return None


@contextmanager
def _taken_over(answer: Answer, protocol: ResponseHandler) -> Iterator[bytes]:
    """Take a connection from aiohttp, and close it at the end; what aiohttp has read of the body.

    To pause it is not enough. An answer that is complete gives its connection back while some of it
    waits to be read, as it does of a member that was opened ahead; whoever reads that resumes the
    connection, which carries this answer by then. So aiohttp forgets the transport altogether.
    """
    assert protocol.transport is not None
    protocol.pause_reading()
    with closing(protocol.transport):
        protocol.transport = None
        yield b"".join(iter(answer.content.read_nowait, b""))


async def _draw(
    source: Descriptor, left: int, between: Pipe | None, sink: Sink, read_timeout: float | None
) -> tuple[int, bytes]:
    """Take what has come: into a pipe but for the last bytes, or themselves. How many these are."""
    while True:
        try:
            if between and left > TAIL:
                came, chunk = between.fill(source.number, left - TAIL), b""
            else:
                chunk = os.read(source.number, min(left, sink.portion.size))
                came = len(chunk)
        except BlockingIOError:
            await sink.flush()
        except OSError as error:
            raise OriginBroken("its origin broke the connection") from error
        else:
            if not came:
                raise OriginBroken("its origin ends it early")
            return came, chunk
        try:
            async with asyncio.timeout(read_timeout):
                await source.readable()
        except TimeoutError as error:
            raise OriginTimeout("its origin is too slow") from error


def _protocol(answer: Answer) -> ResponseHandler | None:
    """What reads a body, while more of it is to come; None too where it is not as we know it."""
    protocol = answer.connection.protocol if answer.connection else None
    known = all(hasattr(protocol, name) for name in PROTOCOL)
    return protocol if known and hasattr(answer.content, "total_bytes") else None
