"""What must become of a case's first answer: its cell's verdict, for this client and this archive.

Outcomes are "healed" (complete, and the client saw nothing), "loud" (begun, and ended short), and
"refused" with a status (nothing of the archive was sent).
"""

from campaign.cases import ARIA2C, GONE, HALF_CLOSED, Case
from campaign.cells import (
    BROKEN_OFF,
    CONTRADICTED,
    FIRST,
    HEAD,
    HEALED,
    MISPLANNED,
    REPAIR,
    REPLACED,
    UNPINNED,
    fails,
)


def expected(case: Case) -> frozenset[str] | None:
    """The outcomes that the contract allows, or None where it leaves them open."""
    if case.client in {GONE, HALF_CLOSED}:
        return None  # who leaves, or half leaves, decides by itself
    verdict = case.kind.verdict(case.cell.position, lasting=case.cell.lasting)
    assert verdict is not None
    outcomes = _outcomes(case, verdict)
    if case.kind.rude and (case.cell.position != HEAD or verdict == HEALED):
        # An answer whose surplus comes with it is no HTTP: a failure that passes.
        outcomes |= _outcomes(case, fails(502) if case.cell.lasting else HEALED)
    if case.client == ARIA2C and not (outcomes == {"healed"} and case.kind.passes):
        return None  # it asks for four parts, and its tries and exit status tell them not apart
    return outcomes


def _outcomes(case: Case, verdict) -> frozenset[str]:
    lasting = case.cell.lasting
    struck = case.members[case.struck]
    if verdict == HEALED:
        # What cannot go on may begin again, but only where none of it had been passed on.
        return _one("healed") if _continued(case) else frozenset({"healed", "loud"})
    if verdict == BROKEN_OFF:
        return frozenset({"healed", "loud"})
    if verdict.name == "fails" and case.kind.inside and verdict.status and case.first_needed:
        # What arrives together with the head may spoil it.
        return frozenset({"loud", f"refused {verdict.status}"})
    if verdict.name == "fails":
        return _one(f"refused {verdict.status}" if case.before_first_byte else "loud")
    if verdict == UNPINNED:
        # Whoever pinned the archive asks for the other validator: it is planned a second time.
        return _one("refused 409" if case.pinned and lasting else "healed")
    if verdict == MISPLANNED and case.pinned:
        return _one("refused 409" if lasting else "healed")
    if verdict == MISPLANNED:
        if not struck.size:
            return _one("healed")  # never asked for
        if not case.first_needed:
            return _one("loud")
        return _one("refused 503" if lasting else "healed")
    if verdict == CONTRADICTED:
        if not case.before_first_byte:
            return _one("loud")
        if struck.stated:
            return _one("refused 502")  # not what was remembered is wrong, but the catalog
        return _one("refused 503" if lasting else "healed")
    assert verdict == REPLACED
    if case.cell.position == REPAIR or not case.before_first_byte:
        return _one("loud")
    if struck.stated:
        return _one("refused 502")
    return _one("refused 409" if case.pinned else "healed")


def _continued(case: Case) -> bool:
    """Whether what broke off can go on. Without a strong validator only from the beginning."""
    return (
        case.strong
        or case.cell.position in {HEAD, FIRST}
        or not case.kind.inside
        or case.at == 0
        or case.kind.signal is not None
    )


def _one(outcome: str) -> frozenset[str]:
    return frozenset({outcome})
