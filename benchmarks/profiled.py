"""The gateway under cProfile, which tells what it has counted so far whenever it is asked.

python -m benchmarks.profiled DIRECTORY ARGUMENT...

The arguments are those of server.py. At each SIGUSR1 the file DIRECTORY/1, DIRECTORY/2, and so on
is written, as `python -m cProfile -o` would. Counted is the main thread.
"""

import itertools
import marshal
import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from cProfile import Profile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.origin import ROOT
from benchmarks.processes import BenchError, Process

TELLS = 30
"""Seconds in which it must have told."""

Function = tuple[str, int, str]
"""File, line, name; "~" for what is no Python."""


class Spent(NamedTuple):
    """What calls of a function were, and cost without what they called. Units: seconds."""

    calls: float
    own: float

    def plus(self, other: "Spent", sign: int = 1) -> "Spent":
        """Together; or with -1 what is left."""
        return Spent(self.calls + sign * other.calls, self.own + sign * other.own)


Spending = dict[tuple[Function, Function | None], Spent]
"""Of each function by each that called it; None: it was called by nobody who is counted."""


class Profiled:
    """Another process that runs this program."""

    def __init__(self, process: Process, directory: Path) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._directory = directory
        self._spent: Spending = {}

    def told(self) -> Spending:
        """What it has spent since it was asked before, or started. Raises BenchError."""
        path = self._directory / str(next(self._numbers))
        os.kill(self._process.pid, signal.SIGUSR1)
        deadline = time.monotonic() + TELLS
        while not path.exists():
            if time.monotonic() > deadline:
                raise BenchError(f"it does not tell:\n{self._process.output}")
            time.sleep(0.01)
        before = self._spent
        self._spent = _spending(marshal.loads(path.read_bytes()))  # nosec B302 # noqa: S302 - ours
        nothing = Spent(0, 0)
        return {key: spent.plus(before.get(key, nothing), -1) for key, spent in self._spent.items()}


def _spending(stats: dict[Function, Any]) -> Spending:
    """Out of what cProfile has: func -> (.., calls, own, .., caller -> (calls, .., own, ..))."""
    found: Spending = {}
    for function, (_, calls, own, _, callers) in stats.items():
        rest = Spent(calls, own)
        for caller, (by_it, _, its_own, _) in callers.items():
            found[function, caller] = Spent(by_it, its_own)
            rest = rest.plus(found[function, caller], -1)
        found[function, None] = rest
    return found


def command(directory: Path, server: Sequence[str]) -> list[str]:
    """What runs `server`, a command of `python server.py`, under cProfile."""
    python, script, *arguments = server
    assert Path(script) == ROOT / "server.py"
    return [python, "-m", "benchmarks.profiled", str(directory), *arguments]


def main(directory: Path) -> None:
    """Be the gateway. What it takes to tell does not count."""
    profile = Profile()
    numbers = itertools.count(1)

    def tell(*_: object) -> None:
        profile.disable()
        profile.snapshot_stats()
        path = directory / str(next(numbers))
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(marshal.dumps(profile.stats))
        unfinished.rename(path)
        profile.enable()

    signal.signal(signal.SIGUSR1, tell)
    profile.enable()
    try:
        runpy.run_path(str(ROOT / "server.py"), run_name="__main__")
    finally:
        profile.disable()


if __name__ == "__main__":
    where = Path(sys.argv.pop(1))
    main(where)
