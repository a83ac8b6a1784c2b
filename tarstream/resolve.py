"""Ids to complete members: looked up, allowed, asked about where something is missing, named.

Whatever is wrong with a request is found here, in an order that a client can rely on, before
anything of a member is opened.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from tarstream import names
from tarstream.catalogs.base import Caller, Catalog, Entry, Found, Unknown
from tarstream.errors import (
    Forbidden,
    ObjectMissing,
    OriginError,
    Refusal,
    TarstreamError,
    TooLarge,
    UnknownIds,
)
from tarstream.layout import STEP, Member, Source
from tarstream.memory import Flights, Memory
from tarstream.stores.base import ObjectMeta, Store
from tarstream.stores.guard import Guarded
from tarstream.stores.validators import is_entity_tag

ASKED_AT_ONCE = 32
"""HEADs of one archive under way: a longer list must not make others wait for connections."""

MISSING_NAME = "MISSING.txt"

_BREAKING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # what would break a line of it

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold: members, and bytes of contents."""

    max_members: int
    max_bytes: int


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
    """Sources whose validator an origin said, not the catalog; it may have become stale."""


class Resolver:
    """Turns ids into members."""

    def __init__(
        self, catalog: Catalog, guard: Guarded, store: Store, memory: Memory, limits: Limits
    ) -> None:
        self._catalog = catalog
        self._guard = guard
        self._memory = memory
        self._limits = limits
        self._flights = Flights(store.head)

    async def resolve(
        self, ids: Sequence[str], caller: Caller, *, skip_missing: bool = False
    ) -> Resolution:
        """The members that `ids` stand for.

        Raises in this order: TooLarge for their number, UnknownIds, Forbidden, TooLarge for their
        bytes, OriginError naming the first member that is given up.
        """
        self._check_number(len(ids))
        found = await self._catalog.lookup(ids, caller)
        unknown = [
            Refusal(id_, entries.reason)
            for id_, entries in zip(ids, found, strict=True)
            if isinstance(entries, Unknown)
        ]
        if unknown and not skip_missing:
            raise UnknownIds(f"{len(unknown)} of {len(ids)} ids are unknown", unknown)
        self._check_number(sum(len(e) for e in found if not isinstance(e, Unknown)))
        await self._check_allowed(ids, found)
        self._check_bytes(sum(entry.size or 0 for _, entry in _entries(ids, found)))
        asked: dict[Source, str] = {
            entry.url: id_
            for id_, entry in _entries(ids, found)
            if skip_missing or entry.size is None or entry.mtime is None or entry.etag is None
        }
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
        async for id_, entry in _unhurried(_entries(ids, found)):
            try:
                self._guard.check(entry.url)
            except Forbidden as error:
                refused.append(Refusal(id_, error.detail))
        if refused:
            raise Forbidden("the configuration does not allow a source", refused)

    async def _ask(
        self, asked: Mapping[Source, str], *, skip_missing: bool
    ) -> Mapping[Source, ObjectMeta | ObjectMissing]:
        """What origins say about sources; `asked` gives an id to blame for each."""
        answers: dict[Source, ObjectMeta | ObjectMissing] = {}
        answers.update(await self._memory.get_many(list(asked)))
        learnt: dict[Source, ObjectMeta] = {}
        left = iter([source for source in asked if source not in answers])

        async def ask_in_turn() -> None:
            for source in left:
                try:
                    answers[source] = learnt[source] = await self._flights.ask(source)
                except TarstreamError as error:
                    if not (skip_missing and isinstance(error, ObjectMissing)):
                        raise error.about(asked[source]) from error
                    answers[source] = error

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(ASKED_AT_ONCE, len(asked) - len(answers))):
                    group.create_task(ask_in_turn())
        except* TarstreamError as failed:
            raise failed.exceptions[0] from None
        await self._memory.put_many(learnt)
        return answers

    async def _complete(
        self,
        ids: Sequence[str],
        found: Sequence[Found],
        metas: Mapping[Source, ObjectMeta | ObjectMissing],
    ) -> Resolution:
        members: list[Member] = []
        given: list[str] = []
        missing: list[Refusal] = []
        async for id_, entries in _unhurried(zip(ids, found, strict=True)):
            if isinstance(entries, Unknown):
                missing.append(Refusal(id_, entries.reason))
                continue
            for entry in entries:
                meta = metas.get(entry.url)
                if isinstance(meta, ObjectMissing):
                    missing.append(Refusal(id_, meta.detail))
                else:
                    members.append(_member(id_, entry, meta))
                    given.append(entry.name)
        if not members:
            raise UnknownIds("nothing is left of what was asked for", missing)
        self._check_bytes(sum(member.size for member in members))
        if missing:
            members.append(_missing_member(missing))
            given.append(MISSING_NAME)
        renamed = []
        for index, name in enumerate(names.unique(given)):
            member = members[index]
            members[index] = member._replace(name=name)
            if name != given[index]:
                renamed.append(Renamed(member.id, given[index], name))
        stated = {e.url for _, e in _entries(ids, found) if e.etag is not None}
        return Resolution(members, renamed, missing, metas.keys() - stated)


def _entries(ids: Sequence[str], found: Sequence[Found]) -> Iterator[tuple[str, Entry]]:
    for id_, entries in zip(ids, found, strict=True):
        if not isinstance(entries, Unknown):
            for entry in entries:
                yield id_, entry


def _member(id_: str, entry: Entry, meta: ObjectMeta | None) -> Member:
    """What the catalog states, completed by what the origin says; they must not contradict."""
    size, mtime, validator = entry.size, entry.mtime, entry.etag
    if meta is not None:
        if size is not None and size != meta.size:
            raise OriginError(f"it has {meta.size} bytes where the catalog states {size}").about(
                id_
            )
        if validator is not None and validator != meta.validator and is_entity_tag(meta.validator):
            raise OriginError("it has another entity-tag than the catalog states").about(id_)
        size = meta.size
        mtime = meta.mtime if mtime is None else mtime
        validator = meta.validator if validator is None else validator
    assert size is not None  # noqa: S101 - or it would have been asked for
    return Member(entry.name, size, mtime or 0, entry.url, validator, entry.digests, id_)


def _missing_member(missing: Sequence[Refusal]) -> Member:
    """A member that lists what is missing: a line each, id and reason, a tab between them."""
    lines = (f"{_BREAKING.sub('_', refusal.id)}\t{refusal.reason}\n" for refusal in missing)
    data = "".join(lines).encode()
    validator = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return Member(MISSING_NAME, len(data), 0, data, validator)


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
