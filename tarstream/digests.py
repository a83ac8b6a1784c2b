"""Digests of contents: stated beforehand, computed as the bytes pass, and remembered."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from tarstream.errors import ObjectChanged
from tarstream.layout import STEP, Late, Listing, Member, Source, is_strong
from tarstream.memory import Memory
from tarstream.portion import Portion

try:
    from isal.isal_zlib import crc32  # ten times as fast
except ImportError:  # a platform that it is not made for
    from zlib import crc32


class DigestKey(NamedTuple):
    """Whose digest it is: of that algorithm, of an object as long as it is that one."""

    algorithm: str
    source: Source
    size: int
    validator: str | None
    name: str = ""
    """The member's, where no validator proves that another one of its source has its contents."""


def key_of(member: Member, algorithm: str) -> DigestKey:
    """The key of a member's contents."""
    name = "" if is_strong(member.validator) else member.name
    return DigestKey(algorithm, member.source, member.size, member.validator, name)


def affordable(unread: Iterable[DigestKey], deferred: str | None, budget: int) -> bool:
    """Whether contents may be read without being sent: not more bytes of them than `budget`.

    Only for what a format defers: checksums are worth no traffic that nobody asked for.
    """
    size = 0
    for key in unread:
        # A listing is made from what is known, and costs no traffic.
        size += 0 if isinstance(key.source, Listing) else key.size
        if key.algorithm != deferred or size > budget:
            return False
    return True


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


ALGORITHMS: Mapping[str, Callable[[], _Hash]] = {
    "crc32": _Crc32,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha256": hashlib.sha256,
}
"""Of digests that may be stated of contents."""


def of(data: bytes, algorithm: str) -> str:
    """The digest of bytes that are at hand, in hex."""
    hash_ = ALGORITHMS[algorithm]()
    hash_.update(data)
    return hash_.hexdigest()


def hex_of(algorithm: str) -> re.Pattern[str]:
    """What one looks like."""
    return re.compile(f"[0-9a-fA-F]{{{len(of(b'', algorithm))}}}")


def described(data: bytes) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Entity-tag and digests of contents that are at hand: nothing of them is left to be found."""
    digests = tuple((algorithm, of(data, algorithm)) for algorithm in ("crc32", "sha256"))
    return f'"{of(data, "sha256")[:32]}"', digests


def stated(member: Member, algorithm: str) -> str | None:
    """What is certain of contents before they pass; those that are empty never do."""
    return member.digest(algorithm) or (None if member.size else of(b"", algorithm))


class Digest:
    """A digest of contents that pass; `stated` is what it must be, if that was said."""

    def __init__(self, algorithm: str, stated: str | None) -> None:
        self.algorithm = algorithm
        self.stated = stated
        self._hash = ALGORITHMS[algorithm]()
        self.update = self._hash.update

    def finish(self) -> str:
        """The digest in hex. Raises ObjectChanged when another one was stated."""
        value = self._hash.hexdigest()
        if self.stated not in {None, value}:
            raise ObjectChanged(f"it does not have the {self.algorithm} that is stated of it")
        return value


class Unsent:
    """A sink that only looks at what it is given."""

    def __init__(self, digests: Sequence[Digest]) -> None:
        self.position = 0
        self.portion = Portion()
        self.digests = digests

    def splice(self) -> None:
        """All of it must be seen."""

    async def write(self, chunk: bytes) -> None:
        """Look at a chunk."""
        for digest in self.digests:
            digest.update(chunk)
        self.position += len(chunk)

    async def flush(self) -> None:
        """Nothing is held."""

    def repaired(self, cause: object) -> None:
        """Nobody was waiting for it."""


class Digests:
    """What is known of contents while an archive is sent: beforehand, and more as they pass.

    `algorithms` are those of the digests that bytes of the archive follow from.
    """

    def __init__(self, algorithms: Sequence[str], memory: Memory[DigestKey, str]) -> None:
        self._algorithms = algorithms
        self._memory = memory
        self._known: dict[DigestKey, str] = {}
        self._told: set[DigestKey] = set()  # those that passed here, or that bytes followed from
        self.unread: dict[DigestKey, Member] = {}
        """Members to be read before anything is sent."""

    async def look_up(self, needed: Iterable[tuple[Member, str]]) -> None:
        """Recall these digests of members; `unread` has those that nobody remembers."""
        left = iter(needed)
        while step := list(islice(left, STEP)):
            keys = {key_of(member, algorithm): member for member, algorithm in step}
            known = await self._memory.get_many(list(keys))
            self._known.update(known)
            self.unread.update((key, member) for key, member in keys.items() if key not in known)
            await asyncio.sleep(0)  # others may have waited

    def wanted(self, member: Member) -> list[Digest]:
        """What is to be told the contents of a member, from the first byte to the last."""
        unstated = [each for each in self._algorithms if member.digest(each) is None]
        return [Digest(*each) for each in (*member.digests, *((key, None) for key in unstated))]

    async def learn(self, member: Member, digests: Iterable[Digest]) -> None:
        """Take over what these came to. Raises ObjectChanged when one is not what it must be.

        Nor may it be another one than before in the same archive, where contents are sent twice
        under a validator that says that they are the same.
        """
        for digest in digests:
            value = digest.finish()
            if not digest.stated:
                key = key_of(member, digest.algorithm)
                if key in self._told and self._known[key] != value:
                    raise ObjectChanged("it changes while it is sent")
                self._known[key] = value
                self._told.add(key)
                self.unread.pop(key, None)
                # Of other sources it would mean nothing to the next archive, and keep them alive.
                if is_strong(member.validator) and isinstance(member.source, str | Path):
                    await self._memory.put_many({key: value})

    def of(self, member: Member, algorithm: str) -> str:
        """The digest of contents that are stated, known, or have passed."""
        certain = stated(member, algorithm)
        if certain is not None:
            return certain
        key = key_of(member, algorithm)
        self._told.add(key)
        return self._known[key]

    def render(self, late: Late) -> bytes:
        """The bytes that a placeholder stands for; the contents that they need have passed."""
        deferred = late.deferred
        value = self.of(deferred.member, deferred.algorithm)
        return deferred.render(value)[late.start : late.stop]
