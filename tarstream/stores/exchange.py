"""A request for an object and the answer to it, on a connection that aiohttp makes and keeps.

Connections, TLS and the parser are aiohttp's. Its `ClientSession.request` costs more than all of
these together, for what has no use here: cookies, redirects, contents of requests, traces.
"""

import asyncio
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from yarl import URL

from tarstream.stores.base import Elsewhere
from tarstream.stores.credentials import Credentials

READ_BUFFER = 32 * 1024
"""Bytes that aiohttp reads before it pauses (twice that at most): what a stalled client costs."""

# A URL that needs no encoding is sent as it is: signatures cover its exact spelling.
_ENCODED = re.compile(r"[!-~]+")
_PARTS = re.compile(r"(https?://[^/?#]+)/?([^#]*)", re.IGNORECASE)
_BREAKING = re.compile(r"[\r\n\0]")


class Answer:
    """An answer whose headers have come; to be closed. `connection` is None once all of it has."""

    def __init__(
        self, message: RawResponseMessage, content: aiohttp.StreamReader, connection: Connection
    ) -> None:
        self.status = message.code
        self.headers = message.headers
        self.content = content
        self.connection: Connection | None = connection
        self.held = False
        """Whether reading on has to be asked for."""
        content.on_eof(self._release)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hold(self) -> None:
        """Read no more of it before `go_on`: what comes meanwhile waits in the socket.

        aiohttp reads on as soon as what it has is taken: 250 KiB more for each client that does
        not take what it was given.
        """
        protocol = self._reads()
        if protocol is not None:
            self.held = True
            protocol.pause_reading()

    def go_on(self) -> None:
        """Read on."""
        self.held = False
        protocol = self._reads()
        if protocol is not None:
            protocol.resume_reading()

    def _reads(self) -> ResponseHandler | None:
        """What reads it; none where no more can come.

        A parser that has failed can be neither paused nor resumed. It has closed its transport.
        """
        protocol = self.connection.protocol if self.connection is not None else None
        transport = protocol.transport if protocol is not None else None
        return None if transport is None or transport.is_closing() else protocol

    def _release(self) -> None:
        """Let the next request have the connection, unless it is not fit for that."""
        if self.connection is not None:
            self.connection.release()
            self.connection = None

    def close(self) -> None:
        """Close a connection on which some of it may be left: the next would take that for its."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
            # Let go of us: what it has buffered would wait for a full collection.
            self.content.set_exception(aiohttp.ClientConnectionError("closed"))


class Exchanges:
    """Sends requests on the connections of a session, with its timeouts and headers."""

    def __init__(self, session: aiohttp.ClientSession, credentials: Credentials) -> None:
        self._session = session
        self._credentials = credentials
        self._common = [f"{name}: {value}" for name, value in session.headers.items()]
        self._fields = "".join(f"{line}\r\n" for line in self._common)
        self._origin = lru_cache(maxsize=1024)(self._find_origin)

    async def ask(self, method: str, source: str, headers: Mapping[str, str]) -> Answer:
        """Send a request without contents, and wait for the headers of the answer to it.

        Raises ValueError for what is no URL, or could not be sent; and what aiohttp raises.
        """
        parts = _PARTS.match(source if _ENCODED.fullmatch(source) else str(URL(source)))
        if parts is None:
            raise ValueError("not a URL of HTTP")
        origin, target = self._origin(parts[1]), parts[2]
        lines = [f"{method} /{target} HTTP/1.1", f"Host: {origin.headers['Host']}"]
        stranger = isinstance(source, Elsewhere)
        credentials = {} if stranger else self._credentials.of(origin.url)
        for fields in (headers, credentials):
            lines += [f"{name}: {value}" for name, value in fields.items()]
        if credentials:
            own = {name.lower() for name in credentials}  # in place of what all requests carry
            lines += [line for line in self._common if line.partition(":")[0].lower() not in own]
        if any(map(_BREAKING.search, lines)):
            raise ValueError("a line break in a header")
        common = "" if credentials else self._fields
        request = ("\r\n".join(lines) + f"\r\n{common}\r\n").encode()
        try:
            return await self._exchange(origin, request)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            # A connection that was kept may be closed as it is used again (RFC 9112 9.3.1).
            return await self._exchange(origin, request)

    async def _exchange(self, origin: aiohttp.ClientRequest, request: bytes) -> Answer:
        connector, timeout = self._session.connector, self._session.timeout
        assert connector is not None
        connection = await connector.connect(origin, [], timeout)
        try:
            protocol, transport = connection.protocol, connection.transport
            # What came while it was kept is the answer to nothing.
            if protocol is None or transport is None or protocol.should_close:
                raise aiohttp.ServerDisconnectedError
            protocol.set_response_params(
                skip_payload=request.startswith(b"HEAD "),
                read_until_eof=True,
                auto_decompress=False,
                read_timeout=timeout.sock_read,
                read_bufsize=READ_BUFFER,
            )
            protocol.start_timeout()
            transport.write(request)
            while True:
                message, content = await protocol.read()
                if message.code == 101 or not 100 <= message.code < 200:  # not interim
                    return Answer(message, content, connection)
        except BaseException:
            connection.close()
            raise

    def _find_origin(self, origin: str) -> aiohttp.ClientRequest:
        """What aiohttp is told to find or make a connection for; raises ValueError."""
        url = URL(f"{origin}/")
        loop = asyncio.get_running_loop()
        return aiohttp.ClientRequest("GET", url, loop=loop, session=self._session)
