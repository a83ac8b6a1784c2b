"""From settings to archives: the parts, put together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from socket import socket
from weakref import WeakSet

from tarstream.archive import Archives
from tarstream.catalogs.base import Catalog
from tarstream.config import Settings
from tarstream.digests import DigestKey
from tarstream.memory import LocalMemory
from tarstream.metrics import Metrics
from tarstream.portion import MOST
from tarstream.resolve import Limits, Resolver
from tarstream.stores import Upstream, open_stores
from tarstream.stores.credentials import Credentials
from tarstream.stores.guard import Policy
from tarstream.stores.limit import Slots
from tarstream.transfer import Reach, Supply

_DIGESTS = 100_000  # remembered; about 30 MiB
_REMEMBERED = 50_000  # answers to HEAD, at least; a few archives of any size that is allowed


@asynccontextmanager
async def open_archives(
    settings: Settings, catalog: Catalog, credentials: Credentials, metrics: Metrics
) -> AsyncIterator[Archives]:
    """Archives of what a catalog knows; closes what they hold open."""
    sockets: WeakSet[socket] = WeakSet()
    metrics.show(
        "upstream_connections",
        "Connections to HTTP origins that are open, those kept for later included.",
        lambda: sum(each.fileno() != -1 for each in sockets),
    )
    upstream, limits = settings.upstream, settings.limits
    slots = Slots(upstream.connections, upstream.ahead_total_bytes)
    async with AsyncExitStack() as stack:
        guard, store = open_stores(
            Upstream(
                policy=Policy(upstream.allow),
                connect_timeout=upstream.connect_timeout,
                read_timeout=upstream.read_timeout,
                patience=upstream.patience,
                attempts=upstream.attempts,
                min_rate=upstream.min_rate,
                sendfile=upstream.sendfile,
                credentials=credentials,
                observer=metrics,
                sockets=sockets,
            ),
            slots,
            stack,
        )
        resolver = Resolver(
            catalog,
            guard,
            store,
            LocalMemory(upstream.remember, limit=max(_REMEMBERED, 5 * limits.max_members)),
            Limits(
                limits.max_members,
                limits.max_bytes,
                upstream.plan_timeout,
                slots.at_once,
            ),
        )
        reach = Reach(upstream.ahead, upstream.ahead_bytes)
        remembered: LocalMemory[DigestKey, str] = LocalMemory(inf, limit=_DIGESTS)
        supply = Supply(store, slots, reach, metrics, settings.server.zero_copy)
        _keep_memory()
        yield Archives(resolver, supply, remembered, settings.zip.reread_bytes)


def _keep_memory() -> None:
    """Have the process keep the memory of pieces of members.

    glibc gives large blocks back to the kernel, which clears the pages of the next one: that costs
    as much as all the rest. Those that are not larger than one that was freed before, it keeps.
    """
    bytes(2 * MOST)
