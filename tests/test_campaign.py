"""What the fault campaign is made of; `make campaign` runs it (docs/campaign.md)."""

import gzip
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from answer import Request
from campaign import oracle
from campaign.cases import (
    CLIENTS,
    CURL,
    CURL_LOOP,
    DIRECT,
    DIRECTORY,
    FRESH,
    GONE,
    HEADSTART,
    IF_RANGE,
    LEARNT,
    RANGE,
    REMEMBERING,
    RESUMING,
    SPLICED,
    TAIL,
    TEXT,
    UNKNOWN,
    WARM,
    Begin,
    Case,
    Member,
    case_of,
    cases,
)
from campaign.cells import LARGE, MIDDLE, PART, REPAIR
from campaign.command import chosen_for
from campaign.download import Download, Run, unchunked
from campaign.expect import EITHER, expected
from campaign.forms import FORMS, GZIP, SUMMED_TAR, SUMMED_ZIP, TAR, ZIP, ZSTD, unpacked, zstd
from campaign.judge import Archive, Evidence, asks_readers, violations
from campaign.kinds import CELLS, KINDS, Cell
from campaign.report import Report, Result
from campaign.sabotage import GUARDS, edited

from tarstream import splice

CAMPAIGN = Path(__file__).parent / "campaign"

LAP = 600  # seconds for each cell once; 40 on two idle cores, and most of that are waits
SABOTAGE = 400  # seconds for all guards; 30 on two idle cores

BODY = bytes(range(256)) * 20
RIGHT = Archive(BODY, '"right"', [0], [512])
LATER = Archive(BODY[::-1], '"later"', [0], [512])

MEMBER = Member("a", 100, 1, "tag", stated=False, digest=None)


def campaign(*options, seconds):
    """The campaign as a command; its exit status, and what it said."""
    command = [sys.executable, str(CAMPAIGN), "--seed", "1", *options]
    ended = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    return ended.returncode, ended.stdout


@pytest.mark.timeout(LAP + 20)
def test_each_cell_keeps_the_promises_and_ends_as_its_row_says():
    code, said = campaign("--jobs", "40", seconds=LAP)
    assert code == 0, said
    assert f"{len(CELLS)} cases, seed 1" in said
    assert "\n0 violations" in said


@pytest.fixture(scope="module")
def sabotaged():
    """What a campaign says without a guard, for each of them; some at a time, most wait."""
    with ThreadPoolExecutor(6) as pool:
        yield {
            guard: pool.submit(campaign, "--sabotage", guard, seconds=SABOTAGE) for guard in GUARDS
        }


@pytest.mark.timeout(SABOTAGE + 20)
@pytest.mark.parametrize("guard", GUARDS)
def test_the_campaign_notices_that_a_guard_is_off(guard, sabotaged):
    code, said = sabotaged[guard].result()
    assert code == 0, said


@pytest.mark.parametrize("guard", GUARDS)
def test_there_are_cases_that_show_that_a_guard_is_off(guard):
    chosen = list(chosen_for(GUARDS[guard], seed=9, number=2))
    assert len(chosen) == 2
    assert {case.cell.place for case in chosen} <= set(GUARDS[guard].cells)


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_is_where_its_sabotage_looks_for_it(guard):
    for module in {edit.module for edit in GUARDS[guard].edits}:
        source = Path(importlib.util.find_spec(module).origin).read_text()
        compile(edited(module, source, GUARDS[guard].edits), module, "exec")


def test_a_guard_that_is_gone_is_an_error():
    [edit] = GUARDS["cancellation"].edits
    with pytest.raises(LookupError, match="not where it was"):
        edited(edit.module, "pass", [edit])


def test_each_guard_is_documented():
    documented = (CAMPAIGN.parent.parent / "docs" / "campaign.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \|$", documented, re.MULTILINE)
    assert dict(rows) == {name: guard.against for name, guard in GUARDS.items()}


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
    some = list(cases(5, 20, ["FIN / middle"], lambda case: case.client == CURL))
    assert [case.index for case in some] == sorted(case.index for case in some)
    assert [case_of(5, case.index) for case in some] == some
    assert {(case.cell.place, case.client) for case in some} == {("FIN / middle", CURL)}


def test_what_is_expected_is_said_of_every_case():
    said = Counter()
    for index in range(6000):
        outcomes = expected(case_of(3, index))
        said.update(outcomes or {"open"})
    refused = {f"refused {status}" for status in (403, 409, 502, 503, 504)}
    assert set(said) == {"open", "healed", "loud"} | refused
    assert said["open"] < 1200


def test_few_cells_leave_open_how_a_case_of_them_ends():
    """An outcome that may be one or another is one that nobody checks."""
    open_cells = {
        str(case.cell)
        for case in map(partial(case_of, 4), range(30 * len(CELLS)))
        if case.strong and len(expected(case) or ()) > 1
    }
    assert open_cells == set(EITHER)
    assert len(EITHER) < len(CELLS) / 20


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
        begin=more.pop("asked", None),
        leaves=0.5,
        form=more.pop("form", TAR),
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
BEHIND = Begin(0, 50)


@pytest.mark.parametrize(
    "given",
    [
        evidence([short(CUT)], BODY[:CUT]),
        evidence([short(CUT)], LATER.body[:CUT]),
        evidence([whole(BODY)], BODY, **ONCE),
        evidence([refused(502, PROBLEM)], b"", **DEAD),
        evidence([short(CUT), whole(BODY[CUT:], status=206)], BODY, client=CURL_LOOP),
        evidence([short(CUT)], BODY[CUT : CUT + 9], client=IF_RANGE, begin=CUT),
        evidence([Run("left", 200, len(BODY), CUT)], BODY[:CUT], client=GONE),
        evidence([whole(BODY)], BODY, fired=False),
        evidence([whole(BODY)], BODY, continued=True, **ONCE),
        evidence([whole(BODY)], BODY, form=GZIP, ended=True, **ONCE),
        evidence([replace(short(CUT), length=None)], BODY[:CUT], form=ZSTD, ended=False),
        evidence([short(CUT)], BODY[:CUT], form=ZIP),
        evidence(
            [whole(BODY[CUT:], status=206)], BODY[CUT:], client=RANGE, begin=CUT, form=ZIP,
            asked=BEHIND, **ONCE,
        ),
    ],
)  # fmt: skip
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
        (evidence([short(CUT)], WRONG[:CUT]), "promise 2: .*no prefix"),
        (evidence([short(CUT)], BODY[1:CUT]), "promise 2: .*no prefix"),
        (evidence([short(len(BODY))], BODY), "promise 2: .*as long as"),
        (evidence([short(CUT)], BODY[:CUT], takers=("tar",)), "promise 3"),
        (
            evidence([short(CUT)], BODY[:CUT], form=ZIP, takers=("unzip -tqq",)),
            "promise 3: unzip -tqq takes",
        ),
        (
            evidence([whole(BODY[:CUT])], BODY[:CUT], form=GZIP, ended=False),
            "promise 2: HTTP says that it is whole",
        ),
        (
            evidence([replace(short(CUT), length=None)], BODY[:CUT], form=GZIP, ended=True),
            "promise 2: .* has its end",
        ),
        (
            evidence(
                [whole(BODY)], BODY, client=RANGE, form=ZIP, asked=BEHIND, **ONCE
            ),
            "answered with 200 where 206",
        ),
        (
            evidence(
                [whole(BODY[CUT:], status=206)], BODY[CUT:], client=RANGE, begin=CUT,
                form=SUMMED_ZIP, asked=BEHIND, **ONCE,
            ),
            "answered with 206 where 200",
        ),
        (evidence([short(CUT)], BODY[:CUT], **ONCE), "loud where healed"),
        (evidence([whole(BODY)], BODY), "healed where loud"),
        (evidence([short(CUT)], BODY[:CUT], **DEAD), "loud where refused 502"),
        (evidence([refused(503, b'{"status": 503}')], b"", **DEAD), "refused 503 where"),
        (evidence([refused(502, b"<html>")], b"", **DEAD), "no problem document"),
        (evidence([refused(502, b'{"status": 500}')], b"", **DEAD), "no problem document"),
        (evidence([refused(502, PROBLEM + b"canary-5d1f")], b"", **DEAD), "secret"),
        (evidence([replace(short(CUT), head=b"X: canary-5d1f")], BODY[:CUT]), "secret"),
        (evidence([short(CUT)], BODY[:CUT], told=True), "secret"),
        (evidence([short(CUT)], b"?" + BODY[1:CUT], cell="a wrong byte / middle"), "no p"),
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
        assert asks_readers(given.case, given.download) is asked


@pytest.mark.parametrize(
    ("form", "gateway", "known", "digest", "begin", "becomes"),
    [
        (ZIP, FRESH, UNKNOWN, None, Begin(0, 50), "read"),
        (ZIP, FRESH, UNKNOWN, None, Begin(1, None), "read"),
        (ZIP, FRESH, UNKNOWN, "sha256", Begin(1, None), "read"),
        (ZIP, FRESH, UNKNOWN, "crc32", Begin(1, None), "part"),
        (ZIP, FRESH, LEARNT, None, Begin(1, None), "part"),
        (ZIP, FRESH, UNKNOWN, None, Begin(0, None), "part"),
        (ZIP, FRESH, UNKNOWN, None, Begin(0, 0), "part"),
        (ZIP, REMEMBERING, UNKNOWN, None, Begin(1, None), "whole"),
        (ZIP, WARM, LEARNT, None, Begin(1, None), "part"),
        (SUMMED_TAR, FRESH, UNKNOWN, "crc32", Begin(1, None), "whole"),
        (SUMMED_TAR, FRESH, UNKNOWN, "sha256", Begin(1, None), "part"),
        (SUMMED_ZIP, FRESH, UNKNOWN, "sha256", Begin(1, None), "read"),
        (TAR, REMEMBERING, UNKNOWN, None, Begin(1, None), "part"),
    ],
)
def test_what_a_part_follows_from_decides_what_becomes_of_it(
    form, gateway, known, digest, begin, becomes
):
    case = evidence([whole(BODY)], BODY, client=RANGE).case
    members = (MEMBER._replace(digest=digest), MEMBER)
    case = replace(case, form=form, gateway=gateway, known=known, begin=begin, members=members)
    answer = "whole" if case.whole_instead else "read" if case.read_first else "part"
    assert answer == becomes
    assert case.read_first == list(members[:1] if becomes == "read" else ())


def test_every_format_is_asked_for_and_only_in_ways_that_it_has():
    chosen = [case_of(6, index) for index in range(20 * len(CELLS))]
    forms = Counter(case.form for case in chosen)
    assert set(forms) == set(FORMS)
    assert forms[TAR] > len(chosen) / 2
    assert min(forms.values()) > len(chosen) / 40
    assert {case.kind.name for case in chosen if case.form == ZIP} == set(KINDS)
    for case in chosen:
        if case.form.compressed:
            assert case.client not in RESUMING | {RANGE}
            assert case.cell.position != PART
    sources = Counter(member.source for case in chosen for member in case.members)
    assert min(sources[TEXT], sources[DIRECTORY]) > len(chosen) / 40
    assert sum(len(case.collection) > 1 for case in chosen) > len(chosen) / 40


def test_what_the_kernel_moves_is_struck_by_every_kind_that_can_and_while_it_is_repaired():
    chosen = [case_of(6, index) for index in range(20 * len(CELLS))]
    struck = [case for case in chosen if case.strikes_spliced]
    assert len(struck) > len(chosen) / 30
    for case in struck:
        byte = case.cut if case.cell.position == REPAIR else case.at
        assert HEADSTART <= byte < case.members[case.struck].size - TAIL
        assert case.members[case.struck].digest is None
    spared = {kind.name for kind in KINDS.values() if kind.digest or kind.largest < SPLICED}
    repaired = {kind.name for kind in KINDS.values() if REPAIR in kind.positions}
    inside = {"FIN", "RST", "stalls", "drips", "SIGTERM", "SIGSTOP", "SIGKILL"}
    places = {(case.kind.name, case.cell.position) for case in struck}
    assert {kind for kind, position in places if position == REPAIR} == repaired - spared
    assert {kind for kind, position in places if position == MIDDLE} == inside
    assert {case.client for case in struck} == set(CLIENTS)


def test_the_kernel_reads_as_much_as_the_campaign_believes():
    assert (SPLICED, TAIL) == (splice.LARGE, splice.TAIL)


def test_only_what_is_whole_is_taken_for_whole():
    packed = {GZIP: gzip.compress(BODY), ZSTD: zstd.compress(BODY)}
    for form, data in packed.items():
        assert unpacked(form.format, data) == (BODY, True)
        for cut in range(len(data)):
            body, ended = unpacked(form.format, data[:cut])
            assert (ended, BODY.startswith(body)) == (False, True)
        with pytest.raises(ValueError, match="beyond its end"):
            unpacked(form.format, data + b"?")
        with pytest.raises(ValueError, match=r".+"):
            unpacked(form.format, b"?" * 64)
    chunks = b"a\r\n0123456789\r\n3\r\nabc\r\n0\r\n\r\n"
    assert unchunked(chunks) == (b"0123456789abc", True)
    for cut in range(len(chunks)):
        body, ended = unchunked(chunks[:cut])
        assert (ended, b"0123456789abc".startswith(body)) == (False, True)


def results(number, cell="FIN / middle", lasting=False, size=100, **result):
    case = evidence([whole(BODY)], BODY, cell=cell, lasting=lasting).case
    case = replace(case, members=(case.members[0]._replace(size=size),))
    fields = {"outcome": "healed", "succeeded": True, "fired": True} | result
    return [Result(case, **fields) for _ in range(number)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (results(2000), ""),
        (results(1000) + results(2, outcome="loud"), "only 1000 of 1002 passing failures"),
        (results(100) + results(4, fired=False), "only 100 of 104 faults fired"),
        (results(200) + results(3, cell="RST / middle", fired=False), "never fired in 3 cases"),
        (results(10, size=LARGE, needed=10**8, sent=10**8 + 900_000), ""),
        (results(10, size=LARGE, needed=10**8, sent=10**8 + 1_100_000), "read again"),
        (results(300) + results(3, violations=["late"], in_doubt=True), ""),
        (results(400) + results(5, violations=["late"], in_doubt=True), "5 cases are in doubt"),
    ],
)
def test_the_report_looks_at_all_cases_together(given, says):
    report = Report()
    report.results += given
    report.spliced[FRESH] = LARGE
    report.conclude()
    assert says in "\n".join(report.about_all)
    assert says or not report.about_all


@pytest.mark.parametrize(
    ("size", "spliced", "says"),
    [
        (LARGE, {FRESH: 1}, []),
        (LARGE, {}, ["the kernel has moved nothing, where it may"]),
        (SPLICED - 1, {}, []),
        (100, {REMEMBERING: 7}, ["the kernel has moved 7 bytes, where it must not"]),
    ],
)
def test_the_report_asks_whether_the_kernel_moved_what_it_may_and_nothing_else(size, spliced, says):
    report = Report()
    report.results += results(1, size=size)
    report.spliced.update(spliced)
    report.conclude()
    assert report.about_all == says


@pytest.mark.parametrize(
    ("position", "asked", "sent"),
    [
        ("FIN / middle", [("GET", "", 50), ("GET", "bytes=50-99", 50)], 100),
        ("FIN / middle", [("GET", "", 50), ("GET", "bytes=40-99", 60)], 110),
        # What follows the struck byte is lost, whatever a gateway does.
        ("a broken chunk / middle", [("GET", "", 90), ("GET", "bytes=50-99", 50)], 100),
        ("garbage / first byte", [("GET", "", 90), ("GET", "", 100)], 100),
        ("503 / first byte", [("GET", "", 20), ("GET", "", 100)], 100),
        ("503 / HEAD", [("HEAD", "", 0), ("HEAD", "", 0), ("GET", "", 100)], 100),
    ],
)
def test_what_an_origin_sends_again_is_counted(position, asked, sent):
    case = evidence([whole(BODY)], BODY, cell=position, lasting=False).case
    requests = [
        Request(method, "/000000/0", "HTTP/1.1", {"range": span} if span else {}, 0)
        for method, span, _ in asked
    ]
    for request, (_, _, bytes_) in zip(requests, asked, strict=True):
        request.status, request.sent = (503 if bytes_ == 20 else 206), bytes_
    assert oracle.sent(case, requests) == sent
