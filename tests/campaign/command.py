"""The campaign as a command: what to run, and what it says."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import time
from collections.abc import Collection

from campaign.cases import Case, case_of, cases
from campaign.kinds import CELLS
from campaign.report import Report
from campaign.run import campaign
from campaign.sabotage import GUARDS, Guard

JOBS = 8  # cases at a time
OFTEN = 10.0  # seconds from one line of progress to the next

TOOLS = ("aria2c", "curl", "nginx", "tar", "wget")


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
        places = arguments.cell or (guard.cells if guard else ())
        chosen = list(cases(arguments.seed, arguments.n, lambda case: _wanted(case, places, guard)))
    began = time.monotonic()
    _say(f"{len(chosen)} cases, seed {arguments.seed}")
    report = asyncio.run(campaign(chosen, arguments.sabotage, arguments.jobs, _Progress().tell))
    _say("", *report.lines(), f"seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    option = f' --sabotage "{arguments.sabotage}"' if guard else ""
    for result in report.wrong:
        _say("", str(result.case), *(f"  {violation}" for violation in result.violations))
        _say(f"  {sys.executable} tests/campaign{option} --replay {result.case.replay}")
    _say("", *report.about_all)
    if arguments.replay:
        _say(*report.results[0].notes, report.logs)
    if guard:
        _say(f"{len(report.wrong)} violations without the guard: {guard.against}")
        return 0 if report.wrong else 1
    wrong = len(report.wrong) + len(report.about_all)
    _say(f"{wrong} violations")
    return 1 if wrong else 0


def _wanted(case: Case, places: Collection[str], guard: Guard | None) -> bool:
    """Whether a case is in these cells if any are given, and can show that a guard is off."""
    if places and case.cell.place not in places:
        return False
    if guard is None:
        return True
    validator = case.members[case.struck].validator
    by_client = not guard.clients or case.client in guard.clients
    return by_client and (not guard.validators or validator in guard.validators)


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
    parser.add_argument("--n", type=int, default=len(CELLS), help="cases (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="which ones")
    parser.add_argument("--jobs", type=int, default=JOBS, help="cases at a time (%(default)s)")
    parser.add_argument("--sabotage", choices=GUARDS, help="switch this guard of the gateway off")
    parser.add_argument("--replay", metavar="SEED:INDEX", help="run this one case, and tell all")
    parser.add_argument(
        "--cell",
        action="append",
        choices={cell.place for cell in CELLS},
        metavar="CELL",
        help="only in this cell, such as 'FIN / middle'; may be repeated",
    )
    return parser.parse_args()
