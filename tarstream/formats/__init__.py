"""How archives are laid out: a module is a format, a line in `FORMATS` makes it known."""

from collections.abc import Mapping
from typing import NamedTuple

from tarstream.formats import tar, zip  # noqa: A004 - so it is called
from tarstream.layout import Format

FORMATS: Mapping[str, Format] = {"tar": tar, "zip": zip}
"""What an archive may be laid out as."""


class Kind(NamedTuple):
    """What an archive is sent as: as it is laid out, or compressed on its way out."""

    format: str
    """In `FORMATS`."""
    media_type: str
    suffix: str
    coding: str | None = None
    """How it is compressed, by HTTP's name for it. Its length and its bytes are then not known."""

    def etag(self, etag: str | None) -> str | None:
        """The entity-tag, from that of the layout: weak when compressed, for bytes may differ."""
        if etag is None or self.coding is None:
            return etag
        return 'W/"{}-{}"'.format(etag.removeprefix("W/").strip('"'), self.coding)


KINDS: Mapping[str, Kind] = {
    **{name: Kind(name, each.MEDIA_TYPE, each.SUFFIX) for name, each in FORMATS.items()},
    "tar.gz": Kind("tar", "application/gzip", "tar.gz", "gzip"),
    "tar.zst": Kind("tar", "application/zstd", "tar.zst", "zstd"),
}
"""What `format=` may say, and the suffix of a path."""

CHECKSUMS: Mapping[str, str] = {"sha256": "SHA256SUMS"}
"""What `checksums=` may say, an algorithm, and what the member that lists the digests is called."""
