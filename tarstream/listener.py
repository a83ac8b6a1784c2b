"""The sockets that clients connect to: bound once, accepted from by one process or by several."""

import asyncio
import logging
import mmap
import os
import select
import socket
import sys
from contextlib import suppress

from aiohttp import web

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that wait to be accepted; Linux clips it to net.core.somaxconn.

One that finds no room is tried again after one second, then two, four: with aiohttp's 128 some of
1,000 clients that come at once wait for most of a minute.
"""

_PAUSE = 0.002  # seconds between two looks at what others have not taken yet
_LOOKS = 10  # that many; then whoever looks takes it
_SLACK = 8  # one connection more for each so many is no difference
_SHARE = 32  # for each so many connections, one more is taken at a time
_EXHAUSTED = 1.0  # seconds to wait when there is no descriptor or memory for another connection


class CannotListen(Exception):
    """Another one has the port, or the address is none of ours; the message is for operators."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen, one for each address of `host`. Raises CannotListen."""
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in dict.fromkeys(found):
            # A free port that was found is the same for all addresses.
            at = (address[0], port_of(bound) if bound else address[1], *address[2:])
            bound.append(socket.create_server(at, family=family, backlog=BACKLOG))
    except OSError as error:
        for each in bound:
            each.close()
        # Names that are not found have errors of their own.
        number = error.errno or 0
        reason = os.strerror(number).lower() if number > 0 else error.strerror
        raise CannotListen(f"cannot listen on {authority(host, port)}: {reason}") from None
    for each in bound:
        each.settimeout(0)
    return bound


def port_of(bound: list[socket.socket]) -> int:
    """The port of what `bind` gave."""
    port: int = bound[0].getsockname()[1]
    return port


def authority(host: str, port: int) -> str:
    """Host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Loads:
    """How many connections each of several processes has; to be made before they are forked."""

    def __init__(self, processes: int) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 8 * processes)).cast("q")

    def __setitem__(self, process: int, connections: int) -> None:
        self._numbers[process] = connections

    def least(self) -> int:
        """Of the one that has the fewest."""
        return min(self._numbers)

    def forget(self, process: int) -> None:
        """It takes none, and is not to be waited for."""
        self._numbers[process] = sys.maxsize


class SharedSite(web.BaseSite):
    """Takes connections from a socket that other processes take them from.

    Whoever is woken first would take all that wait, and serve many that come at once alone. So who
    has more than another lets that one come first, but not for ever: it may be busy.
    """

    __slots__ = ("_accepting", "_loads", "_looks", "_number", "_poll", "_socket", "_timer")

    def __init__(
        self, runner: web.AppRunner, listening: socket.socket, loads: Loads, number: int
    ) -> None:
        super().__init__(runner)
        self._socket = listening
        self._loads = loads
        self._number = number
        self._looks = 0
        self._poll = select.poll()
        self._poll.register(listening, select.POLLIN)
        self._accepting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """Where it listens."""
        return str(self._socket.getsockname())

    async def start(self) -> None:
        """Begin to take connections."""
        await super().start()
        self._loads[self._number] = 0
        self._wait()

    async def stop(self) -> None:
        """Take no more; the socket stays open for the others."""
        self._loads.forget(self._number)
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        if self._timer is not None:
            self._timer.cancel()
        for task in self._accepting:
            task.cancel()
        await super().stop()

    def _wait(self) -> None:
        if not self._poll.poll(0):
            self._looks = 0
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._look)

    def _look(self) -> None:
        """Take some, or let others come first."""
        own = len(self._server_of().connections) + len(self._accepting)
        self._loads[self._number] = own
        if own - own // _SLACK > self._loads.least() and self._looks < _LOOKS:
            self._looks += 1
            self._pause(_PAUSE)
            return
        self._looks = 0
        for _ in range(1 + own // _SHARE):
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.error("cannot accept a connection: %s", error.strerror)
                self._pause(_EXHAUSTED)
                return
            task = asyncio.ensure_future(self._connect(connection))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)
            own += 1
            self._loads[self._number] = own

    def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        self._timer = loop.call_later(seconds, self._wait)

    async def _connect(self, connection: socket.socket) -> None:
        """Hand a connection over to the server."""
        connection.settimeout(0)
        try:
            with suppress(OSError):  # then the client has left again
                await asyncio.get_running_loop().connect_accepted_socket(
                    self._server_of(), connection
                )
        except BaseException:
            connection.close()
            raise

    def _server_of(self) -> web.Server:
        assert self._runner.server is not None  # it was set up
        return self._runner.server
