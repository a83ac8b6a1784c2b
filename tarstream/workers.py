"""Processes that share their work: forked, replaced when they die, and told together to stop.

They are told by pipes that are closed. That reaches all of them at once, and by itself when the
supervisor dies, however it does: no worker is left behind with the port.
"""

import asyncio
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import NoReturn

logger = logging.getLogger(__name__)

STOP = (signal.SIGTERM, signal.SIGINT)

AT_ONCE = 5.0
"""Seconds: a worker that lived for less may have died of how it starts."""

GIVE_UP = 5
"""Deaths of such workers, before any lived for longer, after which no more are started."""

LAST = 10.0
"""Seconds that a worker may take to be cut and to leave. Then it is killed."""

_LONGEST_WAIT = 3600.0  # seconds; select takes no more than a few thousand years
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds; doubled from one death at once to the next


class Alone:
    """A process that shares with no other: signals are for itself."""

    def signals(self) -> asyncio.Queue[None]:
        """An item for each SIGTERM and SIGINT from here on."""
        signals: asyncio.Queue[None] = asyncio.Queue()
        for number in STOP:
            asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, None)
        return signals

    async def all_drained(self) -> None:
        """There is nobody to wait for."""


class Worker:
    """One of several processes. It ignores signals, which reach its supervisor as well.

    Ctrl-C is for the whole group of processes, and service managers signal all that they find: each
    of those would be a second signal.
    """

    def __init__(self, number: int, *, first: bool, notices: "_Notices") -> None:
        self.number = number
        """From 0; that of the one whom it replaces."""
        self.first = first
        """Whether it replaces nobody."""
        self._notices = notices

    def signals(self) -> asyncio.Queue[None]:
        """An item for each of the two first signals that the supervisor got, or for its death."""
        signals: asyncio.Queue[None] = asyncio.Queue()
        for notice in (self._notices.drain, self._notices.end):
            notice.on_given(lambda: signals.put_nowait(None))
        return signals

    async def all_drained(self) -> None:
        """Say that this one has drained; return when all have.

        Until then it answers those who come: what it accepted and left would be no answer.
        """
        drained = asyncio.Event()
        self._notices.drained.give()
        self._notices.drained.on_given(drained.set)
        await drained.wait()


class _Notice:
    """A pipe that says one thing: when the last process that may give it has done so, or died."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def give(self) -> None:
        """Have no part in keeping it back."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def on_given(self, then: Callable[[], None]) -> None:
        """Call once it is given, in the running event loop."""
        loop = asyncio.get_running_loop()

        def given() -> None:
            loop.remove_reader(self._reader)
            then()

        loop.add_reader(self._reader, given)


class _Notices:
    def __init__(self) -> None:
        self.drain = _Notice()
        """Of the supervisor: finish what is in flight."""
        self.end = _Notice()
        """Of the supervisor: end at once."""
        self.drained = _Notice()
        """Of all: nothing is in flight."""


class Supervisor:
    """Runs workers until a signal, and counts their ends as one."""

    def __init__(
        self,
        count: int,
        work: Callable[[Worker], int],
        lost: Callable[[int], None],
        drain_seconds: float,
    ) -> None:
        """`work` is called in each worker, and gives its exit status; `lost` here, with its number.

        After `drain_seconds` and some more, workers that have not ended are killed.
        """
        self._work = work
        self._lost = lost
        self._drain_seconds = drain_seconds
        self._notices = _Notices()
        self._running: dict[int, tuple[int, float]] = {}  # by pid: number, and since when
        self._due = dict.fromkeys(range(count), 0.0)  # by number: when one is to be started
        self._deaths: Counter[int] = Counter()  # at once and in a row, by number
        self._lived = False  # one, for long enough
        self._stopping = 0  # signals
        self._deadline = inf
        self._status = 0

    def run(self, started: Callable[[], None]) -> int:
        """Return when all have ended, the worst of their exit statuses.

        `started` is called once all were started.
        """
        told = False
        with _awake((*STOP, signal.SIGCHLD)) as wait:
            while self._running or self._due:
                self._start_due()
                if not told and not self._due:
                    told = True
                    started()
                for number in wait(self._seconds()):
                    if number in STOP:
                        self._stop()
                self._bury()
                if time.monotonic() >= self._deadline:
                    self._kill()
        return self._status

    def _seconds(self) -> float:
        """How long there is nothing to do but to wait."""
        seconds = min([*self._due.values(), self._deadline]) - time.monotonic()
        return min(max(0.0, seconds), _LONGEST_WAIT)

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, at in self._due.items() if at <= now]:
            first = number not in self._deaths
            del self._due[number]
            self._start(Worker(number, first=first, notices=self._notices))

    def _start(self, worker: Worker) -> None:
        # None may come between the fork and the end of our own ways to take signals.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP, signal.SIGCHLD))
        try:
            pid = os.fork()
            if pid == 0:
                self._be(worker, mask)
        except OSError as error:
            logger.error("no worker can be started: %s", error.strerror)
            self._due[worker.number] = time.monotonic() + _LONGEST_PAUSE
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._running[pid] = worker.number, time.monotonic()
        logger.info("worker started", extra={"fields": {"worker": pid}})

    def _be(self, worker: Worker, mask: set[int | signal.Signals]) -> NoReturn:
        """Be a worker, and never return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in STOP:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            # They are the supervisor's to give; its death then gives them.
            self._notices.drain.give()
            self._notices.end.give()
            status = self._work(worker)
        except BaseException:
            logger.exception("worker failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # nothing of the supervisor's is to be cleaned up here

    def _stop(self) -> None:
        """One more signal."""
        self._stopping += 1
        self._due.clear()
        self._notices.drained.give()
        self._notices.drain.give()
        if self._stopping > 1:
            self._notices.end.give()
        seconds = LAST if self._stopping > 1 else self._drain_seconds + LAST
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def _bury(self) -> None:
        """Take note of those who died."""
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid not in self._running:
                continue
            number, since = self._running.pop(pid)
            self._lost(number)
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                self._status = max(self._status, min(abs(code), 1))
                if code not in {0, 1}:
                    _log_death(pid, code)
            else:
                self._replace(pid, number, code, time.monotonic() - since)

    def _replace(self, pid: int, number: int, code: int, lived: float) -> None:
        """Start another one; not at once when the last ones died at once."""
        _log_death(pid, code)
        at_once = lived < AT_ONCE
        self._lived = self._lived or not at_once
        self._deaths[number] = self._deaths[number] + 1 if at_once else 0
        if not self._lived and self._deaths.total() >= GIVE_UP and self._none_lives():
            logger.error("workers die as soon as they are started; no more are")
            self._status = 1
            self._stop()
            return
        self._due[number] = time.monotonic() + pause_after(self._deaths[number])

    def _none_lives(self) -> bool:
        """Whether none of those who run has lived for long."""
        now = time.monotonic()
        return all(now - since < AT_ONCE for _, since in self._running.values())

    def _kill(self) -> None:
        """End those who did not end by themselves."""
        self._deadline = inf
        for pid in self._running:
            logger.error("worker killed, because it did not end", extra={"fields": {"worker": pid}})
            os.kill(pid, signal.SIGKILL)


def pause_after(deaths: int) -> float:
    """Seconds before a worker is started in place of one, after so many that died at once."""
    return min(_FIRST_PAUSE * 2.0 ** min(deaths - 1, 20), _LONGEST_PAUSE) if deaths else 0.0


def _log_death(pid: int, code: int) -> None:
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    logger.error("worker died", extra={"fields": {"worker": pid, "by": how}})


@contextmanager
def _awake(numbers: tuple[signal.Signals, ...]) -> Iterator[Callable[[float], bytes]]:
    """What waits so many seconds, at most, for one of these signals: those that came."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.settimeout(0)
        writer.settimeout(0)
        for number in numbers:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writer.fileno())

        def wait(seconds: float) -> bytes:
            came, _, _ = select.select([reader], [], [], None if seconds == inf else seconds)
            return reader.recv(4096) if came else b""

        try:
            yield wait
        finally:
            signal.set_wakeup_fd(-1)
