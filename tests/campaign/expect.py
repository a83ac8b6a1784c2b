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
    REPLACED,
    UNPINNED,
    fails,
)

# Whether aiohttp reads surplus bytes together with the answer or after it decides whether they
# spoil it: then it is no HTTP, a failure that passes.
_SURPLUS = "bytes beyond Content-Length may come in the same read as the answer"
# It may spoil the answer behind it on its connection too, which is then asked for again.
_BEHIND = "an answer to HEAD may be lost to what another case left on the connection"
# The parser refuses all that came in one read, a good head included.
_SPOILT = "a broken chunk may come in the same read as the head"
# nginx asks the other gateway where the first one had not begun to answer.
_KILLED = "the answer may not have begun when its gateway is killed"

EITHER = {
    "Content-Length - 1 / HEAD / once": _BEHIND,
    "Content-Length - 1 / first byte / once": _SURPLUS,
    "Content-Length - 1 / first byte / lasting": _SURPLUS,
    "Content-Length - 1 / repair / once": _SURPLUS,
    "extra bytes / HEAD / lasting": _SURPLUS,
    "extra bytes / first byte / lasting": _SURPLUS,
    "extra bytes / repair / lasting": _SURPLUS,
    "a broken chunk / first byte / lasting": _SPOILT,
    "a broken chunk / middle / lasting": _SPOILT,
    "a broken chunk / last byte / lasting": _SPOILT,
    "SIGKILL / middle / once": _KILLED,
    "SIGKILL / repair / once": _KILLED,
}
"""Cells that leave open how a case of them ends, and why: chance decides, not the gateway.

Besides these, what broke off without a strong validator: it may begin again where nothing of it
had been passed on, and what came in one read with the end may be lost.
"""


def expected(case: Case) -> frozenset[str] | None:
    """The outcomes that the contract allows, or None where it leaves them open."""
    if case.client in {GONE, HALF_CLOSED}:
        return None  # who leaves, or half leaves, decides by itself
    verdict = case.kind.verdict(case.cell.position, lasting=case.cell.lasting)
    assert verdict is not None
    outcomes = _outcomes(case, verdict)
    if EITHER.get(str(case.cell)) == _BEHIND:
        outcomes |= _outcomes(case, HEALED)
    if EITHER.get(str(case.cell)) == _SURPLUS:
        outcomes |= _outcomes(case, fails(502) if case.cell.lasting else HEALED)
    if EITHER.get(str(case.cell)) == _SPOILT and case.first_needed:
        outcomes |= _one("refused 502")
    if case.client == ARIA2C and not (outcomes == {"healed"} and case.kind.passes):
        return None  # it asks for four parts, and its tries and exit status tell them not apart
    return outcomes


def _outcomes(case: Case, verdict) -> frozenset[str]:
    lasting = case.cell.lasting
    struck = case.members[case.struck]
    if verdict == HEALED:
        return _one("healed") if _continued(case) else frozenset({"healed", "loud"})
    if verdict == BROKEN_OFF:
        return frozenset({"healed", "loud"})
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
    if not case.before_first_byte:
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
