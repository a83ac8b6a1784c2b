"""What a campaign says at its end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from campaign.cases import ARIA2C, GONE, HALF_CLOSED, Case
from campaign.cells import HEALED, REPAIR

COLUMNS = ("healed", "resumed", "loud", "refused", "left", "other", "unfired", "wrong")

HEALS = 0.999  # of downloads with one passing failure complete unseen
REREADS = 0.01  # of their bytes may be read again ...
MEASURABLE = 20_000_000  # ... once they are so many; a single small member may be read twice
FIRES = 0.97  # of faults that were armed; the campaign itself is wrong below that


@dataclass
class Result:
    """What became of a case."""

    case: Case
    outcome: str  # of the first answer
    succeeded: bool
    fired: bool
    violations: list[str] = field(default_factory=list)
    needed: int = 0  # bytes of contents that the answer holds
    again: int = 0  # bytes of contents that had come, and were asked for again
    notes: list[str] = field(default_factory=list)

    @property
    def column(self) -> str:
        """Where the table counts it."""
        if self.succeeded and self.outcome != "healed":
            return "resumed"
        outcome = self.outcome.split()[0]
        return outcome if outcome in COLUMNS else "other"


class Report:
    """All results of a campaign."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.about_all: list[str] = []  # what is wrong with no case in particular
        self.logs = ""  # of all gateways
        self.late = 0.0  # seconds that the campaign itself held its origins up, at most

    @property
    def wrong(self) -> list[Result]:
        """Results with violations."""
        return [result for result in self.results if result.violations]

    def _healing(self) -> tuple[list[Result], int]:
        """Results where one failure passed, and how many of them nobody noticed."""
        healing = [result for result in self.results if _passes(result.case) and result.fired]
        return healing, sum(result.outcome == "healed" for result in healing)

    def conclude(self) -> None:
        """Look at what only all cases together show."""
        armed = [r for r in self.results if r.case.client not in {GONE, HALF_CLOSED}]
        fired = sum(result.fired for result in armed)
        if armed and fired / len(armed) < FIRES:
            self.about_all.append(f"only {fired} of {len(armed)} faults fired")
        by_cell: defaultdict[object, list[bool]] = defaultdict(list)
        for result in armed:
            by_cell[result.case.cell].append(result.fired)
        for cell, each in by_cell.items():
            if len(each) >= 3 and not any(each):
                self.about_all.append(f"the fault never fired in {len(each)} cases: {cell}")
        healing, healed = self._healing()
        if healing and healed / len(healing) < HEALS:
            self.about_all.append(f"only {healed} of {len(healing)} passing failures were healed")
        needed, again = _bytes(healing)
        if needed > MEASURABLE and again > needed * REREADS:
            self.about_all.append(f"{again} of {needed} bytes were read again")

    def lines(self) -> Iterator[str]:
        """The tables."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for result in self.results:
            counts[result.case.cell.kind][result.column] += 1
            counts[result.case.cell.kind]["unfired"] += not result.fired
            counts[result.case.cell.kind]["wrong"] += bool(result.violations)
        width = max(map(len, counts), default=0)
        yield " " * width + "".join(f"{column:>9}" for column in COLUMNS)
        for kind in sorted(counts):
            cells = (f"{counts[kind][column] or '·':>9}" for column in COLUMNS)
            yield f"{kind:{width}}{''.join(cells)}"
        total = sum(counts.values(), Counter())
        yield f"{'all':{width}}" + "".join(f"{total[column]:>9}" for column in COLUMNS)
        yield ""
        healing, healed = self._healing()
        needed, again = _bytes(healing)
        yield (
            f"one passing failure: {healed} of {len(healing)} complete unseen; "
            f"{again} of {needed} bytes read again ({again / max(needed, 1):.3%})"
        )
        yield f"origins were held up by the campaign itself for at most {self.late:.2f} s"


def _passes(case: Case) -> bool:
    """Whether it is one failure that passes, of an origin that can do ranges."""
    return (
        case.kind.passes
        and not case.cell.lasting
        and case.cell.position != REPAIR
        and case.kind.verdict(case.cell.position, lasting=False) == HEALED
        and case.strong
        and case.client not in {GONE, HALF_CLOSED}
    )


def _bytes(results: list[Result]) -> tuple[int, int]:
    # aria2c asks for parts that it then leaves.
    counted = [result for result in results if result.case.client != ARIA2C]
    return sum(result.needed for result in counted), sum(result.again for result in counted)
