"""Where the time goes: the gateway under cProfile, and beside that as it is.

python -m benchmarks.profile [--quick] [--rounds N] [--document] [--on DIR]

Linux; nginx and curl.
"""

import argparse
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.__main__ import DOCUMENT, MEMORY, facts_of, load
from benchmarks.cases import MIB, Case, cases
from benchmarks.measure import Measured, files_of
from benchmarks.origin import ROOT, Origin, origin
from benchmarks.processes import BenchError, Process, free_port, started
from benchmarks.profiled import Function, Profiled, Spending, Spent, command
from benchmarks.report import within
from benchmarks.servers import SERVERS, Server, Work, is_known

CASES = ("small-tar", "small-tar-head", "large-tar")

SHOWN = 15
"""Functions of each case."""

LEAST = 0.05
"""Calls for each unit below which nothing is shown."""

GROUPS = [
    ("layout, formats, names", r"/tarstream/(layout|names|disposition|formats/)"),
    ("transfer", r"/tarstream/(transfer|width|digests|checksums)"),
    ("stores", r"/tarstream/stores/"),
    (
        "planning",
        r"/tarstream/(query|request|resolve|asking|archive|plan|memory|conditional|catalogs/)",
    ),
    ("answering", r"/tarstream/(app|admission|auth|download|response|log)|/logging/"),
    ("counting", r"/tarstream/(metrics|observer)|/prometheus_client/"),
    ("aiohttp towards origins", r"/aiohttp/(client|connector|streams|base_protocol)"),
    ("aiohttp towards clients", r"/aiohttp/(web|http_writer)"),
    ("asyncio", r"/asyncio/"),
]
"""By the files of functions. One that has no group counts for who called it: `len`, say."""

OTHERS = "others"


@dataclass(frozen=True)
class Cost:
    """What a case costs, for each MiB or each member. Units: seconds."""

    title: str
    unit: str
    cpu: float
    """User and system; without cProfile, as `reads` and `writes`."""
    system: float
    """The part of it that is the kernel's."""
    reads: float
    """System calls that read from an origin or a client."""
    writes: float
    profiled: float
    """`cpu` under cProfile."""
    spending: Spending
    units: float


def group_of(function: Function, caller: Function | None) -> str:
    """Where a function belongs."""
    for path in (function[0], caller[0] if caller else ""):
        for name, pattern in GROUPS:
            if re.search(pattern, path):
                return name
    return OTHERS


def grouped(spending: Spending, units: float) -> list[tuple[str, Spent]]:
    """What each group spent, for each of so many units; the dearest first."""
    found = dict.fromkeys([*(name for name, _ in GROUPS), OTHERS], Spent(0, 0))
    for (function, caller), spent in spending.items():
        group = group_of(function, caller)
        found[group] = found[group].plus(spent)
    return _dearest(found, units)


def dearest_functions(spending: Spending, units: float) -> list[tuple[str, Spent]]:
    """What each function spent, likewise."""
    found: dict[str, Spent] = {}
    for (function, _), spent in spending.items():
        path, _, name = function
        short = "" if path == "~" else "/".join(Path(path).parts[-2:]) + " "
        title = f"`{short}{re.sub(' at 0x[0-9a-f]+', '', name)}`"
        found[title] = found.get(title, Spent(0, 0)).plus(spent)
    return _dearest(found, units)[:SHOWN]


def _dearest(found: dict[str, Spent], units: float) -> list[tuple[str, Spent]]:
    each = [(name, Spent(spent.calls / units, spent.own / units)) for name, spent in found.items()]
    return sorted(each, key=lambda named: named[1].own, reverse=True)


def markdown(costs: Sequence[Cost], facts: Mapping[str, str]) -> str:
    """The command, the machine, and two tables for each case."""
    parts = ["```console", f"$ {facts['command']}", "```", ""]
    parts += [f"- {key}: {value}" for key, value in facts.items() if key != "command"]
    for cost in costs:
        parts += ["", f"### Profile: {cost.title}", "", *_lines(cost)]
    return "\n".join(parts) + "\n"


def _lines(cost: Cost) -> list[str]:
    groups = grouped(cost.spending, cost.units)
    counted = sum(spent.own for _, spent in groups)
    calls = sum(spent.calls for _, spent in groups)
    text = (
        f"For each {cost.unit} {_micros(cost.cpu)} µs of CPU time, {_micros(cost.system)} of them "
        f"in the kernel; {cost.reads:.2f} system calls that read, {cost.writes:.2f} that write. "
        f"Under cProfile {_micros(cost.profiled)} µs of CPU time; functions took "
        f"{_micros(counted)} by the clock on the wall, in {calls:,.0f} calls."
    )
    lines = [text]
    for title, rows in (
        ("under cProfile", groups),
        ("the dearest functions", dearest_functions(cost.spending, cost.units)),
    ):
        lines += ["", f"| {title} | calls | own time, µs | of all that is counted |"]
        lines += ["| --- | ---: | ---: | ---: |"]
        lines += [
            f"| {name} | {spent.calls:,.1f} | {_micros(spent.own)} | {spent.own / counted:.0%} |"
            for name, spent in rows
            if spent.calls >= LEAST
        ]
    return lines


def _micros(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}"


class Counters(NamedTuple):
    """What the kernel counts of a process (proc(5))."""

    user: int
    """Hundredths of a second; as system."""
    system: int
    reads: int
    """Calls; sockets are read by read(2) here."""
    writes: int
    faults: int
    """Pages that were touched for the first time; none was read from a disk."""

    @classmethod
    def of(cls, pid: int) -> "Counters":
        """Until now."""
        directory = Path(f"/proc/{pid}")
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
        io = dict(line.split(": ") for line in (directory / "io").read_text().splitlines())
        user, system, faults = (int(fields[number]) for number in (11, 12, 7))
        return cls(user, system, int(io["syscr"]), int(io["syscw"]), faults)


def measured(case: Case, server: Server, running: Origin, rounds: int) -> Cost:
    """Ask the gateway as it is, and another one under cProfile."""
    directory = running.root.parent / f"profile-{case.name}-{free_port()}"
    directory.mkdir()
    work = Work(
        case, files_of(running, case), running.root, running.port_at(0), rounds + 1, directory
    )
    units = case.size / MIB if case.is_large else case.members
    with _asked(work, server) as (row, process, _):
        before = Counters.of(process.pid)
        for round_ in range(1, rounds + 1):
            row.run(round_)
        after = Counters.of(process.pid)
        cpu = median(run.cpu for run in row.row.runs)
    spent = Counters(*(now - then for now, then in zip(after, before, strict=True)))
    with _asked(work, server, profiled=True) as (row, _, profiled):
        told = []
        for round_ in range(1, rounds + 1):
            profiled.told()
            row.run(round_)
            told.append(profiled.told())
        # Own time goes by the clock on the wall: the least of it is what others disturbed least.
        number, spending = min(
            enumerate(told), key=lambda one: sum(each.own for each in one[1].values())
        )
    return Cost(
        title=case.title + server.name.removeprefix("tarstream"),
        unit="MiB" if case.is_large else "member",
        cpu=cpu / units,
        system=cpu / units * spent.system / max(spent.system + spent.user, 1),
        reads=spent.reads / units / rounds,
        writes=spent.writes / units / rounds,
        profiled=row.row.runs[number].cpu / units,
        spending=spending,
        units=units,
    )


@contextmanager
def _asked(
    work: Work, server: Server, *, profiled: bool = False
) -> Iterator[tuple[Measured, Process, Profiled]]:
    """A gateway that runs, and was asked once."""
    port = free_port()
    begins = server.command(work, port)
    directory = work.directory / f"{port}.told"
    directory.mkdir()
    if profiled:
        begins = command(directory, begins)
    output = work.directory / f"{port}.output"
    with started(begins, output, {"PYTHONPATH": str(ROOT)}) as process:
        row = Measured(server, work, process, port)
        row.warm_up()
        yield row, process, Profiled(process, directory)


def main() -> int:
    """Measure, show, and write where that is asked for."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers = [server for server in SERVERS if server.is_ours and is_known(server)]
    facts = facts_of("benchmarks.profile", servers[:1], datetime.now(UTC))
    costs = []
    try:
        with (
            TemporaryDirectory(dir=arguments.on, prefix="tarstream-profile-") as directory,
            origin(Path(directory)) as running,
        ):
            for case in cases(quick=arguments.quick):
                if case.name in CASES:
                    costs += [
                        measured(case, server, running, arguments.rounds)
                        for server in servers
                        if server.fits(case)
                    ]
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    facts["load at the end"] = load()
    text = markdown(costs, facts)
    print(text)
    if arguments.document:
        DOCUMENT.write_text(within(DOCUMENT.read_text(), text, "profile"))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="the same about less")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each case")
    parser.add_argument(
        "--document", action="store_true", help="replace the profile in docs/performance.md"
    )
    parser.add_argument("--on", type=Path, default=MEMORY, metavar="DIR", help="a tmpfs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
