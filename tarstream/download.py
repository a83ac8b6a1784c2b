"""One archive on its way to one client: how it begins, how it ends, and the line that says so."""

import asyncio
import logging
from typing import Any

from aiohttp import web

from tarstream.archive import Archive, Archives
from tarstream.catalogs.base import Caller
from tarstream.errors import ObjectChanged, TarstreamError
from tarstream.response import ArchiveResponse
from tarstream.stores.base import origin_of
from tarstream.transfer import MemberFailed, Write

logger = logging.getLogger(__name__)


class Download:
    """Moves the bytes [start, stop) of an archive into a response, and tells how that went."""

    def __init__(
        self,
        archives: Archives,
        archive: Archive,
        start: int,
        stop: int,
        response: ArchiveResponse,
        caller: Caller,
    ) -> None:
        self._archives = archives
        self._archive = archive
        self._length = stop - start
        self._transfer = archives.transfer(archive, start, stop)
        self._response = response
        self._caller = caller
        self._outcome = "complete"
        self._failure: dict[str, Any] = {}
        self.cut = False
        """To be set before the task is cancelled by us: then it is not the client who left."""

    async def run(self, request: web.Request) -> None:
        """Send all of it, or break the connection.

        Raises MemberFailed or another TarstreamError only while nothing has been sent.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await self._move(request)
        except asyncio.CancelledError:
            self._outcome = self._why_it_ended()
            raise
        except ConnectionError:
            self._outcome = self._why_it_ended()
        finally:
            self._response.end()
            if self._response.prepared or self._outcome != "complete":
                self._log(loop.time() - began)

    async def _move(self, request: web.Request) -> None:
        response, transfer = self._response, self._transfer

        async def begin() -> Write:
            await response.begin(request)
            return response.send

        try:
            await transfer.run(begin)
            await response.finish()
            if response.sent != self._length:
                raise RuntimeError(f"{response.sent} bytes for a body of {self._length}")
        except MemberFailed as failed:
            if isinstance(failed.cause, ObjectChanged):
                await self._archives.forget(failed.member)
            if not response.prepared:
                raise
            self._outcome = "failed"
            self._failure = {
                "member": failed.member.id,
                "origin": origin_of(failed.member.source),
                "cause": failed.cause.detail,
            }
        except (TarstreamError, ConnectionError):
            raise
        except Exception:
            if not response.prepared:
                raise
            self._outcome = "internal error"
            logger.exception("failed", extra={"fields": {"request_id": self._caller.request_id}})
        else:
            return
        # All that is left is to end the connection inside a member's contents.
        await response.send(transfer.abort())
        await response.finish()

    def _why_it_ended(self) -> str:
        if self._outcome != "complete":
            return self._outcome
        if self._response.stalled:
            return "client stalled"
        return "cut at shutdown" if self.cut else "client left"

    def _log(self, seconds: float) -> None:
        fields = {
            "request_id": self._caller.request_id,
            "client": self._caller.address,
            "members": len(self._archive.layout.members),
            "sent": self._response.sent,
            "of": self._length,
            "archive": self._archive.size,
            "seconds": round(seconds, 3),
            "repairs": self._transfer.repairs,
            "outcome": self._outcome,
            **self._failure,
        }
        level = logging.INFO if self._outcome in {"complete", "client left"} else logging.WARNING
        logger.log(level, "archive", extra={"fields": fields})
