"""That `make mutants` changes every pure module, and fails when too many changes go unnoticed."""

import tomllib

import pytest
from gateway import ROOT
from mutants import report
from test_house import PURE

MUTMUT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]


def test_every_pure_module_is_changed():
    changed = {path for pattern in MUTMUT["only_mutate"] for path in ROOT.glob(pattern)}
    pure = {ROOT / "tarstream" / f"{name.replace('.', '/')}.py" for name in PURE}
    assert {path for path in pure if path.exists()} <= changed
    assert all(list(ROOT.glob(pattern)) for pattern in MUTMUT["only_mutate"])


def test_the_tests_that_have_to_notice_are_there():
    files = [each for each in MUTMUT["pytest_add_cli_args_test_selection"] if "/" in each]
    assert files
    assert all((ROOT / file).is_file() for file in files)


KILLED, SURVIVED, NO_TESTS, NOT_RUN, TIMEOUT = 1, 0, 33, 255, -24


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([KILLED] * 8 + [TIMEOUT, SURVIVED], 0),
        ([KILLED] * 8 + [SURVIVED], 1),
        ([KILLED] * 8 + [NO_TESTS], 1),
        ([KILLED] * 8 + [NOT_RUN], 1),
        ([KILLED] * 8 + [None], 1),
        ([], 1),
    ],
)
def test_nine_of_ten_changes_of_a_module_must_be_noticed(statuses, status, capsys):
    others = {f"tarstream.names.x_mend__mutmut_{n}": KILLED for n in range(100)}
    these = {f"tarstream.log.x_line__mutmut_{n}": each for n, each in enumerate(statuses)}
    assert report(these | (others if these else {})) == status
    written = capsys.readouterr().out
    noticed = sum(each in {KILLED, TIMEOUT} for each in statuses)
    if these:
        assert f"| tarstream.log | {len(statuses)} | {noticed} |" in written
        assert f"| all | {len(statuses) + 100} | {noticed + 100} |" in written
