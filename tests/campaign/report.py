"""What a campaign says at its end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from campaign.cases import ARIA2C, FRESH, GONE, HALF_CLOSED, REMEMBERING, Case
from campaign.cells import LARGE

COLUMNS = ("healed", "resumed", "loud", "refused", "left", "other", "unfired", "wrong")

HEALS = 0.999  # of downloads with one passing failure complete unseen
REREADS = 0.01  # of bytes that origins send beyond what is needed, at most ...
MEASURABLE = 10  # ... where so many downloads with a large member tell
FIRES = 0.99  # of faults that were armed; the campaign itself is wrong below that
DOUBTS = 0.01  # of cases may stay in doubt, because this machine is too slow to judge them ...
SOME_DOUBTS = 3  # ... or so many


@dataclass
class Result:
    """What became of a case."""

    case: Case
    outcome: str  # of the first answer
    succeeded: bool
    fired: bool
    violations: list[str] = field(default_factory=list)
    needed: int = 0  # bytes of contents that the answer holds
    sent: int = 0  # bytes of contents that origins sent for it
    in_doubt: bool = False  # wrong, but something was late that may be the reason
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
        self.late = 0.0  # seconds that something came too late, at most
        self.repeated = 0  # cases that were run again for that
        self.spliced: Counter[str] = Counter()  # bytes that the kernel has moved, by gateway

    @property
    def wrong(self) -> list[Result]:
        """Results with violations."""
        return [result for result in self.results if result.violations and not result.in_doubt]

    @property
    def in_doubt(self) -> list[Result]:
        """Results that were not judged."""
        return [result for result in self.results if result.in_doubt]

    def _healing(self) -> tuple[list[Result], int]:
        """Results where one failure passed, and how many of them nobody noticed."""
        healing = [
            each for each in self.results if each.case.heals and each.fired and not each.in_doubt
        ]
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
        large = _large(healing)
        needed, again = _bytes(large)
        if len(large) >= MEASURABLE and again > needed * REREADS:
            self.about_all.append(f"{again} of {needed} bytes were read again")
        # All clean downloads are those of one gateway.
        if any(result.case.has_spliced for result in self.results) and not self.spliced[FRESH]:
            self.about_all.append("the kernel has moved nothing, where it may")
        if moved := self.spliced[REMEMBERING]:
            self.about_all.append(f"the kernel has moved {moved} bytes, where it must not")
        if len(self.in_doubt) > max(SOME_DOUBTS, DOUBTS * len(self.results)):
            self.about_all.append(f"{len(self.in_doubt)} cases are in doubt: this machine is slow")

    def lines(self) -> Iterator[str]:
        """The tables."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        forms: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for result in self.results:
            for row in (counts[result.case.cell.kind], forms[str(result.case.form)]):
                row[result.column] += 1
                row["unfired"] += not result.fired
                row["wrong"] += bool(result.violations)
        width = max(map(len, (*counts, *forms)), default=0)
        yield " " * width + "".join(f"{column:>9}" for column in COLUMNS)
        for rows in (counts, forms):
            for name in sorted(rows):
                cells = (f"{rows[name][column] or '·':>9}" for column in COLUMNS)
                yield f"{name:{width}}{''.join(cells)}"
            yield ""
        total = sum(counts.values(), Counter())
        yield f"{'all':{width}}" + "".join(f"{total[column]:>9}" for column in COLUMNS)
        yield ""
        healing, _ = self._healing()
        for what, some in (("one passing failure", healing), ("... and large", _large(healing))):
            needed, again = _bytes(some)
            healed = sum(result.outcome == "healed" for result in some)
            yield (
                f"{what}: {healed} of {len(some)} complete unseen; "
                f"{again} of {needed} bytes read again ({again / max(needed, 1):.3%})"
            )
        moved = ", ".join(f"{self.spliced[name]} ({name})" for name in sorted(self.spliced))
        struck = sum(result.case.strikes_spliced and result.fired for result in self.results)
        yield f"bytes that the kernel moved: {moved}; {struck} faults struck among them"
        yield (
            f"late by {self.late:.2f} s at most; {self.repeated} cases run again for that, "
            f"{len(self.in_doubt)} in doubt"
        )


def _large(results: list[Result]) -> list[Result]:
    return [each for each in results if each.case.members[each.case.struck].size == LARGE]


def _bytes(results: list[Result]) -> tuple[int, int]:
    """Bytes of contents that were needed, and those that origins sent beyond them."""
    # aria2c asks for parts that it then leaves.
    counted = [each for each in results if each.case.client != ARIA2C and each.outcome == "healed"]
    needed = sum(result.needed for result in counted)
    return needed, sum(result.sent for result in counted) - needed
