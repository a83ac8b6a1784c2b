"""Run the benchmarks.

python -m benchmarks [--quick] [--runs N] [--case NAME]... [--server NAME]...
                     [--json FILE] [--plots DIR] [--document] [--from FILE] [--on DIR]

Linux; nginx, curl, node, and the peers installed as `make bench` does.
"""

import argparse
import json
import os
import platform
import shlex
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import report as reports
from benchmarks.cases import GIB, LONG, Case, cases
from benchmarks.figures import Report, Result
from benchmarks.measure import measured
from benchmarks.origin import ROOT, origin
from benchmarks.petabyte import petabyte
from benchmarks.processes import BenchError, said
from benchmarks.servers import SERVERS, Server, is_known

MEMORY = Path("/dev/shm")  # nosec B108 # noqa: S108 - tmpfs; a directory of our own is made in it

DOCUMENT = ROOT / "docs" / "performance.md"

RUNS, QUICK_RUNS = 5, 2


def main() -> int:
    """Measure, show, write; the exit status is 1 when an answer was not what it had to be."""
    arguments = _arguments()
    # Everything that was started ends then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.source:
            report = Report.of_json(json.loads(arguments.source.read_text()))
            for result in report.results:
                print(reports.table(result), end="\n\n")
        else:
            report = _measured(arguments)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    _write(report, arguments)
    return int(any(row.problem for result in report.results for row in result.rows))


def _measured(arguments: argparse.Namespace) -> Report:
    began = datetime.now(UTC)
    asked = _cases(arguments)
    servers = [
        server
        for server in _servers(arguments)
        if any(server.fits(case) for case in asked) and is_known(server)
    ]
    facts = facts_of("benchmarks", servers, began)
    results: list[Result] = []
    with (
        TemporaryDirectory(dir=arguments.on, prefix="tarstream-bench-") as directory,
        origin(Path(directory)) as running,
    ):
        for case in asked:
            fit = [server for server in servers if server.fits(case)]
            if fit:
                result = measured(case, fit, running, arguments.runs, _tell)
                _tell("")
                print(reports.table(result), end="\n\n", flush=True)
                results.append(result)
    facts["load at the end"] = load()
    seconds = (datetime.now(UTC) - began).total_seconds()
    facts["time"] = f"{began:%Y-%m-%d %H:%M} UTC, {seconds:.0f} s"
    return Report(facts, results)


def _write(report: Report, arguments: argparse.Namespace) -> None:
    if arguments.json:
        _dump(report, arguments.json)
    if arguments.plots:
        from benchmarks.plots import drawn  # noqa: PLC0415 - matplotlib is needed for this alone

        drawn(report, arguments.plots)
    if arguments.document:
        from benchmarks.plots import drawn  # noqa: PLC0415 - likewise

        directory = DOCUMENT.with_suffix("")
        plots = [(f"{directory.name}/{name}", shows) for name, shows in drawn(report, directory)]
        _dump(report, directory / "figures.json")
        figures = reports.markdown(report, plots)
        document = reports.within(DOCUMENT.read_text(), figures)
        DOCUMENT.write_text(reports.within(document, petabyte(report), "petabyte"))


def _dump(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n")


def facts_of(program: str, servers: list[Server], began: datetime) -> dict[str, str]:
    """The command, a module with its arguments; the machine, the versions."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    versions = {}
    for server in servers:
        name = server.name.split(",")[0].split(" ")[0]
        versions[name] = server.version()
    versions |= {
        "Python": platform.python_version(),
        "curl": said(["curl", "--version"])[0].split()[1],
    }
    if any("Node" in server.name for server in servers):
        versions["Node"] = said(["node", "--version"])[0].strip().lstrip("v")
    return {
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
        "time": f"{began:%Y-%m-%d %H:%M} UTC",
        "machine": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory",
        "system": f"{platform.system()} {platform.release()}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "load at the start": load(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load() -> str:
    """Programs that ran or wanted to, in the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def _tell(what: str) -> None:
    """Where we are, on a terminal only."""
    if sys.stderr.isatty():
        print(
            f"\r\033[K{time.strftime('%H:%M:%S')} {what}" if what else "\r\033[K",
            end="",
            file=sys.stderr,
            flush=True,
        )


def _cases(arguments: argparse.Namespace) -> list[Case]:
    left_out = LONG if arguments.quick else ()
    return [
        case
        for case in cases(quick=arguments.quick)
        if (case.name in arguments.case if arguments.case else case.name not in left_out)
    ]


def _servers(arguments: argparse.Namespace) -> list[Server]:
    return [
        server
        for server in SERVERS
        if not arguments.server or server.name.split(" ")[0] in arguments.server
    ]


def _arguments() -> argparse.Namespace:
    names = [case.name for case in cases(quick=False)]
    firsts = list(dict.fromkeys(server.name.split(" ")[0] for server in SERVERS))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="the same questions about less")
    parser.add_argument("--runs", type=int, metavar="N", help="of each server in each case")
    parser.add_argument("--case", action="append", choices=names, help="only this one; repeatable")
    parser.add_argument("--server", action="append", choices=firsts, help="likewise")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all that was measured")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="SVGs go there")
    parser.add_argument(
        "--document", action="store_true", help="replace the figures of docs/performance.md"
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="measure nothing: take what --json wrote",
    )
    parser.add_argument(
        "--on",
        type=Path,
        default=MEMORY,
        metavar="DIR",
        help=f"a tmpfs that has room for twice what is asked for ({MEMORY})",
    )
    arguments = parser.parse_args()
    arguments.runs = arguments.runs or (QUICK_RUNS if arguments.quick else RUNS)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
