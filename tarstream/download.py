"""One archive on its way to one client: how it begins, how it ends, and the line that says so."""

import asyncio
import logging
from contextlib import suppress
from typing import Any

from aiohttp import web

from tarstream.admission import Admission
from tarstream.archive import Archive, Archives
from tarstream.catalogs.base import Caller
from tarstream.digests import Digests
from tarstream.errors import ObjectChanged, ObjectMissing
from tarstream.metrics import Metrics
from tarstream.request import ARRIVED, CALLER
from tarstream.response import WatchedResponse
from tarstream.stores.base import origin_of
from tarstream.transfer import MemberFailed, Transfer, Write

logger = logging.getLogger(__name__)


class Download:
    """Moves bytes of an archive into a response, and tells how that went."""

    def __init__(
        self,
        archives: Archives,
        archive: Archive,
        response: WatchedResponse,
        admission: Admission,
        metrics: Metrics,
    ) -> None:
        self._archives = archives
        self._archive = archive
        self._response = response
        self._admission = admission
        self._metrics = metrics
        self._outcome = "internal error"  # unless something else is known
        self._failure: dict[str, Any] = {}

    async def run(self, request: web.Request, start: int, stop: int, digests: Digests) -> None:
        """Send the bytes [start, stop). Raises MemberFailed, only while nothing has been sent.

        Bytes are still owed when the client left, and when a member failed on the way.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        transfer = self._archives.transfer(self._archive, start, stop, digests)
        try:
            await self._move(request, transfer)
        except (asyncio.CancelledError, ConnectionError):
            if self._outcome != "failed":
                self._outcome = self._why_it_ended()
            raise
        finally:
            self._response.end()
            # What fails before the first byte is answered, and logged, as a refusal.
            if self._response.prepared or self._outcome not in {"failed", "internal error"}:
                self._log(request[CALLER], loop.time() - began, transfer.repairs)
                self._metrics.ended(self._outcome, loop.time() - request[ARRIVED])
            del transfer  # what is raised here holds this frame too

    async def _move(self, request: web.Request, transfer: Transfer) -> None:
        response = self._response

        async def begin() -> Write:
            await response.begin(request)
            self._metrics.begun(asyncio.get_running_loop().time() - request[ARRIVED])
            transfer.client_splice = response.splice
            return response.send

        try:
            await transfer.run(begin)
            await response.finish()
        except MemberFailed as failed:
            self._outcome = "failed"
            self._failure = {
                "member": failed.member.id,
                "name": failed.member.name,
                "origin": origin_of(failed.member.source),
                "cause": failed.cause.detail,
            }
            if isinstance(failed.cause, ObjectChanged | ObjectMissing):
                await self._archives.forget(failed.member)
            if not response.prepared:
                raise
            # All that is left is to end the connection inside the member's contents.
            await response.send(transfer.abort())
            await response.flush()
            return
        except asyncio.CancelledError:
            if self._admission.last_seconds and response.prepared:
                with suppress(ConnectionError, TimeoutError):
                    async with asyncio.timeout(self._admission.last_seconds):
                        await response.linger(transfer.abort())
            raise
        if not response.whole:
            raise RuntimeError(f"{response.sent} bytes for {response.content_length} announced")
        self._outcome = "complete"

    def _why_it_ended(self) -> str:
        if self._response.whole:
            return "complete"
        if self._response.stalled:
            return "client stalled"
        return "cut at shutdown" if self._admission.cutting else "client left"

    def _log(self, caller: Caller, seconds: float, repairs: int) -> None:
        fields = {
            "request_id": caller.request_id,
            "client": caller.address,
            "members": len(self._archive.layout.members),
            "sent": self._response.sent,
            "of": self._response.content_length,
            "archive": self._archive.size,
            "seconds": round(seconds, 3),
            "repairs": repairs,
            "outcome": self._outcome,
            **self._failure,
        }
        level = logging.INFO if self._outcome in {"complete", "client left"} else logging.WARNING
        logger.log(level, "archive", extra={"fields": fields})
