"""Ids to complete members: looked up, allowed, asked about where something is missing, named.

Whatever is wrong with a request is found here, in an order that a client can rely on, before
anything of a member is opened.
"""

import asyncio
import hashlib
import re
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from tarstream import names
from tarstream.catalogs.base import Caller, Catalog, Entry, Found, Unknown
from tarstream.errors import (
    Forbidden,
    ObjectMissing,
    OriginError,
    OriginTimeout,
    Refusal,
    TarstreamError,
    TooLarge,
    UnknownIds,
)
from tarstream.layout import STEP, Member, Source
from tarstream.memory import Flights, Memory
from tarstream.stores.base import ObjectMeta, Store
from tarstream.stores.guard import Guarded
from tarstream.stores.validators import contradicts, is_entity_tag

ASKED_AT_ONCE = 32
"""HEADs of one archive under way: a longer list must not make others wait for connections."""

MISSING_NAME = "MISSING.txt"

_BREAKING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # what would break a line of it

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold: members, bytes of contents; and seconds to find that out."""

    max_members: int
    max_bytes: int
    plan_timeout: float


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
        self, catalog: Catalog, guard: Guarded, store: Store, memory: Memory, limits: Limits
    ) -> None:
        self._catalog = catalog
        self._guard = guard
        self._memory = memory
        self._limits = limits
        self._store = store
        self._flights = Flights(self._head)

    async def resolve(
        self, ids: Sequence[str], caller: Caller, *, skip_missing: bool = False
    ) -> Resolution:
        """The members that `ids` stand for.

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
            if skip_missing or entry.size is None or entry.mtime is None or entry.etag is None:
                asked.setdefault(entry.url, (id_, entry))
        self._check_bytes(stated)
        metas = await self._ask(asked, skip_missing=skip_missing) if asked else {}
        return await self._complete(ids, found, metas)

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
        refused = []
        async for id_, entry in _entries(ids, found):
            try:
                self._guard.check(entry.url)
            except Forbidden as error:
                refused.append(Refusal(id_, error.detail))
        if refused:
            raise Forbidden("the configuration does not allow a source", refused)

    async def _ask(
        self, asked: Mapping[Source, tuple[str, Entry]], *, skip_missing: bool
    ) -> Mapping[Source, ObjectMeta | ObjectMissing]:
        """What origins say about sources; `asked` gives the first id and entry of each."""
        remembered = await self._memory.get_many(list(asked))
        # What contradicts the catalog was remembered from before it changed.
        answers: dict[Source, ObjectMeta | ObjectMissing] = {
            source: meta
            for source, meta in remembered.items()
            if _contradiction(asked[source][1], meta) is None
        }
        for source in remembered.keys() - answers.keys():
            await self._memory.forget(source)
        left = iter([source for source in asked if source not in answers])

        async def ask_in_turn() -> None:
            for source in left:
                try:
                    answers[source] = await self._flights.ask(source)
                except TarstreamError as error:
                    if not (skip_missing and isinstance(error, ObjectMissing)):
                        raise error.about(asked[source][0]) from error
                    answers[source] = error

        try:
            async with asyncio.timeout(self._limits.plan_timeout):
                await _at_once(min(ASKED_AT_ONCE, len(asked) - len(answers)), ask_in_turn)
        except TimeoutError:
            first = next(id_ for source, (id_, _) in asked.items() if source not in answers)
            raise OriginTimeout(
                "its origin had not answered when the time for planning was over: "
                f"{self._limits.plan_timeout:g} seconds ([upstream] plan_timeout)"
            ).about(first) from None
        return answers

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
                meta = metas.get(entry.url)
                if isinstance(meta, ObjectMissing):
                    missing.append(Refusal(id_, meta.detail))
                else:
                    member = _member(id_, entry, meta)
                    members.append(member)
                    size += member.size
                    given.append(entry.name)
                if meta is not None and entry.etag is not None:
                    stated.add(entry.url)
        if not members:
            raise UnknownIds("nothing is left of what was asked for", missing)
        self._check_bytes(size)
        if missing:
            members.append(await _missing_member(missing))
            given.append(MISSING_NAME)
        renamed = []
        unique = await in_steps(names.unique_in_steps(given))
        async for index, name in _unhurried(enumerate(unique)):
            member = members[index]
            if name != member.name:
                members[index] = member._replace(name=name)
                renamed.append(Renamed(member.id, given[index], name))
        return Resolution(members, renamed, missing, metas.keys(), stated)


async def _entries(ids: Sequence[str], found: Sequence[Found]) -> AsyncIterator[tuple[str, Entry]]:
    async for id_, entries in _unhurried(zip(ids, found, strict=True)):
        if not isinstance(entries, Unknown):
            for entry in entries:
                yield id_, entry


def _member(id_: str, entry: Entry, meta: ObjectMeta | None) -> Member:
    """What the catalog states, completed by what the origin says; they must not contradict."""
    size, mtime, validator = entry.size, entry.mtime, entry.etag
    if meta is not None:
        contradiction = _contradiction(entry, meta)
        if contradiction is not None:
            raise OriginError(contradiction).about(id_)
        size = meta.size
        mtime = meta.mtime if mtime is None else mtime
        validator = meta.validator if validator is None else validator
    assert size is not None
    return Member(entry.name, size, mtime or 0, entry.url, validator, entry.digests, id_)


def _contradiction(entry: Entry, meta: ObjectMeta) -> str | None:
    """What of an entry its origin contradicts, in words."""
    if entry.size is not None and entry.size != meta.size:
        return f"it has {meta.size} bytes where the catalog states {entry.size}"
    said = meta.validator or ""
    if is_entity_tag(said) and contradicts(entry.etag, {"ETag": said}):
        return "it has another entity-tag than the catalog states"
    return None


async def _missing_member(missing: Sequence[Refusal]) -> Member:
    """A member that lists what is missing: a line each, id and reason, a tab between them."""
    lines = [
        f"{_BREAKING.sub('_', refusal.id)}\t{refusal.reason}\n"
        async for refusal in _unhurried(missing)
    ]
    data = "".join(lines).encode()
    validator = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return Member(MISSING_NAME, len(data), 0, data, validator)


async def _at_once(number: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do the same work `number` times at once; when one fails, all stop."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(work())
    except* TarstreamError as failed:
        raise failed.exceptions[0] from None


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
