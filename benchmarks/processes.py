"""Programs that a benchmark starts: how they end, and what they and their children use. Linux."""

import os
import signal
import socket
import subprocess  # nosec B404 # what it starts stands in tables of this package
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")

STARTS = 120
"""Seconds in which a server must listen: a busy machine takes some."""


ENDS = 5
"""Seconds in which it must have ended that is told to."""


class BenchError(Exception):
    """What makes the numbers of a run worthless; its text is for the terminal."""


class Process:
    """A program that was started, and all that it started since."""

    def __init__(self, popen: "subprocess.Popen[bytes]", output: Path) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._output = output

    @property
    def output(self) -> str:
        """What it has said so far, on standard output and error."""
        return self._output.read_text(errors="replace")

    def cpu(self) -> float:
        """CPU seconds, user and system, of the whole tree since it was started.

        Of those that live by their CPU clock (clock_getcpuclockid(3)), in nanoseconds where
        /proc/PID/stat has hundredths; of children that ended by cutime and cstime (proc(5)).
        """
        return sum(_clock(pid) + _ended(pid) for pid in tree(self.pid))

    def resident(self) -> int:
        """Bytes of memory at this moment; pages that processes of a tree share count for each."""
        return sum(_status(pid, "VmRSS") for pid in tree(self.pid))

    def peak(self) -> int:
        """The most bytes that each process of the tree ever had, since `forget_peak`."""
        return sum(_status(pid, "VmHWM") for pid in tree(self.pid))

    def forget_peak(self) -> None:
        """Let `peak` count from here on (proc(5), clear_refs)."""
        for pid in tree(self.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def wait_for_port(self, port: int) -> None:
        """Return when something listens there. Raises BenchError when it ends instead."""
        deadline = time.monotonic() + STARTS
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            if self._popen.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{self._popen.args!r} did not start:\n{self.output}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it, and what it started and left behind, by their ids."""
        pids = tree(self.pid)
        self._popen.terminate()
        try:
            self._popen.wait(ENDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        for pid in pids[1:]:
            with suppress(ProcessLookupError):
                if os.getpgid(pid) == self.pid:  # and not another one that has its number
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def started(
    command: Sequence[str | Path], output: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Run a program until the block is left, however that happens."""
    process = None
    try:
        with output.open("wb") as file, _signals_wait():
            popen = subprocess.Popen(  # nosec B603 # noqa: S603 - see above
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **(environment or {})},
                # Ctrl-C at a terminal is for us alone: we end it.
                process_group=0,
            )
            process = Process(popen, output)
        yield process
    finally:
        if process:
            process.stop()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Hold back what ends us: nobody would end a program that is just being started."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for came_meanwhile in came:
            signal.raise_signal(came_meanwhile)


def said(*commands: Sequence[str | Path], statuses: Sequence[int] = (0,)) -> list[str]:
    """What programs say that run at the same time. Raises BenchError for another exit status."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        running.extend(_listened_to(command) for command in commands)
        outputs = [popen.communicate() for popen in running]
    finally:
        for popen in running:
            popen.kill()
            popen.wait()
    for command, popen, (output, errors) in zip(commands, running, outputs, strict=True):
        if popen.returncode not in statuses:
            said_last = (errors or output).decode(errors="replace").strip().rpartition("\n")[2]
            raise BenchError(f"{command[0]}: exit status {popen.returncode}: {said_last}")
    return [output.decode() for output, _ in outputs]


def _listened_to(command: Sequence[str | Path]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # nosec B603 # noqa: S603 - see above
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )


def status(command: Sequence[str | Path]) -> int:
    """A program's exit status; what it says does not matter."""
    return subprocess.run(  # nosec B603 # noqa: S603 - see above
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False
    ).returncode


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tree(pid: int) -> list[int]:
    """A process and its descendants that live."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and (fields := _stat(int(path.name))):
            children.setdefault(int(fields[1]), []).append(int(path.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from its third field, state, on; empty when there is no such process."""
    try:
        # The second field is a name that may hold anything, and ends at the last parenthesis.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _clock(pid: int) -> float:
    """CPU seconds of all threads of a process, also of those that ended."""
    try:
        # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of Linux's posix-timers_types.h.
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:  # it ended meanwhile: its parent has it as a child that ended
        return 0


def _ended(pid: int) -> float:
    """CPU seconds of children that ended and were waited for, and of theirs."""
    fields = _stat(pid)
    return (int(fields[13]) + int(fields[14])) / TICKS if fields else 0


def _status(pid: int, key: str) -> int:
    """A size in /proc/PID/status, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), 0)
