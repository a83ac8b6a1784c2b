"""A file that a program wants in an archive: what it states of it, and where it is."""

import inspect
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tarstream import layout
from tarstream.asking import known
from tarstream.digests import ALGORITHMS, described, hex_of, of
from tarstream.errors import OriginError
from tarstream.layout import Open, Opener, Source
from tarstream.stores.base import ObjectMeta
from tarstream.stores.validators import ENTITY_TAG, http_date

_MOST = 2**62  # offsets are 64-bit
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20\x7f]*")  # RFC 3986 3.1
_HEX = {algorithm: hex_of(algorithm) for algorithm in ALGORITHMS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file that is to be in an archive. Raises ValueError or TypeError for what cannot be.

    Or an empty directory: its `name` ends in a slash, and beside `mtime` it has nothing else.

    `source` is a URL, a `Path`, the bytes themselves, a function that gives the bytes
    [start, stop) as an asynchronous iterator, or such an iterator, which is read once.
    `size` is bytes, `mtime` whole seconds since the epoch, `etag` as the origin sends it, quotes
    included, or its Last-Modified: equal ones must mean equal bytes. `crc32`, `md5` and `sha256`
    are hex, and verified.
    """

    name: str
    source: "str | bytes | Path | Open | AsyncIterator[bytes] | None" = None
    size: int | None = None
    mtime: int | None = None
    etag: str | None = None
    crc32: str | None = None
    md5: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        self._check_types()
        for field in ("size", "mtime"):
            value = getattr(self, field)
            if value is not None and not 0 <= value < _MOST:
                raise ValueError(f"{field} of {self.name!r} must not be negative, nor 2**62")
        if self.etag is not None and not _is_validator(self.etag):
            raise ValueError(f"etag of {self.name!r} must have its quotes, as in '\"abc\"'")
        for field, pattern in _HEX.items():
            value = getattr(self, field)
            if value is not None and not pattern.fullmatch(value):
                raise ValueError(f"{field} of {self.name!r} must be hex digits, all of them")
        self._check_source()
        # What no origin is asked for: nothing would notice later, or only in the middle.
        at_hand = b"" if self.size == 0 else self.source
        if isinstance(at_hand, bytes):
            for algorithm, digest in self.digests:
                if digest != of(at_hand, algorithm):
                    raise ValueError(f"{algorithm} of {self.name!r} is not that of its bytes")

    @property
    def digests(self) -> tuple[tuple[str, str], ...]:
        """What is stated of its contents: algorithm and lower-case hex."""
        stated = ((algorithm, getattr(self, algorithm)) for algorithm in ALGORITHMS)
        return tuple((algorithm, hex_.lower()) for algorithm, hex_ in stated if hex_ is not None)

    def _check_types(self) -> None:
        for field in ("name", "etag", *_HEX):
            value = getattr(self, field)
            if not isinstance(value, str) and (value is not None or field == "name"):
                kind = type(value).__name__
                raise TypeError(f"{field} of {self.name!r} must be a str, and is a {kind}")
        for field in ("size", "mtime"):
            if not isinstance(getattr(self, field), int | None):
                raise TypeError(f"{field} of {self.name!r} must be a whole number")

    def _check_source(self) -> None:
        source = self.source
        if self.name.endswith("/"):
            given = [f for f in ("source", "size", "etag", *_HEX) if getattr(self, f) is not None]
            if given:
                raise ValueError(
                    f"{given[0]} of {self.name!r} must not be given: "
                    "a name that ends in '/' is that of an empty directory"
                )
        elif source is None:
            raise ValueError(
                f"source of {self.name!r} is missing: "
                "only an empty directory has none, and its name ends in '/'"
            )
        elif not (isinstance(source, str | bytes | Path) or callable(source)) and not hasattr(
            source, "__aiter__"
        ):
            raise TypeError(f"source of {self.name!r} must be of a kind that Member names")
        elif callable(source) and not hasattr(source, "__aiter__") and not _takes_two(source):
            raise TypeError(
                f"source of {self.name!r} must take two numbers, `start` and `stop`: "
                "the bytes of its contents that it is to give"
            )
        elif isinstance(source, str) and not _URL.fullmatch(source):
            raise ValueError(
                f"source of {self.name!r} must be a URL without blanks, "
                "or a Path for a file of this machine"
            )
        elif isinstance(source, bytes) and self.size not in {None, len(source)}:
            raise ValueError(f"size of {self.name!r} is not that of its bytes")


def _takes_two(source: Callable[..., object]) -> bool:
    """Whether it may be called with two arguments; what does not say what it takes may."""
    try:
        inspect.signature(source).bind(0, 0)
    except TypeError:
        return False
    except ValueError:  # some that are written in C
        return True
    return True


def _is_validator(etag: str) -> bool:
    """Whether it is an entity-tag, or the date that an origin without one gives."""
    date = etag.removeprefix("W/")
    return bool(ENTITY_TAG.fullmatch(etag)) or (date.isprintable() and http_date(date) is not None)


def completed(member: Member, answers: Mapping[Source, ObjectMeta]) -> Member:
    """What is stated, completed by what its origin said, if that was asked.

    Raises OriginError, naming the member, when they contradict each other.
    """
    meta = answers.get(member.source) if isinstance(member.source, str | Path) else None
    if meta is None:
        return member
    try:
        size, mtime, validator = known(member, meta, "the application")
    except OriginError as error:
        raise error.about(member.name) from None
    return replace(member, size=size, mtime=mtime, etag=validator)


def planned(member: Member, name: str) -> layout.Member:
    """A member as it is laid out, called `name`. Raises ValueError for one without a size."""
    source, size, etag, digests = member.source, member.size, member.etag, member.digests
    found: Source
    if isinstance(source, bytes | None):
        found = source or b""
        size = len(found)
        tag, described_ = described(found)
        etag, digests = etag or tag, tuple(sorted({*digests, *described_}))
    elif isinstance(source, str | Path):
        found = source
    elif callable(source):
        found = Opener(source, once=False)
    else:
        found = _once(source)
        # A strong one would promise that any part of it can be had again.
        etag = etag and f"W/{etag.removeprefix('W/')}"
    if size is None:
        asked = isinstance(source, str | Path)
        why = "`Archive.plan` asks for it" if asked else "only who makes it can say how long it is"
        raise ValueError(f"size of {member.name!r} is missing: {why}")
    return layout.Member(name, size, member.mtime or 0, found, etag, digests)


def _once(chunks: AsyncIterator[bytes]) -> Opener:
    """What gives an iterator one time."""
    left = [chunks]

    def take(_start: int, _stop: int) -> AsyncIterator[bytes]:
        if not left:
            raise OriginError("it can be read only once, and has been")
        return left.pop()

    return Opener(take, once=True)
