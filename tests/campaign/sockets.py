"""A client of bare sockets, which can be as slow, absent-minded or impolite as a case wants it."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from campaign.cases import GONE, HALF_CLOSED, PAUSED, SLOW
from campaign.download import CHUNKED, LENGTH, LIMIT, Run, Target, unchunked

LEAVES = 0.4  # seconds after which a client that leaves has left, whatever came
PAUSE = 2.5  # seconds without reading: more than an origin may be silent
SLOWLY = 4e6  # bytes per second, or more where it would take longer than ...
SLOWEST = 2.0  # ... so many seconds


async def ask(target: Target, offset: int | None, etag: str | None) -> tuple[Run, bytes, bool]:
    """One answer, from an offset on unless that is None; the body, and whether it is a part."""
    lines = [f"GET {target.path} HTTP/1.1", "Host: gateway", "Connection: close"]
    lines += target.headers
    if offset is not None:
        lines += [f"Range: bytes={offset}-", f"If-Range: {etag}"]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    with contextlib.closing(_Reader(target)) as reader:
        try:
            async with asyncio.timeout(LIMIT):
                await reader.ask(request)
        except TimeoutError:
            reader.ended = "hangs"
        run = reader.run()
    return run, bytes(reader.body) if run.status in {200, 206} else b"", run.status == 206


class _Left(Exception):
    """The client does not want more."""


class _Reader:
    """Reads an answer in the way that the client has."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.head = b""
        self.body = bytearray()
        self.length: int | None = None  # as announced, once the head has come
        self.ended = ""  # by something else than the answer's end
        self.error = ""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if target.client in {SLOW, PAUSED, GONE}:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    async def ask(self, request: bytes) -> None:
        """Send the request, and read until the answer ends or the client leaves."""
        loop = asyncio.get_running_loop()
        patience = asyncio.timeout(LEAVES if self.target.client == GONE else None)
        try:
            async with patience:
                await loop.sock_connect(self.socket, ("127.0.0.1", self.target.port))
                await loop.sock_sendall(self.socket, request)
                if self.target.client == HALF_CLOSED:
                    self.socket.shutdown(socket.SHUT_WR)
                await self._read()
        except _Left:
            self.ended = "left"
        except TimeoutError:
            if not patience.expired():
                raise
            self.ended = "left"
        except OSError as error:
            self.error = str(error)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        paused = False
        ahead = 0.0  # seconds that a slow client has not waited yet
        while data := await loop.sock_recv(self.socket, 1 << 18):
            if self.length is None:
                self.head += data
                self.head, end, data = self.head.partition(b"\r\n\r\n")
                if not end:
                    continue
                found = LENGTH.search(self.head)
                self.length = int(found[1]) if found else self.target.size
            self.body += data
            if self.target.client == SLOW:
                ahead += len(data) / max(SLOWLY, self.length / SLOWEST)
                if ahead > 0.02:
                    await asyncio.sleep(ahead)
                    ahead = 0.0
            elif self.target.client == PAUSED and not paused and self.body:
                paused = True
                await asyncio.sleep(PAUSE)
            elif self.target.client == GONE and len(self.body) >= self.target.leaves * self.length:
                raise _Left

    def run(self) -> Run:
        """The answer as it came."""
        # What comes beyond the announced length is more than any client would take.
        whole = len(self.body) >= (self.length or 0)
        if CHUNKED.search(self.head):
            body, whole = unchunked(bytes(self.body))
            self.body = bytearray(body)
        result = Run.of_head(self.head, len(self.body), self.error)
        if self.ended:
            result.outcome = self.ended
        elif result.status >= 400:
            result.outcome, result.body = "refused", bytes(self.body)
        elif result.status in {200, 206}:
            result.outcome = "whole" if whole else "short"
        return result
