"""The pax interchange format (POSIX.1-2001), with headers from the standard library's tarfile.

Owner 0:0 and mode 0644 everywhere, so that the same members give the same bytes everywhere.
"""

from tarfile import BLOCKSIZE, NUL, PAX_FORMAT, TarInfo

from tarstream.layout import Member

MEDIA_TYPE = "application/x-tar"
SUFFIX = "tar"

_TRAILER = NUL * (2 * BLOCKSIZE)  # POSIX ustar: "two 512-byte logical records of binary zeros"

_lengths: dict[tuple[int, ...], int] = {}
"""Header lengths by shape, see `measure`. Bounded by what names and numbers can look like."""


def before(member: Member) -> bytes:
    """The header: one block, preceded by a pax header where a field outgrows ustar."""
    info = TarInfo(member.name)
    info.size = member.size
    info.mtime = member.mtime
    info.mode = 0o644
    # Explicit encoding and error handler: the defaults depend on the locale.
    return info.tobuf(PAX_FORMAT, "utf-8", "strict")


def after(member: Member) -> bytes:
    """The padding up to the next block."""
    return NUL * (-member.size % BLOCKSIZE)


def trailer() -> bytes:
    """Two blocks of zeros: enough for GNU tar, bsdtar, busybox, 7z and Python."""
    return _TRAILER


def measure(member: Member) -> tuple[int, int]:
    """Lengths of header and padding.

    A header's length is that of a header which `before` rendered for a member of the same shape;
    there is no second formula. For ASCII names tarfile looks at nothing but lengths and ranges.
    """
    name, size, mtime = member.name, member.size, member.mtime
    if not name.isascii():
        return len(before(member)), -size % BLOCKSIZE
    shape = (len(name), size.bit_length(), len(str(size)), mtime.bit_length(), len(str(mtime)))
    length = _lengths.get(shape)
    if length is None:
        length = _lengths[shape] = len(before(member))
    return length, -size % BLOCKSIZE
