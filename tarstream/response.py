"""An answer with a body: its headers, a client that is watched, and an end that is never early."""

import asyncio
import struct
from collections.abc import Iterable, Mapping

from aiohttp import web

from tarstream.archive import Archive
from tarstream.compress import Compression
from tarstream.conditional import Selection
from tarstream.disposition import content_disposition, file_name
from tarstream.formats import KINDS
from tarstream.query import ArchiveRequest
from tarstream.splice import Descriptor, Pipe, Splice, available, is_plain

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # a platform that does not tell what its sockets still hold
    ioctl = None  # type: ignore[assignment]

_LINGER = 0.02
"""Seconds between two looks at what a client that is cut has still to take."""

_LOOKS = 4
"""Looks at a client within `stall_timeout`."""


class WatchedResponse(web.StreamResponse):
    """A body that counts, and breaks the connection rather than end short.

    aiohttp checks neither: fewer bytes leave the client hanging, more are clipped silently.
    `length` is None for a body whose end only who sends it knows, and says by `finish`.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        length: int | None,
        stall_timeout: float,
        status: int = 200,
    ) -> None:
        super().__init__(status=status, headers=headers)
        self.content_length = length
        self.sent = 0
        self.stalled = False
        self.whole = False
        """All of it has left this process; whoever closes from then on has not left too early."""
        self._stall_timeout = stall_timeout
        self._watch: _StallWatch | None = None
        self._descriptor: Descriptor | None = None

    async def begin(self, request: web.Request) -> None:
        """Send the headers. From here on `BEGUN` of the request is this response."""
        self._request = request
        request[BEGUN] = self
        await self.prepare(request)
        self._watch = _StallWatch(self, self._connected(), self._stall_timeout)

    async def send(self, data: bytes) -> None:
        """Write, and wait until there is room for more, or until the last byte has left.

        Raises ConnectionError.
        """
        if self.content_length is not None and self.sent + len(data) > self.content_length:
            raise RuntimeError(f"more than the {self.content_length} bytes that were announced")
        self.sent += len(data)
        assert self._watch is not None
        with self._watch:
            await self.write(data)
        if self.sent == self.content_length:
            await self.flush()
            self.whole = True

    def splice(self) -> Splice | None:
        """Sends what is in a pipe as `send` does a chunk, where nothing has to be done to it."""
        transport, writer = self._request.transport, self._request.writer
        if self.content_length is None or not is_plain(transport) or not available():
            return None
        # What aiohttp counts, so that it knows how the body ended.
        if not isinstance(getattr(writer, "length", None), int) or not hasattr(
            writer, "output_size"
        ):
            return None
        try:
            self._descriptor = self._descriptor or Descriptor(self._connected())
        except OSError:  # too many of them
            return None
        return self._send_pipe

    async def _send_pipe(self, pipe: Pipe) -> None:
        assert self._watch is not None
        assert self._descriptor is not None
        assert self.content_length is not None
        if self.sent + pipe.held > self.content_length:
            raise RuntimeError(f"more than the {self.content_length} bytes that were announced")
        if self._connected().get_write_buffer_size():
            await self.flush()  # what was written before goes before
        with self._watch:
            while pipe.held:
                try:
                    size = pipe.empty(self._descriptor.number)
                except BlockingIOError:
                    await self._descriptor.writable()
                    continue
                except OSError as error:
                    raise ConnectionResetError("the client left") from error
                self.sent += size
                self._request.writer.output_size += size
                self._request.writer.length = self.content_length - self.sent

    async def flush(self) -> None:
        """Wait until all that was sent has left this process. Raises ConnectionError."""
        assert self._watch is not None
        self._connected().set_write_buffer_limits(high=0)
        with self._watch:
            await self._request.writer.drain()
        self._connected().set_write_buffer_limits()

    async def finish(self) -> None:
        """Say that nothing is owed any more, where no length does. Raises ConnectionError."""
        if self.content_length is None:
            await self.flush()
            self.whole = True

    async def linger(self, data: bytes) -> None:
        """Pass on what is left of a body that is cut by us.

        Raises ConnectionError. aiohttp's own wait is of no use any more: it was cancelled.
        """
        transport = self._connected()
        self.sent += len(data)
        transport.write(data)
        while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(_LINGER)  # a transport has no event for it

    def _connected(self) -> asyncio.Transport:
        if self._request.transport is None:  # then it is closed, and aiohttp waits for nothing
            raise ConnectionResetError("the client left")
        return self._request.transport

    def end(self) -> None:
        """Stop watching the client; to be called however it ended."""
        if self._watch is not None:
            self._watch.stop()
        if self._descriptor is not None:
            self._descriptor.close()
            self._descriptor = None

    async def send_all(self, request: web.Request, chunks: Iterable[bytes]) -> None:
        """Send a body whose chunks need nothing but time to be made."""
        try:
            await self.begin(request)
            for chunk in chunks:
                await self.send(chunk)
                await asyncio.sleep(0)  # others may have waited for this chunk to be made
            await self.finish()
        finally:
            self.end()

    async def write_eof(self, data: bytes = b"") -> None:
        """End the body, or break the connection when bytes are owed.

        The connection is then closed, not aborted: what was written still arrives, then FIN.
        """
        if self.prepared and not self.whole:
            raise ConnectionResetError("the body ends short")
        await super().write_eof(data)


class CompressedResponse(WatchedResponse):
    """A body that is compressed on its way, of a length that nobody knows beforehand.

    Its end leaves with `finish` alone: HTTP/1.0 has no other sign that a body is whole.
    """

    def __init__(
        self, headers: Mapping[str, str], compression: Compression, stall_timeout: float
    ) -> None:
        super().__init__(headers, None, stall_timeout)
        self._coding = compression

    async def send(self, data: bytes) -> None:
        """Compress, and write what that gives. Raises ConnectionError."""
        await super().send(await self._coding.compress(data))

    async def finish(self) -> None:
        """Send the end. Raises ConnectionError."""
        await super().send(await self._coding.finish())
        await super().finish()

    async def linger(self, data: bytes) -> None:
        """Pass on what was compressed; more cannot be, since a chunk may have been lost."""
        await super().linger(b"")


BEGUN = web.RequestKey("begun", WatchedResponse)
"""The response whose headers went out: from then on there can be no other."""


class _StallWatch:
    """Aborts a connection whose client accepts no byte while it is waited for.

    A full buffer that moves slowly is no stall: the socket tells what it still holds, because a
    large send buffer is refilled only once a third of it has left.
    """

    def __init__(
        self, response: WatchedResponse, transport: asyncio.Transport, timeout: float
    ) -> None:
        self._response = response
        self._transport = transport
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._waiting = False
        self._accepted = -1
        self._moved_at = 0.0
        self._schedule()

    def __enter__(self) -> None:
        self._waiting = True
        self._accepted = -1

    def __exit__(self, *_: object) -> None:
        self._waiting = False

    def stop(self) -> None:
        self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(self._timeout / _LOOKS, self._look)

    def _look(self) -> None:
        if self._waiting:
            accepted = self._response.sent - _held(self._transport)
            now = self._loop.time()
            if accepted != self._accepted:
                self._accepted, self._moved_at = accepted, now
            elif now - self._moved_at >= self._timeout:
                self._response.stalled = True
                self._transport.abort()
                return
        self._schedule()


def archive_headers(
    archive: Archive,
    asked: ArchiveRequest,
    selection: Selection,
    *,
    public: bool,
    seekable: bool,
) -> dict[str, str]:
    """The headers of an answer about an archive, but for those that frame its body."""
    kind = KINDS[asked.format]
    etag = kind.etag(archive.etag)
    headers = {"ETag": etag} if etag else {}
    content_range = selection.content_range(archive.size)
    if content_range:
        headers["Content-Range"] = content_range
    if selection.status in {412, 416}:
        return headers  # not to be kept: the same URL without the condition has another answer
    headers["Cache-Control"] = "no-cache, no-transform"
    if asked.version is not None:
        who = "public" if public else "private"
        headers["Cache-Control"] = f"{who}, max-age=31536000, immutable, no-transform"
    if selection.status == 304:
        return headers  # what 200 would say of the representation is left out (RFC 9110 15.4.5)
    return headers | {
        "Content-Type": kind.media_type,
        "Content-Disposition": content_disposition(file_name(asked.name, kind.suffix)),
        "Accept-Ranges": "bytes" if seekable else "none",
        "X-Accel-Buffering": "no",
    }


def _held(transport: asyncio.Transport) -> int:
    """Bytes that were written and not accepted by the other side."""
    held = transport.get_write_buffer_size()
    socket = transport.get_extra_info("socket")
    if ioctl is not None and socket is not None:
        try:
            held += struct.unpack("i", ioctl(socket.fileno(), TIOCOUTQ, b"\0" * 4))[0]
        except (OSError, ValueError):
            return held  # no TCP socket, or closed
    return held
