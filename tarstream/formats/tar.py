"""The pax interchange format (POSIX.1-2001), with headers from the standard library's tarfile.

Owner 0:0 and mode 0644 everywhere, so that the same members give the same bytes everywhere.
"""

from tarfile import BLOCKSIZE, NUL, PAX_FORMAT, TarInfo

from tarstream.layout import Member

MEDIA_TYPE = "application/x-tar"
SUFFIX = "tar"

_TRAILER = NUL * (2 * BLOCKSIZE)  # POSIX ustar: "two 512-byte logical records of binary zeros"

_OCTAL_SIZES = 8**11  # bytes: what eleven octal digits can say is less, 8 GiB

_MOST_LENGTHS = 1 << 16  # entries; a gateway meets some hundred, unless somebody wants it to grow

_lengths: dict[tuple[bool, int, int, int, int, int], int] = {}
"""Header lengths by shape, see `measure`."""


def before(member: Member) -> bytes:
    """The header: one block, preceded by a pax header where a field outgrows ustar."""
    info = TarInfo(member.name)
    info.size = member.size
    info.mtime = member.mtime
    info.mode = 0o644
    # Explicit encoding and error handler: the defaults depend on the locale.
    header = info.tobuf(PAX_FORMAT, "utf-8", "strict")
    return header if member.size < _OCTAL_SIZES else _with_size(header, member.size)


def after(member: Member) -> bytes:
    """The padding up to the next block."""
    return NUL * (-member.size % BLOCKSIZE)


def trailer() -> bytes:
    """Two blocks of zeros: enough for GNU tar, bsdtar, busybox, 7z and Python."""
    return _TRAILER


def measure(member: Member) -> tuple[int, int]:
    """Lengths of header and padding.

    A header's length is that of a header which `before` rendered for a member of the same shape;
    there is no second formula. tarfile looks at whether a name is ASCII, and else at nothing but
    lengths and ranges.
    """
    name, size, mtime = member.name, member.size, member.mtime
    ascii_ = name.isascii()
    shape = (
        ascii_,
        len(name) if ascii_ else len(name.encode()),
        size.bit_length(),
        len(str(size)),
        mtime.bit_length(),
        len(str(mtime)),
    )
    length = _lengths.get(shape)
    if length is None:
        if len(_lengths) >= _MOST_LENGTHS:
            _lengths.clear()
        length = _lengths[shape] = len(before(member))
    return length, -size % BLOCKSIZE


def _with_size(header: bytes, size: int) -> bytes:
    """`header` with the size in its last block too, base-256 as GNU tar writes it.

    tarfile leaves 0 there, for the pax header overrides it. But busybox does not read it from
    there, and would take the contents for the headers that follow, or for the end.
    """
    block = bytearray(header[-BLOCKSIZE:])
    block[124:136] = b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8  # the checksum is counted with blanks in its own place
    block[148:156] = b"%06o\0 " % sum(block)
    return header[:-BLOCKSIZE] + bytes(block)
