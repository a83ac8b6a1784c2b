"""Numbers for operators, as Prometheus reads them: nothing of ids, names, URLs or clients."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from tarstream.errors import OriginBroken
from tarstream.observer import Observer
from tarstream.tally import Across, Share

OUTCOMES = (
    "complete",
    "client left",
    "client stalled",
    "failed",
    "cut at shutdown",
    "internal error",
)
"""How the sending of an archive may end."""

Full = Literal["full", "draining"]

# They double what is shown, and Prometheus makes no use of them.
disable_created_metrics()  # type: ignore[no-untyped-call]

_FIRST_BYTE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # seconds
_WHOLE = (0.01, 0.1, 1, 10, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600)  # seconds


PUBLISHED_EVERY = 1.0
"""Seconds: how old the numbers of other workers may be, and what is lost of one that is killed."""


class Metrics(Observer):
    """The numbers of one process; with a share in a tally, those of all of them are shown."""

    def __init__(self, share: Share | None = None) -> None:
        self._share = share
        self._across: dict[str, Across] = {
            # Each process has a limit of its own, and the fullest one reaches it first.
            "process_open_fds": max,
            "process_max_fds": max,
            "process_start_time_seconds": min,
        }
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._archives = Counter(
            "tarstream_archives",
            "Archives, or ranges of them, that were sent or begun; by how that ended.",
            ["outcome"],
            registry=registry,
        )
        self._responses = Counter(
            "tarstream_responses",
            "Answers, by route and status. One that has begun keeps its status however it ends.",
            ["route", "status"],
            registry=registry,
        )
        self._rejected = Counter(
            "tarstream_rejected",
            "Requests for archives and plans that were answered 503: full, or draining.",
            ["reason"],
            registry=registry,
        )
        self._sent = Counter(
            "tarstream_sent_bytes", "Bytes of archives sent to clients.", registry=registry
        )
        self._spliced = Counter(
            "tarstream_spliced_bytes",
            "Of these, bytes that the kernel alone moved to clients.",
            registry=registry,
        )
        self._received = Counter(
            "tarstream_received_bytes",
            "Bytes of contents read from HTTP origins, those read again included.",
            registry=registry,
        )
        self._members = Counter(
            "tarstream_members",
            "Members of which all that was asked for has been sent.",
            registry=registry,
        )
        self._repairs = Counter(
            "tarstream_repairs",
            "Times that a member was opened again because its origin failed in the middle; by why.",
            ["cause"],
            registry=registry,
        )
        self._first_byte = Histogram(
            "tarstream_first_byte_seconds",
            "From the arrival of a request for an archive to the headers of its answer.",
            buckets=_FIRST_BYTE,
            registry=registry,
        )
        self._duration = Histogram(
            "tarstream_archive_seconds",
            "From the arrival of a request for an archive to its end, however it ended.",
            buckets=_WHOLE,
            registry=registry,
        )
        # From the start, so that the first one is seen as an increase.
        for outcome in OUTCOMES:
            self._archives.labels(_label(outcome))
        for reason in ("full", "draining"):
            self._rejected.labels(reason)
        for cause in OriginBroken.KINDS:
            self._repairs.labels(cause)
        for route in ("/archive", "/plan"):
            for status in (200, 500, 502, 503, 504):
                self._responses.labels(route, str(status))

    def show(self, name: str, help_: str, value: Callable[[], float], across: Across = sum) -> None:
        """Show a number as it is whenever it is asked for; of several processes `across` them."""
        self._across[f"tarstream_{name}"] = across
        Gauge(f"tarstream_{name}", help_, registry=self._registry).set_function(value)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All numbers, and the media type of that; `accept` as the header of a request says it."""
        encode, media_type = choose_encoder(accept)
        if self._share is None:
            return encode(self._registry), media_type
        return encode(self._share.sums(self._registry, self._across)), media_type

    @asynccontextmanager
    async def published(self) -> AsyncIterator[None]:
        """Let other processes see these numbers meanwhile."""
        publishing = asyncio.create_task(self._publish())
        try:
            yield
        finally:
            publishing.cancel()
            with suppress(asyncio.CancelledError):
                await publishing

    async def _publish(self) -> None:
        assert self._share is not None
        while True:
            self._share.publish(self._registry)
            await asyncio.sleep(PUBLISHED_EVERY)

    def received(self, size: int) -> None:
        """See `Observer`."""
        self._received.inc(size)

    def repaired(self, cause: OriginBroken) -> None:
        """See `Observer`."""
        self._repairs.labels(cause.kind).inc()

    def member_sent(self) -> None:
        """See `Observer`."""
        self._members.inc()

    def sent(self, size: int) -> None:
        """See `Observer`."""
        self._sent.inc(size)

    def spliced(self, size: int) -> None:
        """See `Observer`."""
        self._spliced.inc(size)

    def answered(self, route: str, status: int) -> None:
        """A request was answered."""
        self._responses.labels(route, str(status)).inc()

    def rejected(self, reason: Full) -> None:
        """A request found no room."""
        self._rejected.labels(reason).inc()

    def begun(self, seconds: float) -> None:
        """The headers of an archive went out so long after its request came in."""
        self._first_byte.observe(seconds)

    def ended(self, outcome: str, seconds: float) -> None:
        """The sending of an archive ended so long after its request came in."""
        self._archives.labels(_label(outcome)).inc()
        self._duration.observe(seconds)


def _label(outcome: str) -> str:
    return outcome.replace(" ", "_")
