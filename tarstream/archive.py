"""Archives: planned from ids, and moved, part by part, to whoever asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from tarstream.catalogs.base import Caller
from tarstream.formats import FORMATS
from tarstream.layout import Layout, Member, is_strong, lay_out
from tarstream.resolve import Resolution, Resolver, in_steps
from tarstream.stores.base import Store
from tarstream.stores.limit import Slots
from tarstream.transfer import Reach, Transfer


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive: all of it but the contents of its members."""

    layout: Layout
    resolution: Resolution

    @property
    def size(self) -> int:
        """Bytes."""
        return self.layout.size

    @property
    def etag(self) -> str | None:
        """Entity-tag, quotes included; see `Layout`."""
        return self.layout.etag

    @property
    def tag(self) -> str | None:
        """A strong entity-tag without its quotes, as `version` takes it; None when it is weak."""
        etag = self.layout.etag
        return etag.strip('"') if etag is not None and is_strong(etag) else None


@dataclass(frozen=True, slots=True)
class Archives:
    """Plans archives and opens transfers; what all requests share."""

    resolver: Resolver
    store: Store
    slots: Slots
    reach: Reach

    async def plan(
        self, ids: Sequence[str], format_: str, caller: Caller, *, skip_missing: bool
    ) -> Archive:
        """The archive of `ids`; see `Resolver.resolve` for what it raises."""
        resolution = await self.resolver.resolve(ids, caller, skip_missing=skip_missing)
        layout = await in_steps(lay_out(FORMATS[format_], resolution.members))
        return Archive(layout, resolution)

    def transfer(self, archive: Archive, start: int, stop: int) -> Transfer:
        """A transfer of the bytes [start, stop) of an archive."""
        return Transfer(archive.layout.slice(start, stop), self.store, self.slots, self.reach)

    async def forget(self, member: Member) -> None:
        """Forget what was remembered of a member that changed."""
        await self.resolver.forget(member.source)
