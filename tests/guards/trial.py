"""A guard is taken out in a copy of the tree, and the tests that must notice are run there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from guards.guard import Guard, Stale, take_out

ROOT = Path(__file__).parent.parent.parent

_NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv*", "*_cache", "__pycache__", ".hypothesis", "build", "mutants"
)

TEST_SECONDS = 30
"""A test that waits for so long has noticed: what it waits for does not come."""

TRIAL_SECONDS = 600
"""A run of tests that takes so long has noticed nothing: something else is wrong."""

# A time limit may strike where there is no line, and pytest then fails to say where.
_STUMBLED = "pytest ends with 3:"

# Code that is not there, rather than a guard that is not: the edit is wrong.
_MISTAKES = re.compile(
    r"\b(?:NameError|UnboundLocalError|SyntaxError|ImportError|IndentationError)\b"
)


class Run(NamedTuple):
    """What became of tests."""

    failed: list[str]
    wrong: str
    """Why that says nothing about guards; "" where it does."""


class Outcome(NamedTuple):
    """What became of a guard that was taken out."""

    guard: Guard
    seconds: float
    noticed_by: str
    """The test that failed, or ""."""
    wrong: str

    def __str__(self) -> str:
        verdict = self.noticed_by or f"NOT NOTICED {self.wrong}".rstrip()
        return f"{self.guard.name:32} {self.seconds:5.1f} s  {verdict}"


def copied(to: Path, tree: Path = ROOT) -> Path:
    """A copy of the tree, without what it has made of itself."""
    return Path(shutil.copytree(tree, to, ignore=_NOT_COPIED))


def tried(guard: Guard, tree: Path, scratch: Path) -> Outcome:
    """Take a guard out of a copy of `tree`, made in `scratch`, and run its tests there."""
    began = time.monotonic()
    copy = copied(scratch / guard.name, tree)
    try:
        take_out(guard, copy)
        run = run_tests(guard.tests, copy, "--exitfirst")
        if run.wrong.startswith(_STUMBLED):
            run = run_tests(guard.tests, copy, "--exitfirst")
    except Stale as stale:
        run = Run([], str(stale))
    shutil.rmtree(copy, ignore_errors=True)
    noticed_by = run.failed[0] if run.failed and not run.wrong else ""
    return Outcome(guard, time.monotonic() - began, noticed_by, run.wrong)


def run_tests(tests: Sequence[str], tree: Path, *options: str) -> Run:
    """Run these tests of a tree, in a process of their own."""
    report = tree / "report.xml"
    report.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "pytest", "--quiet", "--color=no", "-p", "no:cacheprovider"),
        *(f"--timeout={TEST_SECONDS}", f"--junitxml={report}", f"--basetemp={tree / 'tmp'}"),
        *("--override-ini=junit_logging=all", *options),
        *(f"tests/{test}" for test in tests),
    ]
    with (tree / "output").open("wb") as output:
        pytest = subprocess.Popen(
            command,
            cwd=tree,
            # The copy, whatever is installed here.
            env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = pytest.wait(TRIAL_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if pytest.poll() is None:  # and whatever its tests have started
                os.killpg(pytest.pid, signal.SIGKILL)
                pytest.wait()
    said = (tree / "output").read_text(errors="replace")
    if status is None:
        return Run([], f"not within {TRIAL_SECONDS} s")
    if status not in {0, 1} or not report.exists():
        return Run([], f"pytest ends with {status}: {_last_line(said)}")
    cases = list(ET.parse(report).iter("testcase"))
    failed = [_id(case) for case in cases if case.find("failure") is not None]
    errors = [_id(case) for case in cases if case.find("error") is not None]
    if not failed and errors:
        return Run([], f"{errors[0]} does not run: {_last_line(said)}")
    mistake = _MISTAKES.search(report.read_text(errors="replace"))
    if mistake:
        return Run(failed, f"{mistake[0]}: what was taken out is more than the guard")
    return Run(failed, "")


def _id(case: ET.Element) -> str:
    file = case.get("classname", "").rpartition(".")[2]
    return f"{file}.py::{case.get('name')}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
