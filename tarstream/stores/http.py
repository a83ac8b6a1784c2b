"""Objects behind HTTP (RFC 9110), each answer checked against the plan before its first byte.

Redirects are not followed here: they are raised, and whoever guards decides.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from socket import socket

import aiohttp
from aiohttp.connector import AddrInfoType
from yarl import URL

from tarstream.errors import (
    ObjectChanged,
    ObjectMissing,
    OriginBroken,
    OriginError,
    OriginTimeout,
)
from tarstream.layout import Source
from tarstream.stores.base import AddressRefused, Body, ObjectMeta, Redirected, Sink
from tarstream.stores.validators import conditions, contradicts, http_date, validator_of

READ_BUFFER = 32 * 1024
"""Bytes that aiohttp reads before it pauses (twice that at most): what a stalled client costs."""

_MISSING = frozenset({401, 403, 404, 410})
_TRANSIENT = frozenset({408, 425, 429})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# HEAD answered so may still mean that GET is welcome: presigned URLs sign the method.
_HEAD_REFUSED = frozenset({400, 401, 403, 405, 406, 501})

# Content-Range = range-unit SP ( range-resp / unsatisfied-range )   (RFC 9110 14.4)
_CONTENT_RANGE = re.compile(
    r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19})", re.IGNORECASE
)
_LENGTH = re.compile(r"[0-9]{1,19}")
_ENCODED = re.compile(r"[!-~]+")

SocketFactory = Callable[[AddrInfoType], socket]


class HttpStore:
    """Objects of HTTP origins, read through one session of their own."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def head(self, source: Source) -> ObjectMeta:
        """Ask by HEAD; where that is refused or says no length, by GET for the first byte."""
        async with self._request("HEAD", source, {}) as response:
            _check_redirect(response)
            if response.status not in _HEAD_REFUSED:
                _check_status(response)
                if response.status == 200 and _LENGTH.fullmatch(_length(response)):
                    return _meta(response, int(_length(response)))
        async with self._request("GET", source, {"Range": "bytes=0-0"}) as response:
            _check_redirect(response)
            total = _total(response)
            if response.status == 416 and total == 0:
                return _meta(response, 0)
            _check_status(response)
            if total is not None:
                return _meta(response, total)
        raise OriginError("its origin does not say how long it is")

    @asynccontextmanager
    async def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AsyncIterator[Body]:
        """GET, with Range where not the whole is asked for."""
        headers = conditions(validator)
        if (start, stop) != (0, size):
            headers["Range"] = f"bytes={start}-{stop - 1}"
        async with self._request("GET", source, headers) as response:
            _check_redirect(response)
            if response.status in {412, 416}:
                raise ObjectChanged("it is no longer the object that was planned")
            _check_status(response)
            if contradicts(validator, response.headers):
                raise ObjectChanged("it is no longer the object that was planned")
            skip = _check_framing(response, start, stop, size, asked="Range" in headers)
            # Of a 200 that ignored our Range more may follow; else it must end where we do.
            ends = response.status == 206 or stop == size
            with _failing_with_its_connection(response):
                yield _HttpBody(response, skip, stop - start, ends=ends)

    @asynccontextmanager
    async def _request(
        self, method: str, source: Source, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert isinstance(source, str)
        try:
            # A URL that needs no encoding is sent as it is: signatures cover its exact spelling.
            url = URL(source, encoded=bool(_ENCODED.fullmatch(source)))
            response = await self._session.request(
                method, url, headers=headers, allow_redirects=False
            )
        except _FAILURES as error:
            raise _translate(error) from error
        try:
            yield response
        finally:
            # A body that was not read to its end would be read now, or spoil the connection.
            # What is complete has given its connection back already.
            response.close()


class _HttpBody:
    """The body of an answer that was checked: `skip` bytes to discard, then `length` to move."""

    def __init__(
        self, response: aiohttp.ClientResponse, skip: int, length: int, *, ends: bool
    ) -> None:
        self._content = response.content
        self._skip = skip
        self._left = length
        # Without Content-Length only the end of the body shows that there is no more of it.
        self._unbounded = ends and not _length(response)

    async def ready(self) -> None:
        """Opened is ready."""

    async def copy_to(self, sink: Sink) -> None:
        while self._left:
            chunk = await self._read(sink)
            if not chunk:
                raise OriginBroken("its origin ends it early")
            if self._skip:
                chunk, self._skip = chunk[self._skip :], max(self._skip - len(chunk), 0)
            if self._unbounded and len(chunk) >= self._left:
                if len(chunk) > self._left or await self._read(sink):
                    raise ObjectChanged("it has more bytes than planned")
            elif len(chunk) > self._left:
                chunk = chunk[: self._left]  # of a 200 that ignored the end of our Range
            if chunk:
                self._left -= len(chunk)
                await sink.write(chunk)

    async def _read(self, sink: Sink) -> bytes:
        """What has come; empty at the end only, which is the end of the body and no other."""
        content = self._content
        try:
            chunk = content.read_nowait()
            if chunk or content.at_eof():
                return chunk
        except _FAILURES as error:
            raise _translate(error) from error
        await sink.flush()
        try:
            # Not readchunk: it gives an empty chunk at the end of each chunk of a chunked body.
            return await content.readany()
        except (*_FAILURES, RuntimeError) as error:
            # RuntimeError: the connection is lost, and its body has not been told yet.
            raise _translate(error) from error


@contextmanager
def _failing_with_its_connection(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Let a body end when its connection does.

    aiohttp tells a body neither of a broken chunk nor of the close that follows, and stops the
    read timeout: it would be waited for until the client leaves.
    """
    content = response.content

    def tell(_: object) -> None:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection is closed"))

    protocol = response.connection.protocol if response.connection else None
    closed = None if protocol is None else protocol.closed
    if closed is None:
        tell(None)  # unless it is complete
        yield
        return
    # Connections are used again: one callback remains on each, not one for each answer.
    closed.remove_done_callback(_retrieve)
    closed.add_done_callback(_retrieve)
    closed.add_done_callback(tell)
    try:
        yield
    finally:
        closed.remove_done_callback(tell)


def _retrieve(closed: asyncio.Future[None]) -> None:
    """Look at how a connection ended, or asyncio complains that nobody did."""
    if not closed.cancelled():
        closed.exception()


def session(
    connect_timeout: float, read_timeout: float, socket_factory: SocketFactory
) -> aiohttp.ClientSession:
    """A session that follows nothing, keeps nothing of anybody and decodes nothing."""
    return aiohttp.ClientSession(
        # Our own limit is per origin and never holds back the member being sent (see limit).
        connector=aiohttp.TCPConnector(
            limit=0, socket_factory=socket_factory, keepalive_timeout=15
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "tarstream"},
        read_bufsize=READ_BUFFER,
        timeout=aiohttp.ClientTimeout(
            total=None,
            connect=connect_timeout,
            sock_connect=connect_timeout,
            sock_read=read_timeout,
        ),
    )


_FAILURES = (aiohttp.ClientError, aiohttp.http.HttpProcessingError, OSError, ValueError)


def _translate(error: Exception) -> Exception:
    """An error of aiohttp in our words.

    Only for what reading raised: a client that left while it was written to is a ClientError too.
    """
    if isinstance(error, TimeoutError):
        return OriginTimeout("its origin is too slow")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return OriginError("its origin has no valid certificate")
    if isinstance(error, ValueError):
        return OriginError("it has no usable URL")
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, AddressRefused):
            return error.os_error
        return OriginBroken("its origin cannot be connected to")
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.http.HttpProcessingError):
        return OriginBroken("its origin does not speak HTTP")
    return OriginBroken("its origin broke the connection")


def _check_redirect(response: aiohttp.ClientResponse) -> None:
    location = response.headers.get("Location")
    if response.status in _REDIRECTS and location:
        raise Redirected(location)


def _check_status(response: aiohttp.ClientResponse) -> None:
    """Raise what any answer but 200 and 206 means."""
    status = response.status
    if status in _MISSING:
        raise ObjectMissing(f"its origin answers {status}")
    if status in _TRANSIENT or status >= 500:
        raise OriginBroken(f"its origin answers {status}", retry_after=_retry_after(response))
    if status not in {200, 206}:
        raise OriginError(f"its origin answers {status}")
    codings = ",".join(response.headers.getall("Content-Encoding", ())).lower().split(",")
    if any(coding.strip() not in {"identity", ""} for coding in codings):
        raise OriginError("it comes with a content coding that was not asked for")


def _check_framing(
    response: aiohttp.ClientResponse, start: int, stop: int, size: int, *, asked: bool
) -> int:
    """How many bytes precede `start` in the body; raises when it is not the one asked for."""
    length = _length(response)
    if response.status == 206:
        if not asked:
            raise OriginError("its origin gives a part where the whole was asked for")
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if match is None or match[1] is None:
            raise OriginError("its origin gives a part without saying which")
        if int(match[3]) != size:
            raise ObjectChanged(f"it has {match[3]} bytes instead of {size}")
        if (int(match[1]), int(match[2]) + 1) != (start, stop):
            raise OriginError("its origin gives another part than was asked for")
        if length and int(length) != stop - start:
            raise OriginError("its origin gives a part of the wrong length")
        return 0
    if length and int(length) != size:
        raise ObjectChanged(f"it has {length} bytes instead of {size}")
    return start


def _length(response: aiohttp.ClientResponse) -> str:
    """Content-Length where it frames the body, else ""."""
    if "Transfer-Encoding" in response.headers:
        return ""
    return response.headers.get("Content-Length", "")


def _total(response: aiohttp.ClientResponse) -> int | None:
    """The object's size out of an answer to `Range: bytes=0-0`."""
    if response.status in {206, 416}:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        return int(match[3]) if match else None
    length = _length(response)
    return int(length) if response.status == 200 and _LENGTH.fullmatch(length) else None


def _meta(response: aiohttp.ClientResponse, size: int) -> ObjectMeta:
    modified = http_date(response.headers.get("Last-Modified"))
    mtime = None if modified is None else max(int(modified.timestamp()), 0)
    return ObjectMeta(size, mtime, validator_of(response.headers))


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Retry-After in seconds: delay-seconds or HTTP-date (RFC 9110 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    date = http_date(value)
    return None if date is None else max((date - datetime.now(UTC)).total_seconds(), 0.0)
