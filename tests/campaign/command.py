"""The campaign as a command: what to run, and what it says."""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from campaign.cases import DIRECT, Case, case_of, cases
from campaign.kinds import CELLS
from campaign.report import Report
from campaign.run import campaign
from campaign.sabotage import GUARDS, Guard

JOBS = 24  # cases at a time: most of them wait for something
OFTEN = 10.0  # seconds from one line of progress to the next

TOOLS = ("7z", "aria2c", "curl", "nginx", "tar", "unzip", "wget", "zstd")


def main() -> int:
    """Run from the command line; the exit status."""
    arguments = _arguments()
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        _say(f"missing: {', '.join(missing)}")
        return 2
    guard = GUARDS[arguments.sabotage] if arguments.sabotage else None
    if arguments.replay:
        arguments.seed, index = map(int, arguments.replay.split(":"))
        chosen = [case_of(arguments.seed, index)]
    else:
        chosen = list(
            chosen_for(guard, arguments.seed, arguments.n, arguments.cell)
            if guard
            else cases(arguments.seed, arguments.n or len(CELLS), arguments.cell)
        )
    began = time.monotonic()
    _say(f"{len(chosen)} cases, seed {arguments.seed}")
    report = asyncio.run(campaign(chosen, arguments.sabotage, arguments.jobs, _Progress().tell))
    _say("", *report.lines(), f"seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    option = f' --sabotage "{arguments.sabotage}"' if guard else ""
    for result in report.wrong:
        _say("", str(result.case), *(f"  {violation}" for violation in result.violations))
        _say(f"  {sys.executable} tests/campaign{option} --replay {result.case.replay}")
    for result in report.in_doubt:
        _say("", f"in doubt: {result.case}", *(f"  {violation}" for violation in result.violations))
    _say("", *report.about_all)
    if arguments.log:
        arguments.log.write_text(report.logs)
    if arguments.replay:
        _say(*report.results[0].notes, report.logs)
    if guard:
        found = [
            *(each for result in report.wrong for each in result.violations),
            *report.about_all,
        ]
        shown = [each for each in found if re.search(guard.shows, each)]
        _say(f"{len(shown)} violations without the guard: {guard.against}")
        return 0 if shown else 1
    wrong = len(report.wrong) + len(report.about_all)
    _say(f"{wrong} violations")
    return 1 if wrong else 0


def chosen_for(
    guard: Guard, seed: int, number: int | None = None, places: Collection[str] = ()
) -> Iterator[Case]:
    """The first cases of a seed that can show that a guard is off."""

    def instead(case: Case) -> Iterator[str]:
        if case.read_first:
            yield "read"
        if case.whole_instead:
            yield "whole"

    def wanted(case: Case) -> bool:
        struck = case.members[case.struck]
        least, most = guard.sizes
        return (
            case.client in guard.clients
            and case.gateway == guard.gateway
            and case.path == DIRECT
            and str(case.form) in guard.forms
            and guard.instead in {None, *instead(case)}
            and struck.validator in guard.validators
            and least <= struck.size <= most
            and guard.cut <= case.cut
            and guard.lasting in {None, case.cell.lasting}
            and guard.begun in {None, not case.before_first_byte}
            and guard.stated in {None, struck.stated}
            and guard.behind <= (case.members[case.struck - 1].size if case.struck else 0)
        )

    return cases(seed, number or guard.cases, places or guard.cells, wanted)


class _Progress:
    """Says now and then how far it is, and at once what is wrong."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def tell(self, report: Report) -> None:
        latest = report.results[-1]
        if latest.violations:
            _say(f"{latest.case}: {latest.violations[0]}")
        now = time.monotonic()
        if now - self._said > OFTEN:
            self._said = now
            _say(f"{len(report.results)} after {now - self._began:.0f} s")


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="campaign", description="The fault campaign.")
    parser.add_argument("--n", type=int, help=f"cases ({len(CELLS)}, a few without a guard)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="which ones")
    parser.add_argument("--jobs", type=int, default=JOBS, help="cases at a time (%(default)s)")
    parser.add_argument("--sabotage", choices=GUARDS, help="switch this guard of the gateway off")
    parser.add_argument("--replay", metavar="SEED:INDEX", help="run this one case, and tell all")
    parser.add_argument("--log", type=Path, help="write the gateways' logs here")
    parser.add_argument(
        "--cell",
        action="append",
        default=[],
        choices={cell.place for cell in CELLS},
        metavar="CELL",
        help="only in this cell, such as 'FIN / middle'; may be repeated",
    )
    return parser.parse_args()
