"""From settings to archives: the parts, put together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tarstream.archive import Archives
from tarstream.catalogs.base import Catalog
from tarstream.config import Settings
from tarstream.memory import LocalMemory
from tarstream.resolve import Limits, Resolver
from tarstream.stores import Upstream, open_stores
from tarstream.stores.guard import Policy
from tarstream.stores.limit import Slots
from tarstream.transfer import Reach

_REMEMBERED = 50_000  # answers to HEAD, at least; a few archives of any size that is allowed


@asynccontextmanager
async def open_archives(settings: Settings, catalog: Catalog) -> AsyncIterator[Archives]:
    """Archives of what a catalog knows; closes what they hold open."""
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
            ),
            slots,
            stack,
        )
        resolver = Resolver(
            catalog,
            guard,
            store,
            LocalMemory(upstream.remember, limit=max(_REMEMBERED, 5 * limits.max_members)),
            Limits(limits.max_members, limits.max_bytes, upstream.plan_timeout),
        )
        reach = Reach(upstream.ahead, upstream.ahead_bytes)
        yield Archives(resolver, store, slots, reach)
