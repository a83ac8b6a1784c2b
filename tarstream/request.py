"""A request as it arrives: who asks, and for what."""

import asyncio
import re
import uuid

from aiohttp import web

from tarstream.catalogs.base import Caller
from tarstream.errors import BodyTimeout, TooLarge, UnsupportedBody
from tarstream.proxies import Networks, client_address
from tarstream.query import ArchiveRequest, Field, read_form, read_json, read_request

MAX_BODY = 8 * 1024**2
"""Bytes of a POST."""

CALLER = web.RequestKey("caller", Caller)
"""Who asks, of every request that is answered."""

_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_LARGE = 256 * 1024  # bytes of a body that takes long enough to read to be felt by downloads
_NDJSON = re.compile(r"\s*application/x-ndjson\s*(?!;\s*q=0(\.0*)?\s*$)(;.*)?", re.DOTALL)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")


def caller_of(request: web.BaseRequest, trusted_proxies: Networks) -> Caller:
    """Who asks; the request's own id is kept when it is sane, in logs and in headers."""
    given = request.headers.get("X-Request-Id", "")
    return Caller(
        client_address(
            request.remote or "", request.headers.getall("X-Forwarded-For", []), trusted_proxies
        ),
        given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex,
    )


async def read(request: web.Request, timeout: float) -> ArchiveRequest:
    """What is asked for, in the query and, with POST, in the body. Raises TarstreamError.

    `timeout` is the seconds that a body may take to arrive.
    """
    fields = read_form(request.raw_path.partition("?")[2])
    if request.method != "POST":
        return read_request(fields)
    kind = request.content_type
    if kind not in {_JSON, _FORM} or "Content-Encoding" in request.headers:
        raise UnsupportedBody(f"POST takes {_JSON} or {_FORM}, without a content coding")
    body = await _body(request, timeout)
    if len(body) < _LARGE:
        return _read_both(fields, kind, body)
    return await asyncio.to_thread(_read_both, fields, kind, body)


def wants_lines(request: web.Request) -> bool:
    """Whether `Accept` names NDJSON, and not to refuse it (RFC 9110 12.5.1)."""
    accepted = ",".join(request.headers.getall("Accept", [])).lower().split(",")
    return any(_NDJSON.fullmatch(one) for one in accepted)


def _read_both(fields: list[Field], kind: str, body: bytes) -> ArchiveRequest:
    return read_request(fields + (read_json(body) if kind == _JSON else read_form(body)))


async def _body(request: web.Request, timeout: float) -> bytes:
    too_long = TooLarge(f"the body is longer than {MAX_BODY} bytes")
    if (request.content_length or 0) > MAX_BODY:
        raise too_long
    try:
        async with asyncio.timeout(timeout):
            return await request.read()
    except TimeoutError:
        raise BodyTimeout("the body did not arrive") from None
    except web.HTTPRequestEntityTooLarge:
        raise too_long from None
