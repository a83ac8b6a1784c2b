"""What a request asks for, read strictly from a query string, a form or JSON. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, quote

from tarstream.errors import BadRequest
from tarstream.formats import CHECKSUMS, KINDS
from tarstream.names import segment

MAX_URL = 30_000
"""Bytes of the longest URL that is given out: request lines up to 32 KiB are taken."""

Field = tuple[str, object]
"""A name and its value: text, or whatever JSON held."""

_ONCE = ("format", "name", "missing", "checksums", "version")


@dataclass(frozen=True, slots=True)
class ArchiveRequest:
    """An archive as it is asked for."""

    ids: Sequence[str]
    format: str
    name: str
    missing: Literal["fail", "skip"]
    checksums: str | None
    version: str | None

    def path(self, route: str, version: str | None) -> str | None:
        """Path and query that ask for the same by GET, pinned to `version`; None when too long."""
        if sum(map(len, self.ids)) > MAX_URL:
            return None  # before 100,000 ids are quoted
        if any("," in id_ for id_ in self.ids):
            query = "&".join(f"id={_quoted(id_)}" for id_ in self.ids)
        else:
            query = "ids=" + ",".join(_quoted(id_) for id_ in self.ids)
        if self.format != "tar":
            query += f"&format={_quoted(self.format)}"
        if self.name != "archive":
            query += f"&name={_quoted(self.name)}"
        if self.missing != "fail":
            query += f"&missing={self.missing}"
        if self.checksums is not None:
            query += f"&checksums={self.checksums}"
        if version is not None:
            query += f"&version={_quoted(version)}"
        path = f"{route}?{query}"
        return path if len(path) <= MAX_URL else None


def read_form(text: str | bytes) -> list[Field]:
    """Fields of `application/x-www-form-urlencoded` text. Raises BadRequest.

    `+` is a space and `%2B` a plus; bytes that are not UTF-8 are refused, never replaced.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        text.encode()  # so that no surrogate gets any further
        return [*parse_qsl(text, keep_blank_values=True, errors="strict")]
    except UnicodeError:
        raise BadRequest("the request holds bytes that are not UTF-8") from None


def read_json(body: bytes) -> list[Field]:
    """Fields of a JSON object; `ids` in it are whole ids. Raises BadRequest."""
    try:
        fields = json.loads(body.decode(), object_pairs_hook=_Pairs, parse_constant=_refuse)
    except UnicodeDecodeError:
        raise BadRequest("the body holds bytes that are not UTF-8") from None
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(fields, _Pairs):
        raise BadRequest('the body must be a JSON object like {"ids": ["a", "b"]}')
    read: list[Field] = []
    for key, value in fields:
        if key == "ids":
            if type(value) is not list:  # an object is a list of pairs here
                raise BadRequest("ids must be a list of strings")
            read.extend(("id", id_) for id_ in value)
        else:
            read.append((key, value))
    return read


def read_request(fields: Iterable[Field], suffix: str | None = None) -> ArchiveRequest:
    """What fields ask for; unknown ones are ignored. Raises BadRequest.

    `suffix` is that of the path, and says the format too.
    """
    ids: list[str] = []
    once: dict[str, str] = {}
    for key, value in fields:
        if key not in {"ids", "id", *_ONCE}:
            continue
        text = _text(key, value)
        if key == "ids":
            ids.extend(text.split(","))
        elif key == "id":
            ids.append(text)
        elif key in once:
            raise BadRequest(f"{key} is given twice")
        else:
            once[key] = text
    if not ids:
        raise BadRequest("ids is required: ids=a,b,c")
    if "" in ids:
        raise BadRequest("an id is empty: write ids=a,b,c, and id= for an id that holds a comma")
    return ArchiveRequest(ids, *_options(once, suffix))


class _Pairs(list[tuple[str, object]]):
    """A JSON object with its keys as often as they stand there."""


def _refuse(_constant: str) -> None:
    raise ValueError  # NaN and Infinity are not JSON (RFC 8259 6); `read_json` says so


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{'an id' if key == 'id' else key} must be a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRequest(f"{key} holds half of a surrogate pair") from None
    return value


def _options(
    once: Mapping[str, str], suffix: str | None
) -> tuple[str, str, Literal["fail", "skip"], str | None, str | None]:
    format_ = once.get("format", suffix or "tar")
    if format_ not in KINDS:
        raise BadRequest(f"format must be one of: {', '.join(KINDS)}")
    if suffix not in {None, format_}:
        raise BadRequest(f"the path asks for {suffix}, and format for {format_}")
    name = once.get("name", "archive")
    if not name:
        raise BadRequest("name must not be empty")
    missing = once.get("missing", "fail")
    if missing not in {"fail", "skip"}:
        raise BadRequest("missing must be fail or skip")
    checksums = once.get("checksums")
    if checksums not in {None, *CHECKSUMS}:
        raise BadRequest(f"checksums must be {' or '.join(CHECKSUMS)}")
    version = once.get("version")
    if version == "":
        raise BadRequest("version must not be empty: it is an entity-tag without its quotes")
    if version is not None and KINDS[format_].coding is not None:
        raise BadRequest(f"version cannot pin {format_}: compressed bytes may differ each time")
    skip: Literal["fail", "skip"] = "skip" if missing == "skip" else "fail"
    return format_, segment(name), skip, checksums, version


def _quoted(text: str) -> str:
    return quote(text, safe="/:@!$()*~")
