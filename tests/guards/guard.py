"""What a guard is: what it guards against, how to take it out, and the tests that fail then."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Edit(NamedTuple):
    """In the file at this path, below the project's root, a text becomes another."""

    path: str
    old: str
    new: str


class Guard(NamedTuple):
    """A row of the table."""

    name: str
    against: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    """As `test_file.py::test_name`, perhaps with a parameter; at least one of them fails."""


class Stale(Exception):
    """A guard is not where it was."""


def take_out(guard: Guard, root: Path) -> None:
    """Apply its edits below `root`. Raises Stale unless each applies exactly once."""
    for path, text in without(guard, root).items():
        path.write_text(text)


def without(guard: Guard, root: Path) -> dict[Path, str]:
    """The files that a guard is in, as they are without it."""
    texts: dict[Path, str] = {}
    for edit in guard.edits:
        path = root / edit.path
        text = texts.get(path) or path.read_text()
        if text.count(edit.old) != 1:
            count = text.count(edit.old)
            raise Stale(f"{guard.name}: {edit.path} has this {count} times: {edit.old!r}")
        texts[path] = text.replace(edit.old, edit.new)
    return texts


def named_tests(guards: Iterable[Guard]) -> list[str]:
    """The tests that guards name, each once."""
    return list(dict.fromkeys(test for guard in guards for test in guard.tests))
