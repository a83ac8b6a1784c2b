"""The HTTP surface: routes, and errors as statuses.

Up to the first byte everything that goes wrong is an answer. From then on it is a broken
connection: nothing here may write a second answer into an archive.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

from tarstream import conditional, openapi, plan
from tarstream.admission import Admission
from tarstream.archive import Archive, Archives
from tarstream.assembly import open_archives
from tarstream.auth import Authorizer, Grant, Unauthorized
from tarstream.catalogs.base import Caller, Catalog
from tarstream.compress import Compression
from tarstream.config import Settings
from tarstream.download import Download
from tarstream.errors import (
    BadRequest,
    BodyTimeout,
    ObjectChanged,
    ObjectMissing,
    TarstreamError,
    Unavailable,
    VersionConflict,
)
from tarstream.formats import KINDS
from tarstream.metrics import Metrics
from tarstream.problem import Problem, problem
from tarstream.query import MAX_URL, ArchiveRequest
from tarstream.request import ARRIVED, CALLER, MAX_BODY, caller_of, read, route_of, wants_lines
from tarstream.response import BEGUN, CompressedResponse, WatchedResponse, archive_headers
from tarstream.stores.credentials import Credential, Credentials
from tarstream.transfer import MemberFailed

logger = logging.getLogger(__name__)

MAX_LINE = 32 * 1024
"""Bytes of a request line or header: about 800 ids of 36 characters."""

KEEPALIVE = 75
"""Seconds that an idle connection is kept: more than nginx's 60, so that nginx closes first."""

_FLUSH_SECONDS = 5.0  # for downloads that are cut to pass on what they hold
_LAST_SECONDS = 1.0  # for what is still being answered when all archives have ended

_NOT_KEPT = {"Cache-Control": "no-store"}

GRANT = web.RequestKey("grant", Grant)
"""How a request was let in, of every one to which not everybody is."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def runner_of(gateway: "Gateway") -> web.AppRunner:
    """What runs a gateway."""
    return web.AppRunner(
        gateway.application(),
        access_log=None,
        # A client that leaves must be noticed while its origin is waited for.
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        # What is not decoded cannot grow, nor be refused in the middle with a traceback.
        auto_decompress=False,
        shutdown_timeout=_LAST_SECONDS,
    )


class Gateway:
    """Archives over HTTP, for as long as the process runs."""

    def __init__(
        self, settings: Settings, catalog: Catalog, metrics: Metrics | None = None
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._archives: Archives
        self._authorizer = Authorizer(settings.auth, settings.server.base_path)
        self._credentials = Credentials(
            Credential(**each.model_dump()) for each in settings.upstream.credentials
        )
        self._levels = settings.compression.levels
        self._metrics = metrics or Metrics()
        self._admission = Admission(settings.limits.max_archives, self._metrics)

    def application(self) -> web.Application:
        """The application, to be run by `runner_of`."""
        app = web.Application(middlewares=[self._answer], client_max_size=MAX_BODY)
        app.cleanup_ctx.append(self._running)
        app.on_response_prepare.append(_add_common_headers)
        for path in ("/archive", "/archive.{suffix}"):
            app.router.add_get(path, self._archive)
            app.router.add_post(path, self._archive)
        app.router.add_get("/plan", self._plan)
        app.router.add_post("/plan", self._plan)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/openapi.json", self._openapi)
        if not self._settings.metrics.port:
            app.router.add_get("/metrics", self._numbers)
        return app

    def metrics_application(self) -> web.Application:
        """`/metrics` alone, for a port of its own."""
        app = web.Application()
        app.on_response_prepare.append(_add_common_headers)
        app.router.add_get("/metrics", self._numbers)
        return app

    async def drain(self) -> int:
        """Refuse new archives, and give those in flight `shutdown_timeout` seconds.

        How many were cut then.
        """
        server = self._settings.server
        await self._admission.drain(server.drain_delay, server.shutdown_timeout)
        return await self._admission.cut(_FLUSH_SECONDS)

    async def cut(self) -> int:
        """End at once what is still in flight; how many that were."""
        return await self._admission.cut(0)

    async def _running(self, app: web.Application) -> AsyncIterator[None]:
        opened = open_archives(self._settings, self._catalog, self._credentials, self._metrics)
        async with opened as self._archives:
            watching = [
                asyncio.create_task(_watched("the catalog is", self._catalog.watch())),
                asyncio.create_task(_watched("tokens and keys are", self._authorizer.watch())),
                asyncio.create_task(_watched("credentials are", self._credentials.watch())),
            ]
            try:
                yield
            finally:
                for task in watching:
                    task.cancel()
                await asyncio.wait(watching)

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn what is raised into an answer, or into a broken connection once one has begun."""
        request[ARRIVED] = asyncio.get_running_loop().time()
        request[CALLER] = caller = caller_of(request, self._settings.server.trusted_proxies)
        try:
            # Whatever is not open to all is closed: routes that are yet to come, unknown ones too.
            if request.match_info.handler not in {self._healthz, self._readyz}:
                request[GRANT] = self._authorizer.check(
                    request.method, request.raw_path, request.headers
                )
            response = await handler(request)
        except Exception as error:
            begun: WatchedResponse | None = request.get(BEGUN)
            expected = (TarstreamError, web.HTTPException) if begun is None else ConnectionError
            if not isinstance(error, expected):
                logger.exception("failed", extra={"fields": {"request_id": caller.request_id}})
            # A response that has begun breaks the connection by itself when bytes are owed.
            if begun is not None:
                response = begun
            else:
                response = await self._send_problem(request, _refusal(error, caller))
        if self._admission.draining:
            response.force_close()
        self._metrics.answered(route_of(request), response.status)
        return response

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n", headers=_NOT_KEPT)

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        if self._admission.leaving:
            raise Unavailable("the gateway is shutting down")
        return web.Response(text="ready\n", headers=_NOT_KEPT)

    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        resources = request.app.router.resources()
        document = openapi.document(
            [(route.method, resource.canonical) for resource in resources for route in resource],
            base_path=self._settings.server.base_path,
            auth=self._settings.auth.kind,
        )
        return web.json_response(document, headers=_NOT_KEPT)

    async def _numbers(self, request: web.Request) -> web.StreamResponse:
        body, media_type = self._metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={**_NOT_KEPT, "Content-Type": media_type})

    async def _plan(self, request: web.Request) -> web.StreamResponse:
        with self._admission.admitted():
            asked = await self._read(request)
            archive = await self._planned(asked, request[CALLER])
            tag = archive.tag if KINDS[asked.format].coding is None else None
            url = asked.path(self._settings.server.base_path + "/archive", tag)
            if url is not None:
                url = request[GRANT].signed(url)
                url = url if len(url) <= MAX_URL else None
            if wants_lines(request):
                headers = _NOT_KEPT | plan.line_headers(archive, asked.format, url)
                return await self._send(request, headers, None, plan.as_lines(archive))
            body = []
            for chunk in plan.as_json(archive, asked.format, url):
                body.append(chunk)
                await asyncio.sleep(0)
            headers = {**_NOT_KEPT, "Content-Type": "application/json"}
            return await self._send(request, headers, sum(map(len, body)), body)

    async def _send(
        self,
        request: web.Request,
        headers: Mapping[str, str],
        length: int | None,
        chunks: Iterable[bytes],
        status: int = 200,
    ) -> web.StreamResponse:
        if request.method == "HEAD":
            return _head(headers, length, status)
        response = WatchedResponse(headers, length, self._settings.limits.stall_timeout, status)
        if self._admission.draining:
            response.force_close()
        with suppress(ConnectionError):  # then bytes are owed, and nobody waits for them
            await response.send_all(request, chunks)
        return response

    async def _send_problem(self, request: web.Request, problem: Problem) -> web.StreamResponse:
        status, headers, body = problem
        return await self._send(request, headers, len(body), [body], status)

    async def _archive(self, request: web.Request) -> web.StreamResponse:
        with self._admission.admitted():
            asked = await self._read(request)
            # What was remembered may be stale. Then it is forgotten and all is planned once more.
            for _ in range(2):
                archive = await self._planned(asked, request[CALLER])
                try:
                    return await self._respond(request, asked, archive)
                except MemberFailed as failed:
                    if not _may_be_stale(failed, asked, archive):
                        raise failed.cause.about(failed.member.id or "") from failed
            raise Unavailable("the sources change while they are looked at; try again", 1)

    async def _respond(
        self, request: web.Request, asked: ArchiveRequest, archive: Archive
    ) -> web.StreamResponse:
        caller = request[CALLER]
        kind = KINDS[asked.format]
        etag = kind.etag(archive.etag)
        selection = conditional.select(request.method, request.headers, etag, archive.size)
        digests = await self._archives.digests(archive, selection.start, selection.stop)
        if digests is None:
            # Only a part can follow from what does not pass with it.
            selection = conditional.Selection(200, 0, archive.size)
            digests = await self._archives.digests(archive, 0, archive.size)
        headers = archive_headers(
            archive,
            asked,
            selection,
            public=self._settings.server.public,
            seekable=kind.coding is None and await self._archives.seekable(archive),
        )
        if selection.status == 304:
            return web.Response(status=304, headers=headers)
        if selection.status == 412:
            detail = "the archive is another one than If-Match names"
            return await self._send_problem(request, problem(412, detail, caller, headers))
        if selection.status == 416:
            detail = f"the archive has {archive.size} bytes"
            return await self._send_problem(request, problem(416, detail, caller, headers))
        if request.method == "HEAD":
            return _head(headers, archive.size if kind.coding is None else None)
        start, stop = selection.start, selection.stop
        stall_timeout = self._settings.limits.stall_timeout
        if kind.coding is None:
            response = WatchedResponse(headers, stop - start, stall_timeout, selection.status)
        else:
            compression = Compression(kind.coding, self._levels)
            response = CompressedResponse(headers, compression, stall_timeout)
        assert digests is not None  # nothing precedes the whole
        download = Download(self._archives, archive, response, self._admission, self._metrics)
        await download.run(request, start, stop, digests)
        return response

    async def _read(self, request: web.Request) -> ArchiveRequest:
        return await read(request, self._settings.limits.stall_timeout)

    async def _planned(self, asked: ArchiveRequest, caller: Caller) -> Archive:
        """The archive that is asked for, which is the one that `version` names if it names one."""
        for _ in range(2):
            archive = await self._archives.plan(
                asked.ids,
                KINDS[asked.format].format,
                caller,
                skip_missing=asked.missing == "skip",
                checksums=asked.checksums,
            )
            if asked.version in {None, archive.tag}:
                return archive
            if archive.tag is None:
                raise BadRequest("version cannot pin it: a source of it has no strong validator")
            # Whoever asks may have seen the sources after we did.
            for member in archive.layout.members:
                if member.source in archive.resolution.asked:
                    await self._archives.forget(member)
        raise VersionConflict(
            "the sources no longer give the archive that version names; "
            "ask without version for the one they give"
        )


async def _watched(what: str, watch: Coroutine[Any, Any, None]) -> None:
    try:
        await watch
    except Exception:
        logger.exception("%s no longer watched; changes need a restart", what)


def _may_be_stale(failed: MemberFailed, asked: ArchiveRequest, archive: Archive) -> bool:
    """Whether another plan may be another one, since this one rests on what was remembered."""
    if isinstance(failed.cause, ObjectMissing):
        return asked.missing == "skip"
    said = archive.resolution.asked - archive.resolution.stated  # who contradicts the catalog lies
    return isinstance(failed.cause, ObjectChanged) and failed.member.source in said


def _refusal(error: Exception, caller: Caller) -> Problem:
    """The answer that an error is before the first byte."""
    if isinstance(error, TarstreamError):
        headers = {}
        if isinstance(error, Unavailable):
            headers["Retry-After"] = str(error.retry_after)
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = error.challenge
        if isinstance(error, BodyTimeout):
            headers["Connection"] = "close"  # RFC 9110 15.5.9
        return problem(error.status, error.detail, caller, headers, error.refusals)
    if isinstance(error, web.HTTPException):
        allow = {key: error.headers[key] for key in ("Allow",) if key in error.headers}
        return problem(error.status, error.reason, caller, allow)
    return problem(500, "the gateway itself failed", caller)


def _head(headers: Mapping[str, str], length: int | None, status: int = 200) -> web.StreamResponse:
    """The answer to HEAD: nothing may be written into it, or it would be sent."""
    response = web.StreamResponse(headers=headers, status=status)
    response.content_length = length
    return response


async def _add_common_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers["Server"] = "tarstream"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if CALLER in request:
        response.headers["X-Request-Id"] = request[CALLER].request_id
