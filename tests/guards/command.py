"""The guards as a command: which to take out, and what it says."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from guards.guard import Guard, named_tests
from guards.table import GUARDS
from guards.trial import copied, run_tests, tried

JOBS = 2  # trials at a time


def main() -> int:
    """Run from the command line; the exit status."""
    arguments = _arguments()
    guards = [g for g in GUARDS if not arguments.guards or g.name in arguments.guards]
    if arguments.list:
        _say(*(f"| `{guard.name}` | {guard.against} |" for guard in guards))
        return 0
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="guards-") as directory,
        ThreadPoolExecutor(arguments.jobs) as pool,
    ):
        scratch = Path(directory)
        tree = copied(scratch / "tree")  # of one moment, whoever goes on editing
        if not arguments.only_without and not _pass_with_all(guards, tree, pool, arguments.jobs):
            return 1
        outcomes = []
        running = [pool.submit(tried, guard, tree, scratch) for guard in guards]
        try:
            for outcome in as_completed(running):
                outcomes.append(outcome.result())
                _say(str(outcomes[-1]))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            return 130
    missed = [outcome.guard for outcome in outcomes if not outcome.noticed_by]
    _say("", f"{len(outcomes)} guards, {len(missed)} not noticed, {time.monotonic() - began:.0f} s")
    for guard in missed:
        _say(f"  {guard.name}: {guard.against}", *(f"    {test}" for test in guard.tests))
    return 1 if missed else 0


def _pass_with_all(
    guards: Sequence[Guard], tree: Path, pool: ThreadPoolExecutor, jobs: int
) -> bool:
    """Whether the tests pass as long as all guards are there; says which do not."""
    tests = sorted(named_tests(guards))
    # By file, because what a module of tests sets up it sets up once.
    files = sorted({test.partition("::")[0] for test in tests})
    shares = [[t for t in tests if t.partition("::")[0] in files[job::jobs]] for job in range(jobs)]
    trees = [copied(tree.parent / f"whole-{job}", tree) for job in range(jobs)]
    ran = list(pool.map(run_tests, filter(None, shares), trees))
    failed = [test for run in ran for test in (*run.failed, run.wrong) if test]
    if failed:
        _say("with all guards in place these fail:", *(f"  {test}" for test in failed))
    else:
        _say(f"{len(tests)} tests pass with all guards in place", "")
    return not failed


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="guards", description="Take guards out, one at a time: do tests notice?"
    )
    parser.add_argument(
        "guards",
        nargs="*",
        choices=[*(guard.name for guard in GUARDS), []],
        metavar="GUARD",
        help="only these; all by default",
    )
    parser.add_argument("--list", action="store_true", help="only say which there are")
    parser.add_argument("--jobs", type=int, default=JOBS, help="at a time (%(default)s)")
    parser.add_argument(
        "--only-without",
        action="store_true",
        help="do not run the tests with all guards in place first",
    )
    return parser.parse_args()
