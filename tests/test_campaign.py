"""What the fault campaign is made of; `make campaign` runs it (docs/campaign.md)."""

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from campaign.cases import (
    CLIENTS,
    CURL,
    CURL_LOOP,
    DIRECT,
    FRESH,
    GONE,
    IF_RANGE,
    Case,
    Member,
    case_of,
    cases,
)
from campaign.download import Download, Run
from campaign.expect import expected
from campaign.judge import Archive, Evidence, asks_tar, violations
from campaign.kinds import CELLS, KINDS, Cell
from campaign.report import Report, Result
from campaign.sabotage import GUARDS, edited

CAMPAIGN = Path(__file__).parent / "campaign"

BODY = bytes(range(256)) * 20
RIGHT = Archive(BODY, '"right"', [0], [512])
LATER = Archive(BODY[::-1], '"later"', [0], [512])

MEMBER = Member("a", 100, 1, "tag", stated=False, digest=None)


def campaign(*options):
    command = [sys.executable, str(CAMPAIGN), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_is_where_its_sabotage_looks_for_it(guard):
    for module in {edit.module for edit in GUARDS[guard].edits}:
        source = Path(importlib.util.find_spec(module).origin).read_text()
        compile(edited(module, source, GUARDS[guard].edits), module, "exec")


def test_a_guard_that_is_gone_is_an_error():
    [edit] = GUARDS["cancellation"].edits
    with pytest.raises(LookupError, match="not where it was"):
        edited(edit.module, "pass", [edit])


def test_a_guard_names_cells_and_clients_that_there_are():
    for guard in GUARDS.values():
        assert set(guard.cells) <= {cell.place for cell in CELLS}
        assert set(guard.clients) <= set(CLIENTS)


def test_a_case_is_chosen_by_its_seed_and_index_and_nothing_else():
    ours = [str(case_of(7, index)) for index in range(0, 2000, 9)]
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from campaign.cases import case_of\n"
        "for index in range(0, 2000, 9): print(case_of(7, index))"
    )
    theirs = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert theirs.stdout.decode().splitlines() == ours
    assert ours != [str(case_of(8, index)) for index in range(0, 2000, 9)]


def test_every_cell_comes_once_in_each_lap():
    for lap in range(3):
        indices = range(lap * len(CELLS), (lap + 1) * len(CELLS))
        assert Counter(case_of(5, index).cell for index in indices) == Counter(CELLS)


def test_cases_of_some_cells_are_those_that_all_cases_hold():
    some = list(cases(5, 20, lambda case: case.cell.place == "FIN / middle"))
    assert [case.index for case in some] == sorted(case.index for case in some)
    assert [case_of(5, case.index) for case in some] == some
    assert {case.cell.place for case in some} == {"FIN / middle"}


def test_what_is_expected_is_said_of_every_case():
    said = Counter()
    for index in range(6000):
        outcomes = expected(case_of(3, index))
        said.update(outcomes or {"open"})
    refused = {f"refused {status}" for status in (403, 409, 502, 503, 504)}
    assert set(said) == {"open", "healed", "loud"} | refused
    assert said["open"] < 1200


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_a_cell_at_each_of_its_positions(kind):
    positions = {cell.position for cell in CELLS if cell.kind == kind}
    assert positions == set(KINDS[kind].positions)


def evidence(runs, received, *, client=CURL, cell="FIN / middle", lasting=True, **more):
    kind, _, position = cell.partition(" / ")
    case = Case(
        seed=1,
        index=0,
        cell=Cell(kind, position, lasting),
        members=(MEMBER._replace(validator=more.pop("validator", "tag")),),
        struck=0,
        at=50,
        cut=50,
        client=client,
        path=DIRECT,
        gateway=FRESH,
        begin=None,
        leaves=0.5,
    )
    download = Download(runs, received, more.pop("begin", 0))
    return replace(Evidence(case, download, [RIGHT, LATER], fired=True), **more)


def whole(body, etag='"right"', status=200):
    return Run("whole", status, len(body), len(body), etag)


def short(got, status=200):
    return Run("short", status, len(BODY), got)


def refused(status, body=b""):
    return Run("refused", status, len(body), len(body), body=body)


CUT = len(BODY) // 2
WRONG = BODY[:700] + b"?" + BODY[701:]
MIXED = BODY[:CUT] + LATER.body[CUT:]
PROBLEM = b'{"status": 502}'
DEAD = {"cell": "404 / first byte"}
ONCE = {"lasting": False}


@pytest.mark.parametrize(
    "given",
    [
        evidence([short(CUT)], BODY[:CUT], tar=2),
        evidence([short(CUT)], LATER.body[:CUT], tar=2),
        evidence([whole(BODY)], BODY, **ONCE),
        evidence([refused(502, PROBLEM)], b"", **DEAD),
        evidence([short(CUT), whole(BODY[CUT:], status=206)], BODY, client=CURL_LOOP),
        evidence([short(CUT)], BODY[CUT : CUT + 9], client=IF_RANGE, begin=CUT, tar=2),
        evidence([Run("left", 200, len(BODY), CUT)], BODY[:CUT], client=GONE),
        evidence([whole(BODY)], BODY, fired=False),
        evidence([whole(BODY)], BODY, continued=True, **ONCE),
    ],
)
def test_the_judge_accepts_what_the_promises_allow(given):
    assert violations(given) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (evidence([whole(WRONG)], WRONG, **ONCE), "promise 1: .*wrong from 700 on"),
        (evidence([whole(MIXED)], MIXED, **ONCE), "promise 1: .*wrong from 2560 on"),
        (evidence([whole(BODY[:-1])], BODY[:-1], **ONCE), "promise 1: 5119 of 5120 bytes"),
        (evidence([whole(BODY + b"?")], BODY + b"?", **ONCE), "promise 1"),
        (evidence([whole(BODY, '"later"')], BODY, **ONCE), "promise 1: the entity-tag"),
        (
            evidence([short(CUT), whole(BODY[CUT:])], LATER.body, client=CURL_LOOP),
            "promise 1",  # it was pinned
        ),
        (evidence([short(CUT)], WRONG[:CUT], tar=2), "promise 2: .*no prefix"),
        (evidence([short(CUT)], BODY[1:CUT], tar=2), "promise 2: .*no prefix"),
        (evidence([short(len(BODY))], BODY, tar=2), "promise 2: .*as long as"),
        (evidence([short(CUT)], BODY[:CUT], tar=0), "promise 3"),
        (evidence([short(CUT)], BODY[:CUT], tar=2, **ONCE), "loud where healed"),
        (evidence([whole(BODY)], BODY), "healed where loud"),
        (evidence([short(CUT)], BODY[:CUT], tar=2, **DEAD), "loud where refused 502"),
        (evidence([refused(503, b'{"status": 503}')], b"", **DEAD), "refused 503 where"),
        (evidence([refused(502, b"<html>")], b"", **DEAD), "no problem document"),
        (evidence([refused(502, b'{"status": 500}')], b"", **DEAD), "no problem document"),
        (evidence([refused(502, PROBLEM + b"canary-5d1f")], b"", **DEAD), "URL stands"),
        (evidence([Run("hangs", 200, len(BODY), CUT)], BODY[:CUT]), "is told nothing"),
        (evidence([Run("broken")], b""), "no answer at all"),
        (evidence([Run("left")], b"", client=GONE, freed=False), "still taken"),
        (evidence([whole(BODY)], BODY, validator="none", continued=True, **ONCE), "was continued"),
        (evidence([whole(BODY)], BODY, cell="SIGTERM / middle", status=1, **ONCE), "told to end"),
        (
            evidence(
                [short(CUT)] * 3, BODY[:CUT], cell="SIGKILL / middle", client=CURL_LOOP, **ONCE
            ),
            "could not resume",
        ),
    ],
)  # fmt: skip
def test_the_judge_finds(given, says):
    assert re.search(says, "\n".join(violations(given)))


def test_gnu_tar_is_asked_when_an_origin_broke_it_off_and_not_when_the_client_left():
    for runs, client, asked in [
        ([short(CUT)], CURL, True),
        ([short(CUT), refused(409)], CURL_LOOP, True),
        ([whole(BODY)], CURL, False),
        ([refused(502)], CURL, False),
        ([Run("left", 200, len(BODY), CUT)], GONE, False),
    ]:
        given = evidence(runs, b"", client=client)
        assert asks_tar(given.case, given.download) is asked


def results(number, cell="FIN / middle", lasting=False, **result):
    case = evidence([whole(BODY)], BODY, cell=cell, lasting=lasting).case
    fields = {"outcome": "healed", "succeeded": True, "fired": True} | result
    return [Result(case, **fields) for _ in range(number)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (results(2000), ""),
        (results(1000) + results(2, outcome="loud"), "only 1000 of 1002 passing failures"),
        (results(100) + results(4, fired=False), "only 100 of 104 faults fired"),
        (results(200) + results(3, cell="RST / middle", fired=False), "never fired in 3 cases"),
        (results(1, needed=10**8, again=900_000), ""),
        (results(1, needed=10**8, again=1_100_000), "read again"),
    ],
)
def test_the_report_looks_at_all_cases_together(given, says):
    report = Report()
    report.results += given
    report.conclude()
    assert says in "\n".join(report.about_all)
    assert says or not report.about_all
