"""Archives for programs: members in, size, entity-tag, headers and bytes out.

No server, no configuration file, nothing shared but what is passed in.
"""

import asyncio
from collections.abc import (
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import NamedTuple, Self

from tarstream import conditional, names
from tarstream.answer import Answer, Fields, Headers
from tarstream.asking import ask
from tarstream.blocking import ArchiveFile, BlockingStream
from tarstream.checksums import listing_in_steps
from tarstream.compress import RANGES, Compression, Levels
from tarstream.digests import DigestKey, Digests, affordable, key_of
from tarstream.disposition import content_disposition, file_name
from tarstream.errors import Forbidden, Refusal, TooLarge
from tarstream.formats import CHECKSUMS, FORMATS, KINDS, Kind
from tarstream.layout import STEP, Layout, Source, lay_out
from tarstream.member import Member, completed, planned
from tarstream.origins import Origins
from tarstream.stores.base import ObjectMeta, origin_of
from tarstream.stores.guard import Policy
from tarstream.stream import Stream
from tarstream.transfer import Transfer

__all__ = ["Answer", "Archive", "Member", "Origins"]


_AT_HAND = 1024 * 1024
"""Bytes that are hashed in a thread: fewer take no longer than laying out a step of members."""


class _Options(NamedTuple):
    """What an archive is to be; see `Archive`."""

    format: str
    level: int | None
    checksums: str | None
    origins: Origins | None
    max_members: int | None
    max_bytes: int | None


class Archive:
    """An archive of `members` in `format`, laid out: nothing of it has been read.

    Each member must say its size. One without `etag` cannot be told from another version of it, so
    there is no strong entity-tag, and no ranges; `plan` asks for what is not said.

    `format` is `tar`, `zip`, or a compressed tar, `tar.gz` or `tar.zst`, of that `level`; a
    compressed one has neither size nor ranges. `checksums="sha256"` adds a last member that lists
    the digests of all others.

    Names are made safe and unique (docs/names.md). Raises ValueError for members that are not
    complete, Forbidden for sources that `origins` does not allow, TooLarge beyond the limits.

    It computes until it is done: in an event loop take `plan` for thousands of members, or for
    contents of many bytes, which are hashed.
    """

    def __init__(  # noqa: PLR0913 - options, each by its name
        self,
        members: Iterable[Member],
        *,
        format: str = "tar",
        level: int | None = None,
        checksums: str | None = None,
        origins: Origins | None = None,
        max_members: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        given = list(members)
        options = _Options(format, level, checksums, origins, max_members, max_bytes)
        for _ in self._check(given, options):
            pass
        for _ in self._lay_out(given, {}, options):
            pass

    @classmethod
    async def plan(  # noqa: PLR0913 - likewise
        cls,
        members: Iterable[Member],
        *,
        format: str = "tar",
        level: int | None = None,
        checksums: str | None = None,
        origins: Origins | None = None,
        max_members: int | None = None,
        max_bytes: int | None = None,
    ) -> Self:
        """The archive of members of which some lack size, mtime or etag: those are asked for.

        Many at a time, URLs by HEAD. It lets others have their turn, however many members there
        are. Raises what `Archive` does, and OriginError, which names the member.
        """
        given = list(members)
        options = _Options(format, level, checksums, origins, max_members, max_bytes)
        self = cls.__new__(cls)
        for _ in self._check(given, options):
            await asyncio.sleep(0)
        answers = await self._ask(given)
        steps = self._lay_out(given, answers, options)
        at_hand = (len(member.source) for member in given if isinstance(member.source, bytes))
        if sum(at_hand) > _AT_HAND:
            while await asyncio.to_thread(next, steps, steps) is not steps:
                pass
        for _ in steps:
            await asyncio.sleep(0)
        return self

    @property
    def size(self) -> int | None:
        """Bytes; exact. None for one that is compressed: nobody knows beforehand."""
        return None if self._kind.coding else self._layout.size

    @property
    def etag(self) -> str | None:
        """Entity-tag, quotes included: weak when a member's is, or when it is compressed.

        None when a member has none.
        """
        return self._kind.etag(self._layout.etag)

    @property
    def names(self) -> Sequence[str]:
        """What the members are called in the archive, in their order."""
        return [member.name for member in self._layout.members]

    @property
    def media_type(self) -> str:
        """As in Content-Type."""
        return self._kind.media_type

    @property
    def seekable(self) -> bool:
        """Whether any part of it may be asked for alone."""
        layout = self._layout
        return (
            self._kind.coding is None
            and layout.seekable
            and self._affordable(layout.described_start, layout.size)
        )

    def headers(
        self,
        method: str,
        headers: Headers = (),
        *,
        name: str = "archive",
    ) -> Answer:
        """The answer to a request: conditions and Range of its `headers` decide (RFC 9110 13, 14).

        `headers` may be what any framework has, or pairs. `name` is that of the download, without
        suffix. A range that would need more reading than `reread_bytes` is answered with the whole.
        """
        size, kind = self._layout.size, self._kind
        selection = conditional.select(method, Fields(headers), self.etag, size)
        if selection.status == 206 and not self._affordable(selection.start, selection.stop):
            selection = conditional.Selection(200, 0, size)
        status, start, stop = selection.status, selection.start, selection.stop
        out = {"ETag": self.etag} if self.etag else {}
        content_range = selection.content_range(size)
        if content_range:
            out["Content-Range"] = content_range
        if status in {412, 416}:
            return Answer(status, out | {"Content-Length": "0"}, 0, 0)
        out["Cache-Control"] = "no-cache, no-transform"
        if status == 304:
            return Answer(status, out, 0, 0)
        out |= {
            "Content-Type": kind.media_type,
            "Content-Disposition": content_disposition(file_name(name, kind.suffix)),
            "Accept-Ranges": "bytes" if self.seekable else "none",
            "X-Accel-Buffering": "no",
        }
        if kind.coding is None:
            out["Content-Length"] = str(stop - start)
        if method == "HEAD":
            return Answer(status, out, 0, 0)
        return Answer(status, out, start, stop if kind.coding is None else None)

    def stream(self, start: int = 0, stop: int | None = None) -> Stream:
        """The bytes [start, stop), what lies beyond the archive left out.

        Of one that is compressed the whole, or nothing; raises ValueError for another part.
        """
        layout, coding = self._layout, self._kind.coding
        if coding is not None and (start, stop) not in {(0, None), (0, 0)}:
            raise ValueError(f"of a {self._kind.suffix} no part can be had, only the whole")
        start, stop, _ = slice(start, stop).indices(layout.size)

        async def run(move: Callable[[Transfer], Awaitable[None]]) -> None:
            digests = Digests(layout.algorithms, self._origins.learnt)
            await digests.look_up(layout.beforehand(start, stop))
            async with self._origins.supply(self._policy) as supply:
                await move(Transfer(layout.slice(start, stop), digests, supply))

        if coding is None or not stop:
            return Stream(run)
        levels = self._levels
        return Stream(run, lambda: Compression(coding, levels))

    def iterate(self, start: int = 0, stop: int | None = None) -> BlockingStream:
        """The bytes [start, stop) without an event loop: `for chunk in archive.iterate()`."""
        return BlockingStream(self.stream(start, stop))

    def file(self) -> ArchiveFile:
        """The archive as a read-only file, for a thread; seekable where `seekable`."""
        return ArchiveFile(self.iterate, self.size, seekable=self.seekable)

    def _check(self, given: Sequence[Member], options: _Options) -> Generator[None, None, None]:
        """Refuse all that can be refused before anybody is asked; yields each `STEP` members."""
        if options.format not in KINDS:
            raise ValueError(f"format must be one of: {', '.join(KINDS)}")
        if options.checksums not in {None, *CHECKSUMS}:
            raise ValueError(f"checksums must be {' or '.join(CHECKSUMS)}")
        self._kind = KINDS[options.format]
        self._levels = _levels(self._kind, options.level)
        number, most = len(given), options.max_members
        if most is not None and number > most:
            raise TooLarge(f"{number} members are given, and at most {most} are allowed")
        self._origins = options.origins or Origins()
        self._policy: Policy = yield from _policy(self._origins, given)

    async def _ask(self, given: Sequence[Member]) -> Mapping[Source, ObjectMeta]:
        """What origins say of the members that lack something."""
        asked: dict[Source, str] = {}  # and the name of the first member that has it
        for number, member in enumerate(given):
            lacks = member.size is None or member.mtime is None or member.etag is None
            if lacks and isinstance(member.source, str | Path):
                asked.setdefault(member.source, member.name)
            if number % STEP == 0:
                await asyncio.sleep(0)
        if not asked:
            return {}
        async with self._origins.supply(self._policy) as supply:
            return await ask(
                asked,
                supply.store.head,
                at_once=supply.slots.at_once,
                seconds=self._origins.plan_timeout,
                setting="plan_timeout",
            )

    def _lay_out(
        self, given: Sequence[Member], answers: Mapping[Source, ObjectMeta], options: _Options
    ) -> Generator[None, None, None]:
        """Lay out the members, completed by `answers`; yields each `STEP` members."""
        layout_format, checksums = FORMATS[self._kind.format], options.checksums
        wanted = [member.name for member in given]
        if checksums is not None:
            wanted.append(CHECKSUMS[checksums])
        unique = yield from names.unique_in_steps(wanted, layout_format.mend)
        members = []
        for number, (member, name) in enumerate(zip(given, unique, strict=False)):
            members.append(planned(completed(member, answers), name))
            if number % STEP == 0:
                yield
        size, most = sum(member.size for member in members), options.max_bytes
        if most is not None and size > most:
            raise TooLarge(f"the members have {size} bytes, and at most {most} are allowed")
        if checksums is not None:
            listing = yield from listing_in_steps(checksums, tuple(members), unique[-1])
            members.append(listing)
        self._layout: Layout = yield from lay_out(layout_format, members)

    def _affordable(self, start: int, stop: int) -> bool:
        """Whether no more than `reread_bytes` have to be read without being sent."""
        learnt, seen = self._origins.learnt, set[DigestKey]()

        def unread() -> Iterator[DigestKey]:
            for needed in self._layout.beforehand(start, stop):
                key = key_of(*needed)
                if key not in learnt and key not in seen:  # what is there twice is read once
                    seen.add(key)
                    yield key

        return affordable(unread(), self._layout.format.DIGEST, self._origins.reread_bytes)


def _levels(kind: Kind, level: int | None) -> Levels:
    """How hard to try; what is not said is as the gateway does it."""
    if level is None:
        return Levels()
    coding = kind.coding
    if coding is None:
        raise ValueError(f"level is for what is compressed, and {kind.suffix} is not")
    possible = RANGES[coding]
    if level not in possible:
        raise ValueError(f"level of {kind.suffix} must be {possible[0]} to {possible[-1]}")
    return Levels()._replace(**{coding: level})


def _policy(origins: Origins, members: Sequence[Member]) -> Generator[None, None, Policy]:
    """What may be read for these; yields each `STEP`. Raises Forbidden, naming all that may not."""
    named: dict[str, str] = {}
    for number, member in enumerate(members):
        if isinstance(member.source, str):
            named.setdefault(origin_of(member.source), member.name)
        if number % STEP == 0:
            yield
    policy = origins.policy(named)
    guard = origins.guard(policy)
    refused = []
    for number, member in enumerate(members):
        try:
            if isinstance(member.source, str):
                guard.check(member.source)
        except Forbidden:
            refused.append(Refusal(member.name, "a source that allow does not list"))
        if number % STEP == 0:
            yield
    if refused:
        raise Forbidden(f"sources that allow does not list: {refused[0].id!r} is one", refused)
    return policy
