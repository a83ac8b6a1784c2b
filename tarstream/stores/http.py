"""Objects behind HTTP (RFC 9110), each answer checked against the plan before its first byte.

Redirects are not followed here: they are raised, and whoever guards decides.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from socket import socket
from typing import NamedTuple

import aiohttp
from aiohttp.connector import AddrInfoType, Connection

from tarstream.errors import (
    ObjectChanged,
    ObjectMissing,
    OriginBroken,
    OriginError,
    OriginTimeout,
)
from tarstream.layout import Source
from tarstream.observer import Observer
from tarstream.splice import LARGE
from tarstream.stores.base import AddressRefused, Body, ObjectMeta, Redirected, Sink
from tarstream.stores.bypass import bypass
from tarstream.stores.credentials import Credentials
from tarstream.stores.exchange import READ_BUFFER, Answer, Exchanges
from tarstream.stores.validators import conditions, contradicts, http_date, validator_of

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

SocketFactory = Callable[[AddrInfoType], socket]


class HttpStore:
    """Objects of HTTP origins, read through one session of their own."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        credentials: Credentials | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._exchanges = Exchanges(session, credentials or Credentials())
        self.observer = observer or Observer()

    async def head(self, source: Source) -> ObjectMeta:
        """Ask by HEAD; where that is refused or says no length, by GET for the first byte."""
        with await self.ask("HEAD", source, {}) as answer:
            _check_redirect(answer)
            if answer.status not in _HEAD_REFUSED:
                _check_status(answer)
                if answer.status == 200 and _LENGTH.fullmatch(_length(answer)):
                    return _meta(answer, int(_length(answer)))
        with await self.ask("GET", source, {"Range": "bytes=0-0"}) as answer:
            _check_redirect(answer)
            total = _total(answer)
            if answer.status == 416 and total == 0:
                return _meta(answer, 0)
            _check_status(answer)
            if total is not None:
                return _meta(answer, total)
        raise OriginError("its origin does not say how long it is")

    def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AbstractAsyncContextManager[Body]:
        """GET, with Range where not the whole is asked for."""
        return _Opened(self, source, _Span(start, stop, size), validator)

    async def ask(self, method: str, source: Source, headers: Mapping[str, str]) -> Answer:
        """Send a request; the answer to it, whatever its status is, has to be closed."""
        assert isinstance(source, str)
        try:
            return await self._exchanges.ask(method, source, headers)
        except _FAILURES as error:
            raise _translate(error) from error


class _Span(NamedTuple):
    """The bytes [start, stop) of an object of `size` bytes."""

    start: int
    stop: int
    size: int

    @property
    def is_whole(self) -> bool:
        return (self.start, self.stop) == (0, self.size)


class _Opened(AbstractAsyncContextManager[Body]):
    """The body of an answer that was checked, as long as its connection lasts."""

    _answer: Answer

    def __init__(
        self, store: HttpStore, source: Source, span: _Span, validator: str | None
    ) -> None:
        self._store = store
        self._source = source
        self._span = span
        self._validator = validator
        self._closed: asyncio.Future[None] | None = None

    async def __aenter__(self) -> "_HttpBody":
        headers = conditions(self._validator)
        if not self._span.is_whole:
            headers["Range"] = f"bytes={self._span.start}-{self._span.stop - 1}"
        self._answer = await self._store.ask("GET", self._source, headers)
        try:
            body = self._body_of(self._answer)
        except BaseException:
            self._answer.close()
            raise
        self._end_with(self._answer.connection)
        return body

    async def __aexit__(self, *_: object) -> None:
        if self._closed is not None:
            self._closed.remove_done_callback(self._fail)
        # A body that was not read to its end would be read now, or spoil the connection.
        self._answer.close()

    def _body_of(self, answer: Answer) -> "_HttpBody":
        """What was asked for; raises when it is something else."""
        _check_redirect(answer)
        if answer.status in {412, 416}:
            raise ObjectChanged("it is no longer the object that was planned")
        _check_status(answer)
        if contradicts(self._validator, answer.headers):
            raise ObjectChanged("it is no longer the object that was planned")
        start, stop, size = self._span
        skip = _check_framing(answer, self._span)
        # Of a 200 that ignored our Range more may follow; else it must end where we do.
        ends = answer.status == 206 or stop == size
        return _HttpBody(answer, skip, stop - start, self._store.observer, ends=ends)

    def _end_with(self, connection: Connection | None) -> None:
        """Let the body end when its connection does.

        aiohttp tells a body neither of a broken chunk nor of the close that follows, and stops the
        read timeout: it would be waited for until the client leaves.
        """
        protocol = connection.protocol if connection else None
        closed = None if protocol is None else protocol.closed
        if closed is None:
            self._fail(None)  # unless it is complete
            return
        # Connections are used again: one callback remains on each, not one for each answer.
        closed.remove_done_callback(_retrieve)
        closed.add_done_callback(_retrieve)
        closed.add_done_callback(self._fail)
        self._closed = closed

    def _fail(self, _: object) -> None:
        content = self._answer.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection is closed"))


class _HttpBody:
    """The body of an answer that was checked: `skip` bytes to discard, then `length` to move."""

    def __init__(
        self, answer: Answer, skip: int, length: int, observer: Observer, *, ends: bool
    ) -> None:
        self._answer = answer
        self._content = answer.content
        self._observer = observer
        self._skip = skip
        self._left = length
        # Without Content-Length only the end of the body shows that there is no more of it.
        self._unbounded = ends and not _length(answer)
        # Nothing else follows on its connection.
        self._bare = not skip and _length(answer) == str(length)

    async def ready(self) -> None:
        """Opened is ready."""

    async def copy_to(self, sink: Sink) -> None:
        if self._bare and self._left >= LARGE:
            self._left = await bypass(self._answer, self._left, sink, self._observer)
        while self._left:
            chunk = await self._read(sink)
            if not chunk:
                raise OriginBroken("its origin ends it early")
            self._observer.received(len(chunk))
            if self._skip:
                chunk, self._skip = chunk[self._skip :], max(self._skip - len(chunk), 0)
            if self._unbounded and len(chunk) >= self._left:
                if len(chunk) > self._left or await self._read(sink):
                    raise ObjectChanged("it has more bytes than planned")
            elif len(chunk) > self._left:
                chunk = chunk[: self._left]  # of a 200 that ignored the end of our Range
            if chunk:
                self._left -= len(chunk)
                if len(chunk) > READ_BUFFER:
                    self._answer.hold()
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
        if self._answer.held:
            self._answer.go_on()
        try:
            # Not readchunk: it gives an empty chunk at the end of each chunk of a chunked body.
            return await content.readany()
        except (*_FAILURES, RuntimeError) as error:
            # RuntimeError: the connection is lost, and its body has not been told yet.
            raise _translate(error) from error


def _retrieve(closed: asyncio.Future[None]) -> None:
    """Look at how a connection ended, or asyncio complains that nobody did."""
    if not closed.cancelled():
        closed.exception()


def session(
    connect_timeout: float, read_timeout: float, socket_factory: SocketFactory
) -> aiohttp.ClientSession:
    """Connections for `Exchanges`, with their timeouts and what each request says."""
    return aiohttp.ClientSession(
        # Our own limit is per origin and never holds back the member being sent (see limit).
        connector=aiohttp.TCPConnector(
            limit=0, socket_factory=socket_factory, keepalive_timeout=15
        ),
        headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "tarstream"},
        timeout=aiohttp.ClientTimeout(
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
        return OriginBroken("its origin cannot be connected to", kind="connect")
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.http.HttpProcessingError):
        return OriginBroken("its origin does not speak HTTP", kind="protocol")
    return OriginBroken("its origin broke the connection")


def _check_redirect(answer: Answer) -> None:
    location = answer.headers.get("Location")
    if answer.status in _REDIRECTS and location:
        raise Redirected(location)


def _check_status(answer: Answer) -> None:
    """Raise what any answer but 200 and 206 means."""
    status = answer.status
    if status in _MISSING:
        raise ObjectMissing(f"its origin answers {status}")
    if status in _TRANSIENT or status >= 500:
        raise OriginBroken(
            f"its origin answers {status}", kind="status", retry_after=_retry_after(answer)
        )
    if status not in {200, 206}:
        raise OriginError(f"its origin answers {status}")
    codings = answer.headers.getall("Content-Encoding", None)
    if codings and not set(re.split(r"[\s,]+", ",".join(codings).lower())) <= {"identity", ""}:
        raise OriginError("it comes with a content coding that was not asked for")


def _check_framing(answer: Answer, span: _Span) -> int:
    """How many bytes precede `start` in the body; raises when it is not the one asked for."""
    start, stop, size = span
    length = _length(answer)
    if answer.status == 206:
        if span.is_whole:
            raise OriginError("its origin gives a part where the whole was asked for")
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
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


def _length(answer: Answer) -> str:
    """Content-Length where it frames the body, else ""."""
    if "Transfer-Encoding" in answer.headers:
        return ""
    return answer.headers.get("Content-Length", "")


def _total(answer: Answer) -> int | None:
    """The object's size out of an answer to `Range: bytes=0-0`."""
    if answer.status in {206, 416}:
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        return int(match[3]) if match else None
    length = _length(answer)
    return int(length) if answer.status == 200 and _LENGTH.fullmatch(length) else None


def _meta(answer: Answer, size: int) -> ObjectMeta:
    modified = http_date(answer.headers.get("Last-Modified"))
    mtime = None if modified is None else max(int(modified.timestamp()), 0)
    return ObjectMeta(size, mtime, validator_of(answer.headers))


def _retry_after(answer: Answer) -> float | None:
    """Retry-After in seconds: delay-seconds or HTTP-date (RFC 9110 10.2.3)."""
    value = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    date = http_date(value)
    return None if date is None else max((date - datetime.now(UTC)).total_seconds(), 0.0)
