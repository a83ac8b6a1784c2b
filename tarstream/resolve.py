"""Ids to complete members: looked up, allowed, asked about where something is missing, named.

Whatever is wrong with a request is found here, in an order that a client can rely on, before
anything of a member is opened.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from tarstream import names
from tarstream.asking import ask, contradiction, known
from tarstream.catalogs.base import Caller, Catalog, Entry, Found, Unknown
from tarstream.checksums import listing_in_steps
from tarstream.digests import described
from tarstream.errors import (
    Forbidden,
    ObjectMissing,
    OriginError,
    Refusal,
    TooLarge,
    UnknownIds,
)
from tarstream.formats import CHECKSUMS
from tarstream.layout import STEP, Member, Source
from tarstream.memory import Flights, Memory
from tarstream.stores.base import ObjectMeta, Store
from tarstream.stores.guard import Guarded

MISSING_NAME = "MISSING.txt"

_CATALOG = "the catalog"  # who states what is held against origins

_BREAKING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # what would break a line of it

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold: members, bytes of contents; and seconds to find that out."""

    max_members: int
    max_bytes: int
    plan_timeout: float
    asked_at_once: int
    """HEADs of one archive under way."""


class Renamed(NamedTuple):
    """A member that is not called what its catalog calls it."""

    id: str | None
    from_: str
    to: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """What an archive will hold, in order."""

    members: Sequence[Member]
    renamed: Sequence[Renamed]
    missing: Sequence[Refusal]
    asked: AbstractSet[Source]
    """Sources that an origin was asked about; what it said may have become stale."""
    stated: AbstractSet[Source]
    """Those of them whose validator the catalog states."""


class Resolver:
    """Turns ids into members."""

    def __init__(
        self,
        catalog: Catalog,
        guard: Guarded,
        store: Store,
        memory: Memory[Source, ObjectMeta],
        limits: Limits,
    ) -> None:
        self._catalog = catalog
        self._guard = guard
        self._memory = memory
        self._limits = limits
        self._store = store
        self._flights = Flights(self._head)

    async def resolve(
        self,
        ids: Sequence[str],
        caller: Caller,
        *,
        skip_missing: bool = False,
        checksums: str | None = None,
        mend: Callable[[str], str] = names.mend,
    ) -> Resolution:
        """The members that `ids` stand for, their names mended by `mend`.

        `checksums` is the algorithm of a last member that lists the digests of all others.

        Raises in this order: TooLarge for their number, UnknownIds, Forbidden, TooLarge for their
        bytes, OriginError naming the first member that is given up.
        """
        self._check_number(len(ids))
        found = await self._catalog.lookup(ids, caller)
        unknown, number = [], 0
        async for id_, entries in _unhurried(zip(ids, found, strict=True)):
            if isinstance(entries, Unknown):
                unknown.append(Refusal(id_, entries.reason))
            else:
                number += len(entries)
        if unknown and not skip_missing:
            raise UnknownIds(f"{len(unknown)} of {len(ids)} ids are unknown", unknown)
        self._check_number(number)
        await self._check_allowed(ids, found)
        stated = 0
        asked: dict[Source, tuple[str, Entry]] = {}
        async for id_, entry in _entries(ids, found):
            stated += entry.size or 0
            lacks = entry.size is None or entry.mtime is None or entry.etag is None
            if lacks or (skip_missing and isinstance(entry.source, str)):
                asked.setdefault(entry.source, (id_, entry))
        self._check_bytes(stated)
        metas = await self._ask(asked, skip_missing=skip_missing) if asked else {}
        return await self._complete(ids, found, metas, checksums, mend)

    async def forget(self, source: Source) -> None:
        """Forget what the origin said about a source: it says something else by now."""
        await self._memory.forget(source)

    def _check_number(self, number: int) -> None:
        if number > self._limits.max_members:
            raise TooLarge(
                f"{number} members are asked for, and at most {self._limits.max_members} "
                "are given ([limits] max_members)"
            )

    def _check_bytes(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise TooLarge(
                f"the members have {size} bytes, and at most {self._limits.max_bytes} "
                "are given ([limits] max_bytes)"
            )

    async def _check_allowed(self, ids: Sequence[str], found: Sequence[Found]) -> None:
        refused: dict[str, Refusal] = {}  # one of each id is enough
        async for id_, entry in _entries(ids, found):
            try:
                self._guard.check(entry.source)
            except Forbidden as error:
                refused.setdefault(id_, Refusal(id_, error.detail))
        if refused:
            raise Forbidden("the configuration does not allow a source", [*refused.values()])

    async def _ask(
        self, asked: Mapping[Source, tuple[str, Entry]], *, skip_missing: bool
    ) -> Mapping[Source, ObjectMeta | ObjectMissing]:
        """What origins say about sources; `asked` gives the first id and entry of each."""
        remembered = await self._memory.get_many(list(asked))
        # What contradicts the catalog was remembered from before it changed.
        answers: dict[Source, ObjectMeta | ObjectMissing] = {
            source: meta
            for source, meta in remembered.items()
            if contradiction(asked[source][1], meta, _CATALOG) is None
        }
        for source in remembered.keys() - answers.keys():
            await self._memory.forget(source)

        async def head(source: Source) -> ObjectMeta | ObjectMissing:
            try:
                return await self._flights.ask(source)
            except ObjectMissing as missing:
                if not skip_missing:
                    raise
                return missing

        return answers | await ask(
            {source: id_ for source, (id_, _) in asked.items() if source not in answers},
            head,
            at_once=self._limits.asked_at_once,
            seconds=self._limits.plan_timeout,
            setting="[upstream] plan_timeout",
        )

    async def _head(self, source: Source) -> ObjectMeta:
        """What an origin says, remembered at once: others plan the same archive meanwhile."""
        remembered = (await self._memory.get_many([source])).get(source)
        if remembered is not None:
            return remembered
        meta = await self._store.head(source)
        await self._memory.put_many({source: meta})
        return meta

    async def _complete(
        self,
        ids: Sequence[str],
        found: Sequence[Found],
        metas: Mapping[Source, ObjectMeta | ObjectMissing],
        checksums: str | None,
        mend: Callable[[str], str],
    ) -> Resolution:
        members: list[Member] = []
        size = 0
        given: list[str] = []
        missing: list[Refusal] = []
        stated: set[Source] = set()  # asked about sources whose validator the catalog states
        async for id_, entries in _unhurried(zip(ids, found, strict=True)):
            if isinstance(entries, Unknown):
                missing.append(Refusal(id_, entries.reason))
                continue
            for entry in entries:
                meta = metas.get(entry.source)
                if isinstance(meta, ObjectMissing):
                    which = f"{_line(entry.name)}: " if len(entries) > 1 else ""
                    missing.append(Refusal(id_, which + meta.detail))
                else:
                    member = _member(id_, entry, meta)
                    members.append(member)
                    size += member.size
                    # A slash at its end is for what has no contents.
                    given.append(entry.name if entry.source == b"" else entry.name.rstrip("/"))
                if meta is not None and entry.etag is not None:
                    stated.add(entry.source)
        if not members:
            raise UnknownIds("nothing is left of what was asked for", missing)
        self._check_bytes(size)
        if missing:
            members.append(await _missing_member(missing))
            given.append(MISSING_NAME)
        renamed = await _name(members, given, checksums, mend)
        return Resolution(members, renamed, missing, metas.keys(), stated)


async def _name(
    members: list[Member], given: list[str], checksums: str | None, mend: Callable[[str], str]
) -> Sequence[Renamed]:
    """Call members by the safe, unique forms of what is given, and list their digests if asked to.

    Those that are called otherwise than that.
    """
    if checksums is not None:
        given.append(CHECKSUMS[checksums])
    unique = await in_steps(names.unique_in_steps(given, mend))
    async for index, name in _unhurried(enumerate(unique[: len(members)])):
        if name != members[index].name:
            members[index] = members[index]._replace(name=name)
    if checksums is not None:
        listing = listing_in_steps(checksums, tuple(members), unique[-1])
        members.append(await in_steps(listing))
    return [
        Renamed(member.id, wanted, name)
        async for member, wanted, name in _unhurried(zip(members, given, unique, strict=True))
        if name != wanted
    ]


async def _entries(ids: Sequence[str], found: Sequence[Found]) -> AsyncIterator[tuple[str, Entry]]:
    async for id_, entries in _unhurried(zip(ids, found, strict=True)):
        if not isinstance(entries, Unknown):
            for entry in entries:
                yield id_, entry


def _member(id_: str, entry: Entry, meta: ObjectMeta | None) -> Member:
    """What the catalog states, completed by what the origin says; they must not contradict."""
    try:
        size, mtime, validator = known(entry, meta, _CATALOG)
    except OriginError as error:
        raise error.about(id_) from None
    return Member(entry.name, size, mtime or 0, entry.source, validator, entry.digests, id_)


async def _missing_member(missing: Sequence[Refusal]) -> Member:
    """A member that lists what is missing: a line each, id and reason, a tab between them."""
    lines = [f"{_line(refusal.id)}\t{refusal.reason}\n" async for refusal in _unhurried(missing)]
    data = "".join(lines).encode()
    return Member(MISSING_NAME, len(data), 0, data, *described(data))


def _line(text: str) -> str:
    return _BREAKING.sub("_", text)


async def _unhurried(items: Iterable[_T]) -> AsyncIterator[_T]:
    """The items, with a chance for other downloads to run after each `STEP` of them."""
    for index, item in enumerate(items):
        if index % STEP == 0:
            await asyncio.sleep(0)
        yield item


async def in_steps(steps: Generator[None, None, _T]) -> _T:
    """What a generator returns, with a chance for other downloads to run at each yield."""
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            result: _T = stopped.value
            return result
        await asyncio.sleep(0)
