"""Mutation testing of the pure modules, as `make mutants` runs it; docs/mutants.md tells the rest.

mutmut changes one thing at a time in a copy of the sources, in `mutants/`, and runs the tests that
reach it. This prints which changes no test noticed, and how many were, and fails below 90 %.
"""

import json
import resource
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
MUTMUT = Path(sys.executable).parent / "mutmut"

ENOUGH = 90  # per cent of the mutants of each module, and of all

FAILED, BROKEN = 1, 3
"""Exit statuses of pytest where it notices a change; any other but 0 says that it did not run."""
UNNOTICED = {0: "survived", 33: "no test reaches it"}

MEMORY = 2 << 30  # bytes a process; a loop without end that collects something takes no more


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    shutil.rmtree(ROOT / "mutants", ignore_errors=True)
    if subprocess.run([MUTMUT, "run"], cwd=ROOT, check=False).returncode:
        return 1
    statuses = {}
    for path in sorted((ROOT / "mutants").rglob("*.meta")):
        statuses |= json.loads(path.read_text())["exit_code_by_key"]
    for mutant, status in statuses.items():
        if not is_noticed(status):
            diff = subprocess.check_output([MUTMUT, "show", mutant], cwd=ROOT, text=True)
            change = [line for line in diff.split("\n") if line[:2] in {"- ", "+ "}]
            write("", f"{mutant}: {UNNOTICED.get(status, f'not run ({status})')}", *change)
    python = ".".join(map(str, sys.version_info[:3]))
    write("", f"mutmut {version('mutmut')}, Python {python}")
    return report(statuses)


def is_noticed(status: int | None) -> bool:
    """Whether tests failed, or were ended by a signal: their time was over.

    mutmut itself calls everything noticed that it could not run.
    """
    return status is not None and (status in {FAILED, BROKEN} or status < 0)


def write(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def report(statuses: dict[str, int | None]) -> int:
    """Write a row for each module and one for all; return the exit status."""
    of = Counter(mutant.rpartition(".")[0] for mutant in statuses)
    noticed = Counter(m.rpartition(".")[0] for m, status in statuses.items() if is_noticed(status))
    rows = [(module, of[module], noticed[module]) for module in sorted(of)]
    rows.append(("all", of.total(), noticed.total()))
    write("", "| module | mutants | noticed | |", "| --- | ---: | ---: | ---: |")
    for name, mutants, count in rows:
        write(f"| {name} | {mutants} | {count} | {100 * count / max(mutants, 1):.1f} % |")
    return int(any(100 * count < ENOUGH * mutants for _, mutants, count in rows) or not statuses)


if __name__ == "__main__":
    sys.exit(main())
