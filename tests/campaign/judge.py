"""The three promises, and the outcome that the table states, held against what a client got."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from signal import SIGTERM

from campaign.canaries import CANARY
from campaign.cases import ARIA2C, GONE, HALF_CLOSED, PINNED, RESUMING, Case
from campaign.cells import BROKEN_OFF, HEAD, MISPLANNED, UNPINNED
from campaign.download import Download, Run
from campaign.expect import expected

NEVER_EXCUSED = ("promise", "secret", "what has no strong validator")
"""How violations begin that are some on any machine, however late anything was there."""


@dataclass
class Archive:
    """What a clean download gave: the right answer."""

    body: bytes
    etag: str | None
    headers: list[int]  # offset of each member's header
    contents: list[int]  # and of its contents
    sent: int = 0  # bytes that were sent of it

    def matches(self, received: bytes, begin: int) -> bool:
        """Whether these are the archive's bytes from `begin` to its end."""
        return self.body[begin:] == received

    def begins_with(self, received: bytes, begin: int) -> bool:
        """Whether these are the archive's bytes from `begin` on, as far as they go."""
        return self.body.startswith(received, begin)

    def holds(self, received: bytes) -> bool:
        """Whether each byte stands where it belongs, but for holes, which are zeros."""
        mask = received.translate(_NOT_ZERO)
        part = self.body[: len(received)]
        kept = int.from_bytes(mask, "little") & int.from_bytes(part, "little")
        return kept == int.from_bytes(received, "little")


_NOT_ZERO = bytes([0, *[255] * 255])


@dataclass
class Evidence:
    """What is known of a case when it has ended."""

    case: Case
    download: Download
    versions: list[Archive]  # right answers: the first, and the one after a change of sources
    fired: bool  # whether all faults that were to strike have struck
    takers: Sequence[str] = ()  # readers that took what was received for an archive
    ended: bool | None = None  # whether a compressed body has its end; None: it is not compressed
    freed: bool = True  # whether all origin connections of a client that left were free in time
    continued: bool = False  # whether the struck object was asked for in part
    status: int | None = None  # with which the gateway ended that was told to
    told: bool = False  # whether an origin was told how the client proved who it is


def violations(evidence: Evidence) -> list[str]:
    """All that is wrong; nothing, mostly."""
    case, download = evidence.case, evidence.download
    found = [*_promises(evidence)]
    found += [each for run in download.runs for each in _answer(run, case)]
    outcomes = expected(case)
    if evidence.fired and outcomes is not None and download.outcome not in outcomes:
        found.append(f"{download.outcome} where {' or '.join(sorted(outcomes))} was expected")
    first = download.runs[0]
    if case.begin is not None and first.etag == evidence.versions[0].etag:
        status = 200 if case.whole_instead else 206
        if first.status in {200, 206} and first.status != status:
            found.append(f"a range is answered with {first.status} where {status} was expected")
    if _verdict(case) == BROKEN_OFF and case.client in RESUMING and not download.succeeded:
        found.append("another gateway was there, and the client could not resume")
    if evidence.continued and not case.strong:
        found.append("what has no strong validator was continued where it broke off")
    if evidence.told:
        found.append("secret: an origin was told by what the client proves who it is")
    if not evidence.freed:
        found.append("the client has left, and an origin's connection is still taken")
    if case.kind.signal == SIGTERM and evidence.fired and evidence.status != 0:
        found.append(f"the gateway was told to end, and its status is {evidence.status}")
    return found


def excusable(found: list[str]) -> bool:
    """Whether all that is wrong may be so because something was late."""
    return not any(violation.startswith(NEVER_EXCUSED) for violation in found)


def asks_readers(case: Case, download: Download) -> bool:
    """Whether readers have to notice what the client got: it broke off because of an origin."""
    return (
        download.runs[-1].outcome in {"short", "refused", "broken"}
        and any(run.outcome == "short" for run in download.runs)
        and case.client not in {GONE, HALF_CLOSED, ARIA2C}
        and case.kind.signal is None
    )


def _promises(evidence: Evidence) -> list[str]:
    case, download = evidence.case, evidence.download
    received, begin = download.received, download.begin
    # Whoever pinned the first version is promised that one, everybody else one that was there.
    versions = evidence.versions[:1] if case.client in PINNED else evidence.versions
    if download.succeeded and evidence.ended is False:
        return ["promise 2: HTTP says that it is whole, and the compressed body has no end"]
    if download.succeeded:
        right = [version for version in versions if version.matches(received, begin)]
        if not right:
            return [f"promise 1: {_difference(received, begin, versions[0])} passes for success"]
        etag = download.runs[-1].etag
        if etag is not None and not _lies_in_head(case) and etag not in {v.etag for v in right}:
            return ["promise 1: the entity-tag is of another version than the bytes"]
        return []
    found = []
    if evidence.ended and download.outcome == "loud":
        found.append("promise 2: it failed, and the compressed body has its end")
    last = next((run for run in reversed(download.runs) if run.outcome != "refused"), None)
    cut = last is not None and last.outcome == "short"
    if cut and last.length is not None and last.got >= last.length:
        found.append("promise 2: it failed, and is as long as Content-Length says")
    if case.client == ARIA2C:
        exact = any(version.holds(received) for version in versions)
    elif case.kind.digest:
        # By then the wrong byte has been sent: the end is what tells.
        known = versions[0].contents[case.struck] + case.at - begin
        exact = versions[0].begins_with(received[: max(known, 0)], begin)
    elif _lies_in_head(case):
        known = versions[0].headers[case.struck] - begin  # what follows was planned otherwise
        exact = any(version.begins_with(received[: max(known, 0)], begin) for version in versions)
    else:
        exact = any(version.begins_with(received, begin) for version in versions)
    if not exact:
        found.append(f"promise 2: {_difference(received, begin, versions[0])} is no prefix")
    found += [
        f"promise 3: {taker} takes the first {len(received)} bytes for an archive"
        for taker in evidence.takers
    ]
    return found


def _answer(run: Run, case: Case) -> list[str]:
    """What is wrong with one answer, whatever the case."""
    found = []
    if run.outcome == "hangs":
        found.append("the client is told nothing, and waits")
    if run.outcome == "broken" and case.client != HALF_CLOSED and case.kind.signal is None:
        found.append(f"no answer at all ({run.note})")
    if CANARY.encode() in run.head + run.body:
        found.append(f"secret: an answer holds one: {run.head + run.body!r}")
    if run.body:
        try:
            problem = json.loads(run.body)
        except ValueError:
            problem = None
        if not isinstance(problem, dict) or problem.get("status") != run.status:
            found.append(f"a refusal that is no problem document: {run.body[:60]!r}")
    return found


def _verdict(case: Case):
    return case.kind.verdict(case.cell.position, lasting=case.cell.lasting)


def _lies_in_head(case: Case) -> bool:
    return case.cell.position == HEAD and _verdict(case) in {MISPLANNED, UNPINNED}


def _difference(received: bytes, begin: int, version: Archive) -> str:
    """Where what was received leaves the right answer."""
    right = version.body[begin:]
    if right.startswith(received):
        return f"{len(received)} of {len(right)} bytes"
    pairs = enumerate(zip(received, right, strict=False))
    wrong = next((n for n, (ours, theirs) in pairs if ours != theirs), len(right))
    return f"{len(received)} bytes, wrong from {begin + wrong} on,"
