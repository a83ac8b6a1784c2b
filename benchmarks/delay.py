"""A TCP proxy that is a distance away: each request passes it `seconds` late, answers at once.

python -m benchmarks.delay PORT ORIGIN_PORT SECONDS

What comes from the client waits, what comes from the origin does not: over HTTP/1.1 without
pipelining that is one round trip for each request, and none for the chunks of its answer. Answers
are moved in the kernel, so that a large member goes as fast as without it. Opening a connection
takes no round trip: less than a real distance costs, and the same for every server.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

CHUNK = 1024 * 1024
"""Bytes moved at a time; also the size asked for the pipe they pass through."""

F_SETPIPE_SZ = 1031
"""fcntl(2); `fcntl` has the name from Python 3.10 on Linux only."""


class Delay:
    """Listens on loopback, connects to a port of loopback."""

    def __init__(
        self, port: int, origin: int, seconds: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._origin = origin
        self._seconds = seconds
        self._sleep = sleep
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Take connections until `close`."""
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        # A thread that waits in accept(2) is woken by this, and not by close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _connection(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._origin)) as origin:
            for side in (client, origin):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = threading.Thread(target=_moved, args=(origin, client), daemon=True)
            answers.start()
            self._requests(client, origin)
            answers.join()

    def _requests(self, client: socket.socket, origin: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(CHUNK):
                self._sleep(self._seconds)
                origin.sendall(data)
        _ended(origin, socket.SHUT_WR)


def _moved(source: socket.socket, target: socket.socket) -> None:
    """All that comes from one, to the other; then neither gives nor takes any more."""
    read, write = os.pipe()
    try:
        with suppress(OSError):  # one of them left
            while count := os.splice(source.fileno(), write, CHUNK):
                while count:
                    count -= os.splice(read, target.fileno(), count)
    finally:
        os.close(read)
        os.close(write)
    _ended(source, socket.SHUT_RD)
    # The thread that waits for more requests is woken, too.
    _ended(target, socket.SHUT_RDWR)


def _ended(side: socket.socket, how: int) -> None:
    with suppress(OSError):
        side.shutdown(how)


if __name__ == "__main__":
    Delay(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])).serve()
