"""The pax interchange format (POSIX.1-2001), with headers from the standard library's tarfile.

Owner 0:0, mode 0644 for files and 0755 for directories, so that the same members give the same
bytes everywhere.
"""

from tarfile import BLOCKSIZE, DIRTYPE, LENGTH_NAME, NUL, PAX_FORMAT, REGTYPE, TarInfo

from tarstream import names
from tarstream.layout import Member

MEDIA_TYPE = "application/x-tar"
SUFFIX = "tar"
DIGEST = None
mend = names.mend

_TRAILER = NUL * (2 * BLOCKSIZE)  # POSIX ustar: "two 512-byte logical records of binary zeros"

_OCTAL = 8**11  # what eleven octal digits can say is less: 8 GiB, or seconds until 2242

_BLANK = TarInfo().tobuf(PAX_FORMAT)
"""The header of an empty file without name and time."""

# The checksum is that of the header with blanks in its own place, and digits count for it.
_BLANK_SUM = sum(_BLANK[:124]) + 8 * ord(" ") + sum(_BLANK[156:])
_BEFORE_SIZE = _BLANK[LENGTH_NAME:124]
_AFTER_CHECKSUM = _BLANK[154:]

_MOST_LENGTHS = 1 << 16  # entries; a gateway meets some hundred, unless somebody wants it to grow

_lengths: dict[tuple[bool, int, int, int, int, int], int] = {}
"""Header lengths by shape, see `measure`."""


def before(member: Member) -> bytes:
    """The header: one block, preceded by a pax header where a field outgrows ustar."""
    name, size, mtime = member.name, member.size, member.mtime
    plain = name.isascii() and len(name) <= LENGTH_NAME and not member.is_directory
    if plain and size < _OCTAL and mtime < _OCTAL:
        return _filled_in(name.encode(), size, mtime)
    info = TarInfo(name)
    info.size = size
    info.mtime = mtime
    info.type = DIRTYPE if member.is_directory else REGTYPE
    info.mode = 0o755 if member.is_directory else 0o644
    header = info.tobuf(PAX_FORMAT)  # in which names are UTF-8, whatever the locale
    return header if size < _OCTAL else _with_size(header, size)


def after(member: Member) -> bytes:
    """The padding up to the next block."""
    return NUL * (-member.size % BLOCKSIZE)


def entry(member: Member, start: int) -> bytes:
    """Nothing: a tar has no directory."""
    return b""


def end(number: int, start: int, size: int) -> bytes:
    """Two blocks of zeros: enough for GNU tar, bsdtar, busybox, 7z and Python."""
    return _TRAILER


def measure(member: Member, start: int) -> tuple[int, int, int]:
    """Lengths of header and padding, and of nothing.

    A header's length is that of a header which `before` rendered for a member of the same shape;
    there is no second formula. tarfile looks at whether a name is ASCII, and else at nothing but
    lengths and ranges; a directory's header is as long as a file's.
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
    return length, -size % BLOCKSIZE, 0


def _filled_in(name: bytes, size: int, mtime: int) -> bytes:
    """The header of a file whose name, size and time ustar has room for.

    All but these is as tarfile made it once, which takes ten times as long.
    """
    numbers = b"%011o\0%011o\0" % (size, mtime)
    checksum = _BLANK_SUM + sum(name) + sum(numbers)
    return b"%b%b%b%06o%b" % (
        name.ljust(LENGTH_NAME, NUL),
        _BEFORE_SIZE,
        numbers,
        checksum,
        _AFTER_CHECKSUM,
    )


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
