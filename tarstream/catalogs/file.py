"""A catalog that is a file of JSON Lines: `{"id", "url"[, "name", "size", "mtime", …]}`.

Instead of a URL an entry may have `text`, or a name that ends in a slash: an empty directory. A
line may have several of them: `{"id", "members": [{"url", …}, …][, "prefix"]}`.

A changed file is read beside the running service; one bad line rejects the whole new version.
"""

import asyncio
import json
import logging
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict

from tarstream.catalogs.base import Caller, CatalogError, Entry, Found, Unknown, inline
from tarstream.digests import ALGORITHMS, hex_of, of
from tarstream.names import UNNAMED
from tarstream.stores.validators import ENTITY_TAG
from tarstream.watched import WatchedFile

logger = logging.getLogger(__name__)

_MAX_NUMBER = 2**62  # offsets are 64-bit; whole archives are held to max_bytes
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\x00-\x20\x7f]+", re.IGNORECASE)
_DIGESTS = {algorithm: hex_of(algorithm) for algorithm in ALGORITHMS}
_HERE = {"name", "mtime"}  # of what has no origin
_KEYS = {"url", "text", "size", "etag", *_HERE, *_DIGESTS}
_COLLECTION = {"id", "members", "prefix"}


class FileSettings(BaseModel):
    """`[catalog]` with kind = "file"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["file"]
    path: Path


class FileCatalog:
    """Entries of a file. Raises CatalogError when it cannot be read in the first place."""

    def __init__(self, settings: FileSettings) -> None:
        self._path = settings.path
        self._file = WatchedFile(self._path)
        self._entries = load(self._path)

    async def lookup(self, ids: Sequence[str], caller: Caller) -> Sequence[Found]:
        """Look ids up in the version in force."""
        entries = self._entries
        return [found or Unknown("unknown") for found in map(entries.get, ids)]

    async def watch(self) -> None:
        """Take over new versions of the file, once they were written."""
        while True:
            await self._file.changed()
            try:
                self._entries = await asyncio.to_thread(load, self._path)
            except CatalogError as error:
                logger.error("catalog rejected, the previous version stays in force: %s", error)
            else:
                logger.info("catalog loaded: %d entries", len(self._entries))


def load(path: Path) -> Mapping[str, Sequence[Entry]]:
    """Read all entries of all ids; raises CatalogError that names the line."""
    entries: dict[str, Sequence[Entry]] = {}
    number = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007 - errors name it
                if not line.strip():
                    continue
                id_, found = parse_line(line)
                if id_ in entries:
                    raise ValueError(f"id {id_!r} stands here a second time")
                entries[id_] = found
    except OSError as error:
        raise CatalogError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    except ValueError as error:
        raise CatalogError(f"{path}:{number}: {error}") from error
    return entries


def parse_line(line: bytes) -> tuple[str, Sequence[Entry]]:
    """One line as id and entries; raises ValueError that says what is wrong with it."""
    fields = _object(_parse(line))
    id_ = _text(fields, "id")
    if not id_:
        raise ValueError("'id' is required")
    if "members" in fields:
        return id_, _collection(fields)
    if "prefix" in fields:
        raise ValueError("'prefix' is for a line with 'members'")
    _only(fields, _KEYS | {"id", "members"})
    return id_, (_entry(fields),)


def _collection(fields: Mapping[str, Any]) -> Sequence[Entry]:
    """The entries of an id that stands for several files, their names below its prefix."""
    _only(fields, _COLLECTION)
    members, prefix = fields["members"], (_text(fields, "prefix") or "").rstrip("/")
    if not isinstance(members, list) or not members:
        raise ValueError("'members' must be a list of objects, and not empty")
    entries = []
    for number, member in enumerate(members, 1):
        try:
            _only(_object(member), _KEYS)
            entry = _entry(member)
        except ValueError as error:
            raise ValueError(f"member {number}: {error}") from None
        below = f"{prefix}/{entry.name or UNNAMED}"
        entries.append(entry._replace(name=below) if prefix else entry)
    return tuple(entries)


def _entry(fields: Mapping[str, Any]) -> Entry:
    url, text, name = (_text(fields, key) for key in ("url", "text", "name"))
    directory = name is not None and name.endswith("/")
    if not url:
        if text is None and not directory:
            raise ValueError("'url' is required, or 'text', or a 'name' that ends in '/'")
        if not name or (text is not None and directory):
            raise ValueError("'text' must have a 'name', one that does not end in '/'")
        what = " of a directory" if text is None else " beside 'text'"
        _only(fields, _HERE | {"id", "url", "text"}, what)
        return inline((text or "").encode(), name, _number(fields, "mtime") or 0)
    if text is not None or directory:
        raise ValueError("'url' excludes 'text', and a 'name' that ends in '/'")
    if not _URL.fullmatch(url):
        raise ValueError("'url' must be an absolute URL without blanks")
    etag = _text(fields, "etag")
    if etag is not None and not ENTITY_TAG.fullmatch(etag):
        raise ValueError("'etag' must be as the origin sends it, quotes included: '\"abc\"'")
    return Entry(
        url,
        name or last_segment(url),
        _number(fields, "size"),
        _number(fields, "mtime"),
        etag,
        _digests(fields),
    )


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _only(fields: Mapping[str, Any], known: AbstractSet[str], what: str = "") -> None:
    if unknown := fields.keys() - known:
        known_ = ", ".join(sorted(known))
        raise ValueError(f"unknown key {min(unknown)!r}{what}; known are {known_}")


def last_segment(url: str) -> str:
    """The last segment of a URL's path, decoded; "" when it has none."""
    # A question mark and a number sign are part of a file's path, and end that of others.
    path = url if url.startswith("file:") else urlsplit(url).path
    return unquote(path.rstrip("/").rpartition("/")[2])


def _parse(line: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        # Decoded here, because json guesses other encodings and lets surrogates pass.
        return json.loads(line.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        # Without the line, which it counts from here.
        said = error.msg.removesuffix(" at")
        raise ValueError(f"not JSON at character {error.pos + 1}: {said}") from None
    except ValueError:
        raise ValueError("a number has too many digits") from None  # for int()


def _text(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{key!r} must be a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{key!r} holds half of a surrogate pair") from None
    return value


def _number(fields: Mapping[str, Any], key: str) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise ValueError(f"{key!r} must be a whole number, not negative and less than 2**62")
    return value


def _digests(fields: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = []
    for key, pattern in _DIGESTS.items():
        value = _text(fields, key)
        if value is None:
            continue
        if not pattern.fullmatch(value):
            raise ValueError(f"{key!r} must be {len(of(b'', key))} hex digits")
        found.append((key, value.lower()))
    return tuple(found)
