"""A request as it arrives: who asks, and for what."""

import asyncio
import re
import uuid
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from tarstream.catalogs.base import Caller
from tarstream.errors import BodyTimeout, TooLarge, Unavailable, UnsupportedBody
from tarstream.proxies import Networks, client_address
from tarstream.query import ArchiveRequest, Field, read_form, read_json, read_request

MAX_BODY = 8 * 1024**2
"""Bytes of a POST."""

MAX_BODIES = 8 * MAX_BODY
"""Bytes of all bodies that are held at a time: archives in flight times `MAX_BODY` is too much."""

CALLER = web.RequestKey("caller", Caller)
"""Who asks, of every request that is answered."""

ARRIVED = web.RequestKey("arrived", float)
"""When a request arrived, by the event loop's clock."""

_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_LARGE = 256 * 1024  # bytes of a body that takes long enough to read to be felt by downloads
# One at a time, since lists can take fifty times the bytes of their body before they are refused;
# and not in the threads that files and names of hosts wait for.
_READER = ThreadPoolExecutor(1, "bodies")
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


def route_of(request: web.Request) -> str:
    """What a request counts for: whatever its suffix, an archive."""
    resource = request.match_info.route.resource
    if resource is None:
        return "other"
    return "/archive" if "suffix" in request.match_info else resource.canonical


async def read(request: web.Request, timeout: float) -> ArchiveRequest:
    """What is asked for, in the query and, with POST, in the body. Raises TarstreamError.

    `timeout` is the seconds that a body may take to arrive.
    """
    fields = read_form(request.raw_path.partition("?")[2])
    suffix = request.match_info.get("suffix")
    if request.method != "POST":
        return read_request(fields, suffix)
    kind = request.content_type
    if kind not in {_JSON, _FORM} or "Content-Encoding" in request.headers:
        raise UnsupportedBody(f"POST takes {_JSON} or {_FORM}, without a content coding")
    body = bytearray()
    try:
        await _receive(request, body, timeout)
        if len(body) < _LARGE:
            return _read_both(fields, kind, bytes(body), suffix)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_READER, _read_both, fields, kind, bytes(body), suffix)
    finally:
        _BODIES.held -= len(body)


def wants_lines(request: web.Request) -> bool:
    """Whether `Accept` names NDJSON, and not to refuse it (RFC 9110 12.5.1)."""
    accepted = ",".join(request.headers.getall("Accept", [])).lower().split(",")
    return any(_NDJSON.fullmatch(one) for one in accepted)


def _read_both(fields: list[Field], kind: str, body: bytes, suffix: str | None) -> ArchiveRequest:
    more = read_json(body) if kind == _JSON else read_form(body)
    return read_request(fields + more, suffix)


class _Bodies:
    """The bodies of all requests of this process."""

    held = 0  # bytes


_BODIES = _Bodies()


async def _receive(request: web.Request, body: bytearray, timeout: float) -> None:
    """Append to `body` as it arrives; `_BODIES` holds what it has, however this ends."""
    too_long = TooLarge(f"the body is longer than {MAX_BODY} bytes")
    if (request.content_length or 0) > MAX_BODY:
        raise too_long
    try:
        async with asyncio.timeout(timeout):
            while chunk := await request.content.readany():
                body += chunk
                _BODIES.held += len(chunk)
                if len(body) > MAX_BODY:
                    raise too_long
                if _BODIES.held > MAX_BODIES:
                    raise Unavailable("the bodies of other requests take all room there is")
    except TimeoutError:
        raise BodyTimeout("the body did not arrive") from None
