"""Who is let in: so many archives at a time, and none while those in flight are drained."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tarstream.errors import Unavailable
from tarstream.metrics import Metrics

logger = logging.getLogger(__name__)


class Admission:
    """Counts archives that are being planned or sent, and ends them at last."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics
        metrics.show(
            "archives_in_flight", "Archives being planned or sent.", lambda: len(self._busy)
        )
        metrics.show(
            "archives_limit", "[limits] max_archives: how many may be in flight.", lambda: limit
        )
        metrics.show(
            "draining",
            "1 from the signal to shut down on, else 0.",
            lambda: int(self.leaving),
            across=max,
        )
        self._busy: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.leaving = False
        """`/readyz` says no, so that load balancers send nobody any more."""
        self.draining = False
        self.cutting = False
        """It is us who cancel."""
        self.last_seconds = 0.0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count the current task, or raise Unavailable."""
        if self.draining:
            self._metrics.rejected("draining")
            raise Unavailable("the gateway is shutting down; ask another one, or later")
        if len(self._busy) >= self._limit:
            self._metrics.rejected("full")
            raise Unavailable("as many archives are under way as [limits] max_archives allows")
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        self._idle.clear()
        try:
            yield
        finally:
            self._busy.discard(task)
            if not self._busy:
                self._idle.set()

    async def drain(self, delay: float, timeout: float) -> None:
        """After `delay` seconds refuse new archives; give those in flight `timeout` seconds."""
        self.leaving = True
        if delay:
            logger.info("leaving", extra={"fields": {"seconds": delay}})
            await asyncio.sleep(delay)
        self.draining = True
        logger.info("draining", extra={"fields": {"archives": len(self._busy), "seconds": timeout}})
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            pass

    async def cut(self, last_seconds: float) -> int:
        """End what is still in flight; how many that were.

        Each may take `last_seconds` to pass on what it holds: the cut is then where a reader
        notices it, not wherever the client's connection happened to stop.
        """
        self.last_seconds = last_seconds
        self.leaving = self.draining = self.cutting = True
        busy = list(self._busy)
        for task in busy:
            task.cancel()
        if busy:
            logger.warning("archives cut at shutdown", extra={"fields": {"archives": len(busy)}})
            await asyncio.wait(busy)
        return len(busy)
