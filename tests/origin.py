"""A real HTTP/1.1 origin on loopback: honest, except for the faults that are its attributes.

It speaks through bare sockets, with no buffer of its own between an answer and the kernel, so that
what a fault says about the wire is what happens there. `faults.py` has the faults.
A client that closes its side, or half of it, has left: its answer ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Self
from urllib.parse import quote

from answer import BEFORE_HEAD, Act, Answer, Object, Request
from faults import Fault
from made import PIECE, Made

__all__ = ["Connection", "Made", "Object", "Origin", "Request"]


class Ended(Exception):
    """The connection is over: the client left, or a fault says so."""


class Connection:
    """One client's connection. What a fault does at a byte, it does by these methods."""

    def __init__(self, origin: Origin, sock: socket.socket, number: int) -> None:
        self.origin = origin
        self.socket = sock
        self.pace = (0, 0.0)  # bytes in one piece of content, seconds after each
        self._number = number
        self._unsent = b""
        self._inbox = asyncio.StreamReader(limit=1 << 20)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if origin.send_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, origin.send_buffer)

    async def run(self) -> None:
        """Answer one request after the other until either side ends the connection."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive())
                while True:
                    await self._answer(await self._request())
        except* (Ended, ConnectionError, TimeoutError):
            pass

    async def send(self, data: bytes) -> None:
        """Hand bytes to the kernel: what waits of the head first, in the same write."""
        data, self._unsent = self._unsent + data if self._unsent else data, b""
        if not data:
            return
        await asyncio.sleep(0)  # sock_sendall lets nobody else run while the kernel takes all
        async with asyncio.timeout(self.origin.send_timeout):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def pause(self, seconds: float | None = None) -> None:
        """Wait for so long, or until the origin releases whoever waits."""
        self.origin.stalled += 1
        try:
            async with asyncio.timeout(seconds):
                await self.origin.released.wait()
        except TimeoutError:
            pass
        finally:
            self.origin.stalled -= 1

    async def finish(self) -> None:
        """Close with FIN; what was sent before arrives."""
        raise Ended

    async def reset(self) -> None:
        """Close with RST, once the client's kernel has every byte that was sent before."""
        while struct.unpack("i", fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4)))[0]:
            await asyncio.sleep(0.001)
        self.reset_on_close()
        raise Ended

    def reset_on_close(self) -> None:
        """Let close() discard what was not sent, and send RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _receive(self) -> None:
        while data := await asyncio.get_running_loop().sock_recv(self.socket, 1 << 16):
            self._inbox.feed_data(data)
        raise Ended

    async def _request(self) -> Request:
        try:
            head = (await self._inbox.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
            method, target, version = line.split(" ")
        except (asyncio.LimitOverrunError, ValueError) as error:
            raise Ended from error
        headers: dict[str, str] = {}
        for name, _, value in (each.partition(":") for each in fields):
            key, text = name.strip().lower(), value.strip()
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        return Request(method, target, version, headers, self._number)

    async def _answer(self, request: Request) -> None:
        with self.origin.answering(request) as answer:
            acts = sorted(answer.acts, key=lambda each: each[0])
            for _, act in (each for each in acts if each[0] == BEFORE_HEAD):
                await act(self)
            self._unsent = answer.head()
            self.pace = (min(PIECE, self.origin.send_buffer or PIECE), 0.0)
            stop = answer.start if request.method == "HEAD" else answer.stop
            offset = answer.start
            for place, act in (each for each in acts if answer.start <= each[0] <= stop):
                await self._send_content(answer, offset, place)
                await self.send(b"")
                await act(self)
                offset = place
            await self._send_content(answer, offset, stop)
            await self.send(b"" if request.method == "HEAD" else answer.tail)
            request.finished = True
        if answer.close:
            raise Ended

    async def _send_content(self, answer: Answer, start: int, stop: int) -> None:
        while start < stop:
            length, interval = self.pace
            piece = answer.read(start, min(start + length, stop))
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if answer.chunked else piece
            await self.send(framed)
            start += len(piece)
            answer.request.sent += len(piece)
            if interval:
                await asyncio.sleep(interval)


class Origin:
    """The server: `async with Origin() as origin`, or `with Origin().in_thread() as origin`.

    `faults` strike every request, after those of its object. Each attribute may be changed at any
    time, and counts for the next request (`send_buffer`: the next connection).
    """

    def __init__(
        self,
        objects: dict[str, Object] | None = None,
        faults: Iterable[Fault] = (),
        *,
        send_buffer: int | None = None,
        send_timeout: float | None = None,
    ) -> None:
        self.objects = {} if objects is None else objects
        self.faults = list(faults)
        self.send_buffer = send_buffer  # bytes of SO_SNDBUF, which Linux doubles
        self.send_timeout = send_timeout  # seconds for one piece, then the connection is closed
        self.port = 0
        self.requests: list[Request] = []
        self.fired: Counter[str] = Counter()  # by the name of the fault
        self.connections = 0  # accepted so far
        self.most_open_connections = 0
        self.in_flight = 0  # requests whose headers came and whose answer has not ended
        self.most_in_flight = 0
        self.stalled = 0  # answers that wait for release, or for their seconds to pass
        self.released = asyncio.Event()
        self._met: Counter[tuple[object, Fault]] = Counter()  # answers each fault could strike
        self._open: dict[asyncio.Task[None], Connection] = {}
        self._errors: list[BaseException] = []
        self._thread = 0

    @property
    def root(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        """Return the URL of a path, with what a URL cannot hold percent-encoded."""
        return self.root + quote(path, safe="/?&=+,;:@!$'()*~%")

    def add(self, path: str, content: bytes | Made | Object, *faults: Fault) -> str:
        """Put an object at a path, and return its URL."""
        thing = content if isinstance(content, Object) else Object(content)
        thing.faults.extend(faults)
        self.objects[path] = thing
        return self.url(path)

    def asked(self, path: str, method: str = "GET") -> list[Request]:
        """Return the requests for a path, in the order in which they came."""
        return [each for each in self.requests if (each.path, each.method) == (path, method)]

    @property
    def open_connections(self) -> int:
        """Connections that neither side has closed."""
        return len(self._open)

    async def until(self, condition: Callable[[], object], timeout: float = 30) -> None:
        """Wait until a condition holds. Raises TimeoutError, and says what the origin saw."""
        for _ in self._checks(condition, timeout):
            await asyncio.sleep(0.002)

    def wait(self, condition: Callable[[], object], timeout: float = 30) -> None:
        """Do what `until` does, where the origin runs in a thread and nobody awaits."""
        for _ in self._checks(condition, timeout):
            time.sleep(0.002)

    def release(self) -> None:
        """Let every answer go on that is stalled at this moment."""
        self._call(self._release)

    def refuse(self) -> None:
        """Refuse connections, keeping the port; those that are open stay open."""
        self._call(self._refuse)

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        self._call(self._accept_again)

    def reset(self) -> None:
        """Break all open connections off with RST."""
        self._call(self._reset)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._bind()
        self._accept_again()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._errors:
            raise BaseExceptionGroup("the origin itself is wrong", self._errors)

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Run in a loop and a thread of its own, for tests that block."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="origin")
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.__aenter__(), loop).result()
            try:
                yield self
            finally:
                asyncio.run_coroutine_threadsafe(self.__aexit__(), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    @contextlib.contextmanager
    def answering(self, request: Request) -> Iterator[Answer]:
        """Count and record a request while it is answered."""
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = self._choose(request)
            request.status = answer.status
            yield answer
        finally:
            self.in_flight -= 1

    def _choose(self, request: Request) -> Answer:
        answer = Answer(request)
        thing = self.objects.get(request.path)
        if request.method not in {"GET", "HEAD"}:
            answer.refuse(405)
            answer.put("Allow", "GET, HEAD")
            answer.close = True  # what follows may be a body
        elif thing is None:
            answer.refuse(404)
        else:
            answer.give(thing, request.headers)
        for holder in (thing, self):
            for fault in list(holder.faults) if holder else ():
                position = fault.position(answer)
                if position is None:
                    continue
                if fault.act is not None:
                    place = BEFORE_HEAD if fault.before_head else position
                    answer.acts.append((place, partial(self._act, holder, fault, fault.act)))
                if fault.change is not None and self._strikes(holder, fault):
                    fault.change(answer, position)
        return answer

    async def _act(self, holder: object, fault: Fault, act: Act, connection: Connection) -> None:
        if self._strikes(holder, fault):
            await act(connection)

    def _strikes(self, holder: object, fault: Fault) -> bool:
        """Count an answer that a fault could strike, and tell whether it does."""
        count = self._met[holder, fault] - fault.skip
        self._met[holder, fault] += 1
        struck = count >= 0 and (fault.times is None or count < fault.times)
        self.fired[fault.name] += struck
        return struck

    def _checks(self, condition: Callable[[], object], timeout: float) -> Iterator[None]:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                seen = [
                    (each.method, each.target, each.status, each.sent) for each in self.requests
                ]
                raise TimeoutError(
                    f"not within {timeout} s: open={self.open_connections} "
                    f"in_flight={self.in_flight} stalled={self.stalled} "
                    f"fired={dict(self.fired)} requests={seen[-20:]}"
                )
            yield

    def _call(self, step: Callable[[], None]) -> None:
        if threading.get_ident() == self._thread:
            step()
            return

        async def stepped() -> None:
            step()

        asyncio.run_coroutine_threadsafe(stepped(), self._loop).result()

    def _release(self) -> None:
        self.released.set()
        self.released = asyncio.Event()

    def _bind(self) -> None:
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]

    def _refuse(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._bind()  # bound, but not listening: refuses, and nobody else takes the port

    def _accept_again(self) -> None:
        self._listener.listen(1024)
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            connection = Connection(self, sock, self.connections)
            task = self._loop.create_task(connection.run())
            self._open[task] = connection
            task.add_done_callback(self._closed)
            self.connections += 1
            self.most_open_connections = max(self.most_open_connections, len(self._open))

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task).socket.close()
        if not task.cancelled() and (error := task.exception()):
            self._errors.append(error)

    def _reset(self) -> None:
        for task, connection in self._open.items():
            connection.reset_on_close()
            task.cancel()
