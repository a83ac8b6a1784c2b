"""What an archive is asked for as, and how who receives it knows that it is whole."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from typing import NamedTuple

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LISTING = "SHA256SUMS"


class Form(NamedTuple):
    """A format, and whether a listing of digests is asked for."""

    format: str
    checksums: bool = False

    @property
    def parameters(self) -> Mapping[str, str]:
        """Of its URL."""
        named = {} if self.format == "tar" else {"format": self.format}
        return named | ({"checksums": "sha256"} if self.checksums else {})

    @property
    def is_zip(self) -> bool:
        """Whether it ends in a directory that states the CRC-32 of all contents."""
        return self.format == "zip"

    @property
    def compressed(self) -> bool:
        """Whether it has no length, no ranges and no version, but an end of its own."""
        return self.format in UNPACK

    @property
    def follows(self) -> bool:
        """Whether bytes of it follow from contents that stand before them."""
        return self.is_zip or self.checksums

    def __str__(self) -> str:
        return self.format + (f", {LISTING}" if self.checksums else "")


TAR, ZIP, GZIP, ZSTD = Form("tar"), Form("zip"), Form("tar.gz"), Form("tar.zst")
SUMMED_TAR, SUMMED_ZIP = Form("tar", checksums=True), Form("zip", checksums=True)

FORMS = {TAR: 60, ZIP: 18, GZIP: 6, ZSTD: 6, SUMMED_TAR: 5, SUMMED_ZIP: 5}
"""How often each is asked for."""

UNPACK: Mapping[str, tuple[str, ...]] = {"tar.gz": ("-z",), "tar.zst": ("--zstd",)}
"""What GNU tar is told of the compressed ones."""


def unpacked(format_: str, received: bytes) -> tuple[bytes, bool]:
    """What a decompressor makes of it, and whether it found the end.

    Raises ValueError when it is not of that format at all.
    """
    gzip = format_ == "tar.gz"
    decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS) if gzip else zstd.ZstdDecompressor()
    try:
        body = decompressor.decompress(received)
    except (zlib.error, zstd.ZstdError) as error:
        raise ValueError(str(error)) from error
    if decompressor.unused_data:
        raise ValueError(f"{len(decompressor.unused_data)} bytes beyond its end")
    return body, decompressor.eof
