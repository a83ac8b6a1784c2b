"""What sources lack, asked of their origins, and held against what was stated of them.

Many are asked at a time. Who states it is a catalog, or a program.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from tarstream.digests import of
from tarstream.errors import OriginError, OriginTimeout, TarstreamError
from tarstream.layout import Source
from tarstream.stores.base import ObjectMeta
from tarstream.stores.validators import contradicts, is_entity_tag

_T = TypeVar("_T")


class Stated(Protocol):
    """What is known of contents beforehand."""

    @property
    def size(self) -> int | None:
        """Bytes."""

    @property
    def mtime(self) -> int | None:
        """Whole seconds since the epoch."""

    @property
    def etag(self) -> str | None:
        """The entity-tag, or another validator; see `layout.Member`."""

    @property
    def digests(self) -> tuple[tuple[str, str], ...]:
        """Algorithm and lower-case hex."""


class Known(NamedTuple):
    """What an archive has to know of contents."""

    size: int
    mtime: int | None
    validator: str | None


async def ask(
    asked: Mapping[Source, str],
    head: Callable[[Source], Awaitable[_T]],
    *,
    at_once: int,
    seconds: float,
    setting: str,
) -> dict[Source, _T]:
    """What `head` says of each source, `at_once` of them at a time.

    `asked` says for what each is asked, which errors name, and `setting` what gives the `seconds`
    for all of it. Raises the first TarstreamError; OriginTimeout when the time is over.
    """
    answers: dict[Source, _T] = {}
    left = iter(asked.items())

    async def ask_in_turn() -> None:
        for source, name in left:
            try:
                answers[source] = await head(source)
            except TarstreamError as error:
                raise error.about(name) from error

    try:
        async with asyncio.timeout(seconds):
            await _at_once(min(at_once, len(asked)), ask_in_turn)
    except TimeoutError:
        first = next(name for source, name in asked.items() if source not in answers)
        raise OriginTimeout(
            "its origin had not answered when the time for planning was over: "
            f"{seconds:g} seconds ({setting})"
        ).about(first) from None
    return answers


def known(stated: Stated, meta: ObjectMeta | None, by: str) -> Known:
    """What is stated, completed by what the origin says; nothing was asked where that is None.

    `by` is who states it. Raises OriginError when they contradict each other.
    """
    size, mtime, validator = stated.size, stated.mtime, stated.etag
    if meta is not None:
        contradicted = contradiction(stated, meta, by)
        if contradicted is not None:
            raise OriginError(contradicted)
        size = meta.size
        mtime = meta.mtime if mtime is None else mtime
        validator = meta.validator if validator is None else validator
    assert size is not None
    for algorithm, digest in () if size else stated.digests:
        if digest != of(b"", algorithm):  # which nothing else would notice: nothing passes
            raise OriginError(f"it is empty, and does not have the {algorithm} that {by} states")
    return Known(size, mtime, validator)


def contradiction(stated: Stated, meta: ObjectMeta, by: str) -> str | None:
    """What of it its origin contradicts, in words."""
    if stated.size not in {None, meta.size}:
        return f"it has {meta.size} bytes where {by} states {stated.size}"
    said = meta.validator or ""
    both = is_entity_tag(stated.etag) and is_entity_tag(said)  # a date is held against contents
    if both and contradicts(stated.etag, {"ETag": said}):
        return f"it has another entity-tag than {by} states"
    return None


async def _at_once(number: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do the same work `number` times at once; when one fails, all stop."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(work())
    except* TarstreamError as failed:
        raise failed.exceptions[0] from None
