"""An answer with a body: its headers, a client that is watched, and an end that is never early."""

import asyncio
import struct
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from aiohttp import web

from tarstream.archive import Archive
from tarstream.conditional import Selection
from tarstream.names import segment
from tarstream.query import ArchiveRequest

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
    `length` is None for a body whose end only `send_all` knows.
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

    async def flush(self) -> None:
        """Wait until all that was sent has left this process. Raises ConnectionError."""
        assert self._watch is not None
        self._connected().set_write_buffer_limits(high=0)
        with self._watch:
            await self._request.writer.drain()
        self._connected().set_write_buffer_limits()

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

    async def send_all(self, request: web.Request, chunks: Iterable[bytes]) -> None:
        """Send a body whose chunks need nothing but time to be made."""
        try:
            await self.begin(request)
            for chunk in chunks:
                await self.send(chunk)
                await asyncio.sleep(0)  # others may have waited for this chunk to be made
            if not self.whole:
                await self.flush()
                self.whole = True
        finally:
            self.end()

    async def write_eof(self, data: bytes = b"") -> None:
        """End the body, or break the connection when bytes are owed.

        The connection is then closed, not aborted: what was written still arrives, then FIN.
        """
        if self.prepared and not self.whole:
            raise ConnectionResetError("the body ends short")
        await super().write_eof(data)


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
    archive: Archive, asked: ArchiveRequest, selection: Selection, *, public: bool
) -> dict[str, str]:
    """The headers of an answer about an archive, but for those that frame its body."""
    headers = {"ETag": archive.etag} if archive.etag else {}
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
    format_ = archive.layout.format
    return headers | {
        "Content-Type": format_.MEDIA_TYPE,
        # Once more, because a name with its suffix must not be longer than file names may be.
        "Content-Disposition": content_disposition(segment(f"{asked.name}.{format_.SUFFIX}")),
        "Accept-Ranges": "bytes" if archive.layout.seekable else "none",
        "X-Accel-Buffering": "no",
    }


def content_disposition(name: str) -> str:
    """`attachment` with a name for everybody: ASCII, and UTF-8 for who reads it (RFC 6266, 8187).

    `name` has no control characters. Quotes, backslashes and percent signs are read differently
    by different browsers, so the ASCII name does without.
    """
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in name)
    # attr-char = ALPHA / DIGIT / "!" / "#" / "$" / "&" / "+" / "-" / "." / "^" / "_" / …
    encoded = quote(name, safe="!#$&+^`|~")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


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
