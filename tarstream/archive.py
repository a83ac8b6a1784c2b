"""Archives: planned from ids, and moved, part by part, to whoever asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from tarstream.catalogs.base import Caller
from tarstream.digests import DigestKey, Digests, affordable
from tarstream.formats import FORMATS
from tarstream.layout import Layout, Member, is_strong, lay_out
from tarstream.memory import Memory
from tarstream.resolve import Resolution, Resolver, in_steps
from tarstream.transfer import Supply, Transfer


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
    supply: Supply
    remembered: Memory[DigestKey, str]
    reread_bytes: int = 0
    """Contents that may be read without being sent, for the digests that a part follows from."""

    async def plan(
        self,
        ids: Sequence[str],
        format_: str,
        caller: Caller,
        *,
        skip_missing: bool,
        checksums: str | None = None,
    ) -> Archive:
        """The archive of `ids`; see `Resolver.resolve` for what it raises."""
        format = FORMATS[format_]  # noqa: A001 - format is the field's word
        resolution = await self.resolver.resolve(
            ids, caller, skip_missing=skip_missing, checksums=checksums, mend=format.mend
        )
        layout = await in_steps(lay_out(format, resolution.members))
        return Archive(layout, resolution)

    async def digests(self, archive: Archive, start: int, stop: int) -> Digests | None:
        """What the bytes [start, stop) follow from that does not pass with them.

        None when more than `reread_bytes` would have to be read for it, or anything for checksums.
        """
        layout = archive.layout
        digests = Digests(layout.algorithms, self.remembered)
        await digests.look_up(layout.beforehand(start, stop))
        deferred = layout.format.DIGEST
        return digests if affordable(digests.unread, deferred, self.reread_bytes) else None

    async def seekable(self, archive: Archive) -> bool:
        """Whether any part of it may be asked for now: all of its trailer, at worst."""
        if not archive.layout.seekable:
            return False
        start = archive.layout.described_start
        return await self.digests(archive, start, archive.size) is not None

    def transfer(self, archive: Archive, start: int, stop: int, digests: Digests) -> Transfer:
        """A transfer of the bytes [start, stop) of an archive."""
        pieces = archive.layout.slice(start, stop)
        return Transfer(pieces, digests, self.supply)

    async def forget(self, member: Member) -> None:
        """Forget what was remembered of a member that changed."""
        await self.resolver.forget(member.source)
