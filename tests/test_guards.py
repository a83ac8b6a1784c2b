"""The table of guards is kept up with the sources; `make guards` takes each of them out."""

import ast
from collections import Counter

import pytest
from guards import trial
from guards.guard import Edit, Guard, Stale, named_tests, take_out, without
from guards.table import GUARDS
from guards.trial import ROOT, copied, tried

TESTS = ROOT / "tests"


def functions_in(file):
    return {
        node.name
        for node in ast.walk(ast.parse((TESTS / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_is_where_the_table_says(guard):
    """Each replacement applies exactly once, changes something, and leaves code."""
    assert guard.against
    assert guard.edits
    assert guard.tests
    for path, text in without(guard, ROOT).items():
        assert text != path.read_text()
        if path.suffix == ".py":
            compile(text, str(path), "exec", dont_inherit=True)


def test_guards_have_names_of_their_own():
    names = Counter(guard.name for guard in GUARDS)
    assert [name for name, number in names.items() if number > 1] == []


def test_every_test_that_the_table_names_exists():
    found = {
        file: functions_in(file) for file in {t.partition("::")[0] for t in named_tests(GUARDS)}
    }
    for test in named_tests(GUARDS):
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in found[file], test


def test_every_guard_is_documented():
    document = (ROOT / "docs" / "guards.md").read_text()
    for guard in GUARDS:
        assert f"| `{guard.name}` | {guard.against} |" in document


@pytest.fixture
def tree(tmp_path):
    """Something small that has a guard, and tests."""
    tests = tmp_path / "tree" / "tests"
    tests.mkdir(parents=True)
    (tmp_path / "tree" / "pytest.ini").write_text("[pytest]\naddopts = -p no:schemathesis\n")
    (tmp_path / "tree" / "product.py").write_text("def halved(n):\n    return n // 2\n")
    (tests / "test_product.py").write_text(
        "import time\n"
        "import pytest\n"
        "from product import halved\n"
        "@pytest.fixture\n"
        "def one():\n"
        "    assert halved(2) == 1\n"
        "    return 1\n"
        "def test_whole():\n"
        "    assert isinstance(halved(3), int)\n"
        "def test_something_else():\n"
        "    assert halved(4) == 2\n"
        "def test_set_up(one):\n"
        "    assert one == 1\n"
        "def test_time():\n"
        "    while halved(3) != 1:\n"
        "        time.sleep(0.01)\n"
    )
    return tmp_path / "tree"


def guard(new, *names, old="n // 2"):
    tests = tuple(f"test_product.py::{name}" for name in names)
    return Guard("whole", "a half", (Edit("product.py", old, new),), tests)


def outcome(guard, tree):
    return tried(guard, tree, tree.parent)


def test_a_test_that_fails_has_noticed(tree):
    found = outcome(guard("n / 2", "test_something_else", "test_whole"), tree)
    assert (found.noticed_by, found.wrong) == ("test_product.py::test_whole", "")
    assert "n // 2" in (tree / "product.py").read_text(), "only the copy is without it"


def test_a_test_that_waits_for_ever_has_noticed(tree, monkeypatch):
    monkeypatch.setattr(trial, "TEST_SECONDS", 1)
    found = outcome(guard("n / 2", "test_time"), tree)
    assert found.noticed_by == "test_product.py::test_time"


def test_tests_that_pass_have_not_noticed(tree):
    found = outcome(guard("n / 2", "test_something_else"), tree)
    assert (found.noticed_by, found.wrong) == ("", "")


@pytest.mark.parametrize(
    "wrong",
    [
        guard("n // 0", "test_set_up"),  # an error, but not of the test
        guard("half(n)", "test_whole"),  # a name that there is not
        guard("n / 2", "test_that_there_is_not"),
        guard("n / 2", "test_whole", old="n //  2"),
        guard("m", "test_whole", old="n"),
    ],
    ids=["set-up", "name", "no test", "not there", "several"],
)
def test_what_fails_otherwise_has_not_noticed(tree, wrong):
    found = outcome(wrong, tree)
    assert found.noticed_by == ""
    assert found.wrong


def test_edits_of_a_file_add_up(tree):
    both = Guard("g", "", (Edit("product.py", "n)", "m)"), Edit("product.py", "n //", "m //")), ())
    take_out(both, tree)
    assert (tree / "product.py").read_text() == "def halved(m):\n    return m // 2\n"
    with pytest.raises(Stale):
        take_out(both, tree)


def test_what_is_copied_is_what_is_kept(tree, tmp_path):
    for made in (".git", ".venv", ".venv-3.13", ".mypy_cache", "__pycache__", "mutants"):
        (tree / made).mkdir()
    assert {each.name for each in copied(tmp_path / "copy", tree).iterdir()} == {
        "product.py",
        "pytest.ini",
        "tests",
    }
