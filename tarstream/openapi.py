"""The HTTP surface as an OpenAPI 3.1 document, of the very gateway that serves it.

Routes, formats, statuses of errors and limits are taken from where they are in force; the rest is
held to real answers by a test.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tarstream.auth import NotAllowed, Unauthorized
from tarstream.errors import (
    BadRequest,
    BodyTimeout,
    Forbidden,
    OriginError,
    OriginTimeout,
    TarstreamError,
    TooLarge,
    Unavailable,
    UnknownIds,
    UnsupportedBody,
    VersionConflict,
)
from tarstream.formats import CHECKSUMS, KINDS
from tarstream.query import MAX_URL
from tarstream.request import MAX_BODY

Json = dict[str, Any]

VERSION = "1"
"""Of what is promised, not of the program: that is nobody's business (`Server` has none either)."""

_INFO = {
    "title": "tarstream",
    "version": VERSION,
    "description": "Many remote files as one archive of exact length, resumable. "
    "Methods that are not listed here are answered with 405 and `Allow`.",
}

_REFUSALS: Mapping[type[TarstreamError], str] = {
    BadRequest: "The request cannot be understood: neither `ids` nor `id`, an empty id, an unknown "
    "value, a parameter given twice, bytes that are not UTF-8, a malformed body; or `version` "
    "names an archive that cannot be pinned.",
    Unauthorized: "Nothing says who asks, or the token is not known.",
    NotAllowed: "The signed URL is wrong, or expired, or cannot allow this.",
    Forbidden: "Sources that the configuration does not allow; all of them are listed.",
    UnknownIds: "Unknown ids; all of them are listed. With `missing=skip`: nothing is left.",
    BodyTimeout: "The body did not arrive.",
    VersionConflict: "The sources no longer give the archive that `version` names.",
    TooLarge: f"Too many members, too many bytes, or a body over {MAX_BODY} bytes.",
    UnsupportedBody: "The body is neither JSON nor a form, or has a content coding.",
    OriginError: "An origin refuses, is broken, or contradicts the catalog.",
    Unavailable: "The gateway is full or shutting down, or the sources change meanwhile.",
    OriginTimeout: "An origin is too slow.",
}
"""When an error is the answer."""

_OF_AUTH: set[type[TarstreamError]] = {Unauthorized, NotAllowed}
_OF_BODIES: set[type[TarstreamError]] = {BodyTimeout, UnsupportedBody}

_SCHEMES: Mapping[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "exp": {
        "type": "apiKey", "in": "query", "name": "exp",
        "description": "When the URL expires, in Unix seconds.",
    },
    "key": {
        "type": "apiKey", "in": "query", "name": "key",
        "description": "The id of the key that it is signed with.",
    },
    "sig": {
        "type": "apiKey", "in": "query", "name": "sig",
        "description": "HMAC-SHA256 of path and query as sent, in hex; comes last.",
    },
}  # fmt: skip

_TOKEN: Json = {"bearer": []}
_SIGNED_URL: Json = {"exp": [], "key": [], "sig": []}
_REQUIRED: Mapping[str, list[Json]] = {
    "none": [],
    "bearer": [_TOKEN],
    "signed": [_SIGNED_URL],
    "either": [_TOKEN, _SIGNED_URL],
}
"""What lets a request in, for each kind of `[auth]`."""

_TEXT: Json = {"type": "string", "minLength": 1}
_OR_NULL: Json = {"type": ["string", "null"]}
_INTEGER: Json = {"type": "integer", "minimum": 0}
# Between commas there is no comma: such an id is for `id`.
_BETWEEN_COMMAS: Json = {"type": "array", "items": {**_TEXT, "pattern": "^[^,]+$"}, "minItems": 1}

_ONCE: Mapping[str, Json] = {
    "format": {"enum": list(KINDS), "default": "tar"},
    "name": {**_TEXT, "default": "archive", "description": "Of the download, without suffix."},
    "missing": {
        "enum": ["fail", "skip"], "default": "fail",
        "description": "`skip` leaves out what cannot be had, and lists it in `MISSING.txt`.",
    },
    "checksums": {"enum": [*CHECKSUMS], "description": "Lists digests in a last member."},
    "version": {**_TEXT, "description": "An entity-tag without its quotes: pins the archive."},
}  # fmt: skip
"""Parameters that may be given once."""

_QUERY: list[Json] = [
    {
        "name": "ids", "in": "query", "style": "form", "explode": False, "schema": _BETWEEN_COMMAS,
        "description": "Ids, in this order. `ids` or `id` is required, here or in a body.",
    },
    {
        "name": "id", "in": "query", "style": "form", "explode": True,
        "schema": {"type": "array", "items": _TEXT, "minItems": 1},
        "description": "One id, taken whole; may be repeated, and mixed with `ids`.",
    },
    *({"name": name, "in": "query", "schema": schema} for name, schema in _ONCE.items()),
]  # fmt: skip

_BODY: Json = {
    "required": True,
    "description": f"At most {MAX_BODY} bytes. Parameters of the query come before those of it.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"ids": {"type": "array", "items": _TEXT}, "id": _TEXT, **_ONCE},
            }
        },
        "application/x-www-form-urlencoded": {
            "schema": {
                "type": "object",
                "properties": {
                    "ids": _BETWEEN_COMMAS,
                    "id": {"type": "array", "items": _TEXT, "minItems": 1},
                    **_ONCE,
                },
            },
            "encoding": {"ids": {"style": "form", "explode": False}},
        },
    },
}

_CONDITIONS: list[Json] = [
    {"name": name, "in": "header", "schema": {"type": "string"}, "description": description}
    for name, description in (
        ("If-Match", "412 unless the archive has one of these entity-tags."),
        ("If-None-Match", "304 if it has one of these."),
        ("If-Range", "`Range` counts only for this very entity-tag."),
        ("Range", "One range of bytes; several are answered with the whole (RFC 9110 14.2)."),
    )
]

_REQUEST_ID: Json = {
    "name": "X-Request-Id", "in": "header", "schema": {"type": "string"},
    "description": "Kept, if it is 1 to 128 letters, digits and `._:/=+-`.",
}  # fmt: skip

_ALL_PARAMETERS = [*_QUERY, *_CONDITIONS, _REQUEST_ID]

_HEADERS: Mapping[str, Json] = {
    "Accept-Ranges": {"enum": ["bytes", "none"]},
    "Cache-Control": {"type": "string"},
    "Content-Disposition": {"type": "string", "pattern": "^attachment; filename="},
    "Content-Length": _INTEGER,
    "Content-Range": {"type": "string", "pattern": r"^bytes (\d+-\d+|\*)/\d+$"},
    "ETag": {"type": "string", "pattern": '^(W/)?".+"$'},
    "Link": {"type": "string", "pattern": '^<.+>; rel="canonical"$'},
    "Retry-After": _INTEGER,
    "WWW-Authenticate": {"type": "string", "pattern": "^(Bearer|Signed-URL) "},
    "X-Accel-Buffering": {"const": "no"},
    "X-Archive-Members": _INTEGER,
    "X-Archive-Size": _INTEGER,
    "X-Content-Type-Options": {"const": "nosniff"},
    "X-Request-Id": {"type": "string", "pattern": "^[A-Za-z0-9._:/=+-]{1,128}$"},
}

_ALWAYS = ["Cache-Control", "X-Content-Type-Options", "X-Request-Id"]
"""Headers of every answer."""

_NOT_ALWAYS = {
    "Content-Length", "ETag", "Link", "X-Accel-Buffering", "X-Archive-Members", "X-Archive-Size",
}  # fmt: skip
"""Headers that an answer may come without; all others that it lists it has."""


def _object(optional: Iterable[str] = (), **properties: Json) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _array(schema: str) -> Json:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{schema}"}}


_SCHEMAS: Mapping[str, Json] = {
    "Refusal": _object(id=_TEXT, reason=_TEXT),
    "Problem": _object(
        ["ids"],
        type={"const": "about:blank"},
        title=_TEXT,
        status={"type": "integer", "minimum": 400, "maximum": 599},
        detail=_TEXT,
        request_id=_HEADERS["X-Request-Id"],
        ids=_array("Refusal"),
    ),
    "Member": _object(
        id=_OR_NULL,
        name=_TEXT,
        size=_INTEGER,
        mtime={"type": "integer"},
        offset=_INTEGER,
        etag=_OR_NULL,
    ),
    "Renamed": _object(id=_OR_NULL, **{"from": {"type": "string"}}, to=_TEXT),
    "Plan": _object(
        format={"enum": list(KINDS)},
        size={**_INTEGER, "type": ["integer", "null"]},
        etag=_OR_NULL,
        url={**_OR_NULL, "maxLength": MAX_URL},
        members=_array("Member"),
        renamed=_array("Renamed"),
        missing=_array("Refusal"),
    ),
}

_SUFFIXED = "/archive.{suffix}"
_ARCHIVE = {"/archive", _SUFFIXED}
_SUFFIX: Json = {
    "name": "suffix", "in": "path", "required": True, "schema": {"enum": list(KINDS)},
    "description": "As `format`, which may not say anything else.",
}  # fmt: skip
_ARCHIVE_CONTENT: Json = {kind.media_type: {} for kind in KINDS.values()}
_ARCHIVE_HEADERS = [
    "Accept-Ranges", "Content-Disposition", "Content-Length", "ETag", "X-Accel-Buffering",
]  # fmt: skip

_ANSWERS: Mapping[str, tuple[str, Json, list[str]]] = {
    "/archive": ("The archive", _ARCHIVE_CONTENT, _ARCHIVE_HEADERS),
    _SUFFIXED: ("The archive, in the format of the suffix", _ARCHIVE_CONTENT, _ARCHIVE_HEADERS),
    "/plan": (
        "What the archive holds, and where",
        {
            "application/json": {"schema": {"$ref": "#/components/schemas/Plan"}},
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "A `Member` a line; else headers."}
            },
        },
        ["ETag", "Link", "X-Accel-Buffering", "X-Archive-Members", "X-Archive-Size"],
    ),
    "/healthz": ("Whether the process runs", {"text/plain": {}}, []),
    "/readyz": ("Whether it takes archives", {"text/plain": {}}, []),
    "/metrics": ("Metrics, as Prometheus reads them", {"text/plain": {}}, []),
    "/openapi.json": ("This document", {"application/json": {}}, []),
}  # fmt: skip
"""What is said of a path, and the content and the headers of its 200."""

_OPEN = {"/healthz", "/readyz"}
"""Paths that are open to everybody, whatever `[auth]` says."""


def document(routes: Iterable[tuple[str, str]], *, base_path: str, auth: str) -> Json:
    """The document of a gateway that answers `routes`: methods, and paths without `base_path`.

    `auth` is the kind of `[auth]`. Raises KeyError for a route that nothing is said about here.
    """
    paths: dict[str, Json] = {}
    for method, path in sorted(routes, key=lambda route: (route[1], route[0])):
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, auth)
    used = {name for requirement in _REQUIRED[auth] for name in requirement}
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": base_path or "/"}],
        "paths": paths,
        "components": {
            "parameters": {parameter["name"]: parameter for parameter in _ALL_PARAMETERS},
            "requestBodies": {"Asked": _BODY},
            "schemas": _SCHEMAS,
            "responses": {str(status): _problem(status) for status in _problems()},
            "headers": {
                name: {"schema": schema, "required": name not in _NOT_ALWAYS}
                for name, schema in _HEADERS.items()
            },
            "securitySchemes": {name: _SCHEMES[name] for name in sorted(used)},
        },
    }


def _operation(method: str, path: str, auth: str) -> Json:
    summary, content, headers = _ANSWERS[path]
    parameters, problems = [_REQUEST_ID], set[int]()
    answers = {200: _response(summary, content, headers)}
    if path in {*_ARCHIVE, "/plan"}:
        parameters += _QUERY
        problems |= _statuses(_REFUSALS.keys() - _OF_AUTH - _OF_BODIES)
    if path in _ARCHIVE and method in {"GET", "HEAD"}:
        parameters += _CONDITIONS if method == "GET" else _CONDITIONS[:2]  # RFC 9110 14.2
        problems.add(412)
        answers[304] = _response("If-None-Match names it.", {}, ["ETag"])
    if path in _ARCHIVE and method == "GET":
        problems.add(416)
        answers[206] = _response("What Range names", content, [*headers, "Content-Range"])
    if path == "/readyz":
        problems.add(Unavailable.status)
    operation: Json = {}
    if method == "POST":
        operation["requestBody"] = {"$ref": "#/components/requestBodies/Asked"}
        problems |= _statuses(_OF_BODIES)
    security = [] if path in _OPEN else _REQUIRED[auth]
    if method == "POST" and _TOKEN in security:
        security = [_TOKEN]  # a signature covers no body
    if security:
        problems |= _statuses(_OF_AUTH)
    answers |= {status: {"$ref": f"#/components/responses/{status}"} for status in problems}
    return {
        "operationId": f"{method.lower()}_{re.sub('[^a-z]+', '_', path).strip('_')}",
        "summary": summary,
        "security": security,
        "parameters": [
            *([_SUFFIX] if path == _SUFFIXED else []),
            *({"$ref": f"#/components/parameters/{p['name']}"} for p in parameters),
        ],
        **operation,
        "responses": {str(status): answer for status, answer in sorted(answers.items())},
    }


def _statuses(errors: Iterable[type[TarstreamError]]) -> set[int]:
    return {error.status for error in errors}


def _response(description: str, content: Json, headers: Iterable[str]) -> Json:
    return {
        "description": description,
        "headers": {
            name: {"$ref": f"#/components/headers/{name}"} for name in sorted({*headers, *_ALWAYS})
        },
        **({"content": content} if content else {}),
    }


def _problems() -> dict[int, list[str]]:
    """When a status is the answer; several errors may have one."""
    when = {412: ["If-Match does not name it."], 416: ["There are no bytes that Range names."]}
    for error, description in _REFUSALS.items():
        when.setdefault(error.status, []).append(description)
    return dict(sorted(when.items()))


def _problem(status: int) -> Json:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    headers = {
        401: ["WWW-Authenticate"],
        412: ["ETag"],
        416: ["Content-Range", "ETag"],
        503: ["Retry-After"],
    }
    return _response(" Or: ".join(_problems()[status]), content, headers.get(status, []))
