"""From what was measured to what is shown: medians, spreads, ratios. Pure."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.cases import GIB, MIB, Case


@dataclass(frozen=True)
class Run:
    """A download, or several at the same moment. Units: seconds, bytes."""

    seconds: float
    bytes: int
    cpu: float
    """Of the server and its children."""
    first_byte: float
    """Until the answer began; the longest of several clients'."""
    members: int
    served: int
    """Clients that were sent anything."""


@dataclass(frozen=True)
class Row:
    """A server in a case. Units: bytes of memory."""

    server: str
    runs: list[Run]
    idle: int
    """Resident before the first request; of slow clients: before they came."""
    peak: int
    problem: str = ""
    """Why it has no figures."""


@dataclass(frozen=True)
class Result:
    """A case and its rows, which are compared with the first one; and what to know about it."""

    case: Case
    rows: list[Row]
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All that one run found out."""

    facts: dict[str, str]
    """The command, the machine, the versions."""
    results: list[Result]

    def as_json(self) -> dict[str, Any]:
        """For `json`; what is computed of runs stands beside them."""
        found = asdict(self)
        for result, shown in zip(self.results, found["results"], strict=True):
            for row, values in zip(result.rows, shown["rows"], strict=True):
                values["figures"] = {
                    column.key: asdict(figure)
                    for column, figure in figures_of(result, row)
                    if figure is not None
                }
        return found

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "Report":
        """The inverse of `as_json`."""
        results = []
        for result in found["results"]:
            rows = [
                Row(
                    row["server"],
                    [Run(**run) for run in row["runs"]],
                    row["idle"],
                    row["peak"],
                    row["problem"],
                )
                for row in result["rows"]
            ]
            results.append(Result(Case(**result["case"]), rows, result["note"]))
        return cls(found["facts"], results)


@dataclass(frozen=True)
class Figure:
    """A number that is shown."""

    median: float
    low: float
    high: float
    ratio: float | None
    """To that of the first row of the case; none for that row itself."""

    @property
    def spread(self) -> float:
        """The farthest of all runs from their median, as a fraction of it."""
        if not self.median:
            return 0
        return max(self.high - self.median, self.median - self.low) / self.median


@dataclass(frozen=True)
class Column:
    """What a figure is, and how it comes from a row."""

    key: str
    title: str
    values: Callable[[Case, Row], list[float]]
    """One for each run; one for all where only the whole is known."""
    digits: int = 0


def _of_runs(value: Callable[[Run], float]) -> Callable[[Case, Row], list[float]]:
    return lambda case, row: [value(run) for run in row.runs]


SPEED = Column("mib_per_second", "MiB/s", _of_runs(lambda run: run.bytes / MIB / run.seconds))
CPU_PER_GIB = Column(
    "cpu_seconds_per_gib", "CPU s per GiB", _of_runs(lambda run: run.cpu / (run.bytes / GIB)), 2
)
RATE = Column("members_per_second", "members/s", _of_runs(lambda run: run.members / run.seconds))
CPU_PER_MEMBER = Column(
    "cpu_us_per_member", "CPU µs per member", _of_runs(lambda run: run.cpu / run.members * 1e6)
)
FIRST_BYTE = Column(
    "first_byte_ms", "first byte, ms", _of_runs(lambda run: run.first_byte * 1000), 1
)
IDLE = Column("idle_mib", "idle memory, MiB", lambda case, row: [row.idle / MIB])
PEAK = Column("peak_mib", "peak memory, MiB", lambda case, row: [row.peak / MIB])
OVER_IDLE = Column(
    "over_idle_mib",
    "over idle, MiB",
    lambda case, row: [max(row.peak - row.idle, 0) / MIB],
    1,
)
SERVED = Column("served", "clients served", _of_runs(lambda run: run.served))
PER_CLIENT = Column(
    "mib_per_client",
    "MiB per client",
    lambda case, row: [max(row.peak - row.idle, 0) / MIB / case.clients],
    2,
)


def columns_of(case: Case) -> list[Column]:
    """What is shown of a case."""
    if case.slow:
        return [SERVED, PER_CLIENT, IDLE, PEAK]
    if case.is_large:
        return [SPEED, CPU_PER_GIB, FIRST_BYTE, IDLE, PEAK, OVER_IDLE]
    return [RATE, CPU_PER_MEMBER, FIRST_BYTE, IDLE, PEAK, OVER_IDLE]


def figures_of(result: Result, row: Row) -> list[tuple[Column, Figure | None]]:
    """The figures of a row, each with its column; none where it has a problem."""
    first = result.rows[0]
    shown: list[tuple[Column, Figure | None]] = []
    for column in columns_of(result.case):
        if row.problem or not row.runs:
            shown.append((column, None))
            continue
        values = column.values(result.case, row)
        ratio = None
        if row is not first and not first.problem and first.runs:
            beside = median(column.values(result.case, first))
            ratio = median(values) / beside if beside else None
        shown.append((column, Figure(median(values), min(values), max(values), ratio)))
    return shown
