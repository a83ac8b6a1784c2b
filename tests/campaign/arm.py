"""The faults of a case, made for the objects that they strike."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import faults
from answer import Answer
from faults import Fault
from origin import Connection, Made, Object

from campaign.cases import Case, path_of
from campaign.cells import HEAD, REPAIR, Struck
from campaign.house import CampaignOrigin, source_of


@dataclass
class Armed:
    """What will strike, and what lies at the origin then."""

    faults: list[Fault]
    other: Object | None  # what will lie there instead, once the object is replaced
    name: str  # of the fault that has to fire
    befallen: asyncio.Event  # to be set once the gateway has got its signal


def arm(
    origin: CampaignOrigin, abroad: CampaignOrigin, case: Case, struck: Object, dead: str
) -> Armed:
    """The faults of a case; `struck` holds them once they are given to it."""
    position = case.cell.position
    cut = f"{case.name} cut"
    begun = False

    def repairs(answer: Answer) -> bool:
        return origin.fired[cut] > 0

    def from_then_on(answer: Answer) -> bool:
        nonlocal begun
        if position == REPAIR:
            begun = repairs(answer)
        else:
            begun = begun or position == HEAD or answer.request.method == "GET"
        return begun

    which: faults.Which = {"methods": ("HEAD",) if position == HEAD else ("GET",)}
    if not case.cell.lasting:
        which["times"] = 1
    if position == REPAIR:
        which["when"] = repairs
    other = _other(case, struck)
    copy = path_of(case, case.struck) + "/copy"
    abroad.guests.add(case.name)
    for each in (origin, abroad):
        each.objects[copy] = case.members[case.struck].object()
    source = source_of(origin, case, case.struck)
    befallen = asyncio.Event()
    made = case.kind.make(
        Struck(
            struck,
            case.at,
            source,
            source.replace(path_of(case, case.struck), copy),
            f"{abroad.root}{copy}",
            dead,
            other,
            which,
            from_then_on,
            befallen,
        )
    )
    armed = [replace(fault, name=f"{case.name} {n}") for n, fault in enumerate(made)]
    name = armed[-1].name
    if position == REPAIR:
        armed.insert(0, Fault(cut, act=_cut, at=case.cut, times=1, methods=("GET",)))
    return Armed(armed, other, name, befallen)


async def _cut(connection: Connection) -> None:
    """Break off, when what came before has been taken: so that it is continued, not begun again."""
    await connection.pause(0.05)
    await connection.finish()


def _other(case: Case, struck: Object) -> Object | None:
    """What replaces it: other contents, another validator, and the same time where it may be."""
    if case.kind.resized is None:
        return None
    content = Made(case.kind.resized(struck.size), case.members[case.struck].seed + 1_000_000)
    if struck.etag is None:
        return Object(content, etag=None, last_modified=1_000_001_000)
    return Object(content, last_modified=struck.last_modified)
