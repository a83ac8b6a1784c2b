"""The HTTP surface: routes, headers, and errors as statuses.

Up to the first byte everything that goes wrong is an answer. From then on it is a broken
connection: nothing here may write a second answer into an archive.
"""

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from aiohttp import web

from tarstream import conditional, plan
from tarstream.archive import Archive, Archives
from tarstream.catalogs.base import Caller, Catalog
from tarstream.config import Settings
from tarstream.download import Download
from tarstream.errors import (
    BadRequest,
    BodyTimeout,
    ObjectChanged,
    TarstreamError,
    TooLarge,
    Unavailable,
    UnsupportedBody,
    VersionConflict,
)
from tarstream.memory import LocalMemory
from tarstream.problem import problem
from tarstream.proxies import client_address
from tarstream.query import ArchiveRequest, read_form, read_json, read_request
from tarstream.resolve import Limits, Resolver
from tarstream.response import ArchiveResponse, archive_headers
from tarstream.stores import Upstream, open_stores
from tarstream.stores.guard import Policy
from tarstream.stores.limit import Slots
from tarstream.transfer import MemberFailed, Reach

logger = logging.getLogger(__name__)

MAX_BODY = 8 * 1024**2
"""Bytes of a POST."""

MAX_LINE = 32 * 1024
"""Bytes of a request line or header: about 800 ids of 36 characters."""

KEEPALIVE = 75
"""Seconds that an idle connection is kept: more than nginx's 60, so that nginx closes first."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
_CALLER = web.RequestKey("caller", Caller)
_NOT_KEPT = {"Cache-Control": "no-store"}

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
    )


class Gateway:
    """Archives over HTTP, for as long as the process runs."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._archives: Archives
        self._draining = False
        self._downloads: set[Download] = set()
        self._busy: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def application(self) -> web.Application:
        """The application, to be run by `runner_of`."""
        app = web.Application(middlewares=[self._answer], client_max_size=MAX_BODY)
        app.cleanup_ctx.append(self._running)
        app.on_response_prepare.append(_add_common_headers)
        for path, handler in (("/archive", self._archive), ("/plan", self._plan)):
            app.router.add_get(path, handler)
            app.router.add_post(path, handler)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        return app

    async def drain(self, timeout: float) -> None:
        """Refuse new archives, and give those in flight `timeout` seconds."""
        self._draining = True
        logger.info("draining", extra={"fields": {"archives": len(self._busy), "seconds": timeout}})
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            pass

    async def cut(self) -> int:
        """End what is still in flight; how many that were."""
        for download in self._downloads:
            download.cut = True
        busy = list(self._busy)
        for task in busy:
            task.cancel()
        if busy:
            logger.warning("archives cut at shutdown", extra={"fields": {"archives": len(busy)}})
            await asyncio.wait(busy)
        return len(busy)

    async def _running(self, app: web.Application) -> AsyncIterator[None]:  # noqa: ARG002
        upstream = self._settings.upstream
        limits = self._settings.limits
        slots = Slots(upstream.connections, upstream.ahead_total_bytes)
        async with AsyncExitStack() as stack:
            guard, store = open_stores(
                Upstream(
                    policy=Policy(upstream.allow),
                    connect_timeout=upstream.connect_timeout,
                    read_timeout=upstream.read_timeout,
                    patience=upstream.patience,
                    attempts=upstream.attempts,
                ),
                slots,
                stack,
            )
            self._archives = Archives(
                Resolver(
                    self._catalog,
                    guard,
                    store,
                    LocalMemory(upstream.remember),
                    Limits(limits.max_members, limits.max_bytes),
                ),
                store,
                slots,
                Reach(upstream.ahead, upstream.ahead_bytes),
                upstream.plan_timeout,
            )
            watching = asyncio.create_task(self._catalog.watch())
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.wait([watching])

    # Requests

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn what is raised before the first byte into an answer."""
        request[_CALLER] = caller = self._caller(request)
        try:
            response = await handler(request)
        except TarstreamError as error:
            headers = {}
            if isinstance(error, Unavailable):
                headers["Retry-After"] = str(error.retry_after)
            response = problem(error.status, error.detail, caller, headers, error.refusals)
        except web.HTTPException as error:
            allow = {key: error.headers[key] for key in ("Allow",) if key in error.headers}
            response = problem(error.status, error.reason, caller, allow)
        except Exception:
            logger.exception("failed", extra={"fields": {"request_id": caller.request_id}})
            response = problem(500, "the gateway itself failed", caller)
        if self._draining:
            response.force_close()
        return response

    async def _healthz(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002
        if self._draining:
            raise Unavailable("the gateway is shutting down")
        return web.Response(text="ready\n")

    async def _plan(self, request: web.Request) -> web.StreamResponse:
        with self._admitted():
            asked = await self._read(request)
            archive = await self._planned(request, asked)
            url = asked.path(self._settings.server.base_path + "/archive", archive.tag)
            if _wants_lines(request):
                return await self._send_lines(request, archive, url)
            body = []
            for chunk in plan.as_json(archive, asked.format, url):
                body.append(chunk)
                await asyncio.sleep(0)
            return web.Response(
                body=b"".join(body), content_type="application/json", headers=_NOT_KEPT
            )

    async def _send_lines(
        self, request: web.Request, archive: Archive, url: str | None
    ) -> web.StreamResponse:
        headers = {
            **_NOT_KEPT,
            "Content-Type": "application/x-ndjson",
            "X-Archive-Size": str(archive.size),
            "X-Archive-Members": str(len(archive.layout.members)),
            "X-Accel-Buffering": "no",
        }
        if archive.etag:
            headers["ETag"] = archive.etag
        if url:
            headers["Link"] = f'<{url}>; rel="canonical"'
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        try:
            for chunk in plan.as_lines(archive):
                async with asyncio.timeout(self._settings.limits.stall_timeout):
                    await response.write(chunk)
        except TimeoutError:
            raise asyncio.CancelledError from None  # as when the client had left
        return response

    async def _archive(self, request: web.Request) -> web.StreamResponse:
        with self._admitted():
            asked = await self._read(request)
            # What was remembered may be stale. Then it is forgotten and all is planned once more.
            for _ in range(2):
                archive = await self._planned(request, asked)
                try:
                    return await self._respond(request, asked, archive)
                except MemberFailed as failed:
                    changed = isinstance(failed.cause, ObjectChanged)
                    if not changed or failed.member.source not in archive.resolution.asked:
                        raise failed.cause.about(failed.member.id or "") from failed
            raise Unavailable("the sources change while they are looked at; try again", 1)

    async def _respond(
        self, request: web.Request, asked: ArchiveRequest, archive: Archive
    ) -> web.StreamResponse:
        caller = request[_CALLER]
        if request.method == "POST":  # Range and conditions are GET's (RFC 9110 14.2, 13.1)
            selection = conditional.Selection(200, 0, archive.size)
        else:
            selection = conditional.select(
                request.method, request.headers, archive.etag, archive.size
            )
        headers = archive_headers(archive, asked, selection, public=self._settings.server.public)
        if selection.status == 304:
            return web.Response(status=304, headers=headers)
        if selection.status == 412:
            return problem(412, "the archive is another one than If-Match names", caller, headers)
        if selection.status == 416:
            return problem(416, f"the archive has {archive.size} bytes", caller, headers)
        if request.method == "HEAD":
            head = web.StreamResponse(status=selection.status, headers=headers)
            head.content_length = archive.size
            return head
        response = ArchiveResponse(
            selection.status,
            headers,
            selection.stop - selection.start,
            self._settings.limits.stall_timeout,
        )
        download = Download(
            self._archives, archive, selection.start, selection.stop, response, caller
        )
        self._downloads.add(download)
        try:
            await download.run(request)
        finally:
            self._downloads.discard(download)
        return response

    async def _planned(self, request: web.Request, asked: ArchiveRequest) -> Archive:
        archive = await self._archives.plan(
            asked.ids, asked.format, request[_CALLER], skip_missing=asked.missing == "skip"
        )
        if asked.version is None:
            return archive
        if archive.tag is None:
            raise BadRequest("version cannot pin it: a source of it has no strong validator")
        if archive.tag != asked.version:
            raise VersionConflict(
                "the sources no longer give the archive that version names; "
                "ask without version for the one they give"
            )
        return archive

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Count a request among those being planned or sent, or refuse it."""
        if self._draining:
            raise Unavailable("the gateway is shutting down; ask another one, or later")
        if len(self._busy) >= self._settings.limits.max_archives:
            raise Unavailable("as many archives are under way as [limits] max_archives allows")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler runs in a task
        self._busy.add(task)
        self._idle.clear()
        try:
            yield
        finally:
            self._busy.discard(task)
            if not self._busy:
                self._idle.set()

    async def _read(self, request: web.Request) -> ArchiveRequest:
        """What is asked for, in the query and, with POST, in the body."""
        fields = read_form(request.raw_path.partition("?")[2])
        if request.method == "POST":
            kind = request.content_type
            if kind not in {"application/json", "application/x-www-form-urlencoded"}:
                raise UnsupportedBody(
                    "POST takes application/json or application/x-www-form-urlencoded"
                )
            body = await self._body(request)
            fields += read_json(body) if kind == "application/json" else read_form(body)
        return read_request(fields)

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._settings.limits.stall_timeout):
                return await request.read()
        except TimeoutError:
            raise BodyTimeout("the body did not arrive") from None
        except web.HTTPRequestEntityTooLarge:
            raise TooLarge(f"the body is longer than {MAX_BODY} bytes") from None

    def _caller(self, request: web.Request) -> Caller:
        given = request.headers.get("X-Request-Id", "")
        return Caller(
            client_address(
                request.remote or "",
                request.headers.getall("X-Forwarded-For", []),
                self._settings.server.trusted_proxies,
            ),
            given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex,
        )


async def _add_common_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers["Server"] = "tarstream"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if _CALLER in request:
        response.headers["X-Request-Id"] = request[_CALLER].request_id


def _wants_lines(request: web.Request) -> bool:
    accepted = ",".join(request.headers.getall("Accept", [])).split(",")
    return any(a.partition(";")[0].strip() == "application/x-ndjson" for a in accepted)
