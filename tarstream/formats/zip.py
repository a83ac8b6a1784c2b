"""Zip, stored (PKWARE APPNOTE 6.3.10): contents as they are, Zip64 only where a field overflows.

A member whose CRC-32 is stated stands with it in its local header, and every reader takes it from a
pipe. Otherwise a data descriptor follows its contents, whose CRC-32 is that of what was sent.
"""

import struct
import time
from datetime import UTC, datetime

from tarstream import names
from tarstream.layout import Deferred, Member, Part, length_of

MEDIA_TYPE = "application/zip"
SUFFIX = "zip"
DIGEST = "crc32"
mend = names.mend_for_windows  # who asks for zip may be on Windows

_MOST = 0xFFFFFFFF  # what four bytes can say: it means "see the Zip64 extra field" (4.4.8)
_MOST_ENTRIES = 0xFFFF  # 4.4.21

_DESCRIBED = 1 << 3  # flag: a data descriptor follows the contents (4.4.4)
_UTF8 = 1 << 11  # flag: the name is UTF-8 (appendix D)

_STORED_VERSION, _ZIP64_VERSION = 20, 45  # 4.4.3.2
_BY_UNIX = 3 << 8  # 4.4.2: external attributes are a Unix mode
_FILE = 0o100644 << 16
_DIRECTORY = 0o40755 << 16 | 0x10  # and as DOS says it (4.4.15)

_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_ENTRY = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_DESCRIPTOR = struct.Struct("<4s3L")  # 4.3.9
_DESCRIPTOR64 = struct.Struct("<4sL2Q")  # 4.3.9.2
_TIMESTAMP = struct.Struct("<2HBl")  # "UT", 5, bits, mtime: as Info-ZIP writes it
_LATEST = 2**31 - 1  # of it, in seconds since the epoch
_FIRST = int(datetime(1980, 1, 1, tzinfo=UTC).timestamp())
_LAST = int(datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp())

_lengths: dict[tuple[int, bool, bool, bool, bool], tuple[int, int, int]] = {}
"""By shape, see `measure`."""


def before(member: Member) -> bytes:
    """The local header (4.3.7)."""
    crc = member.digest(DIGEST)
    large = member.size >= _MOST
    # Where a descriptor follows, CRC and sizes stand there, and here are zeros (4.4.4 bit 3).
    size = member.size if crc else 0
    extra = _timestamp(member)
    if large:
        extra += struct.pack("<2H2Q", 1, 16, size, size)
    name = member.name.encode()
    return (
        _LOCAL.pack(
            b"PK\3\4",
            _ZIP64_VERSION if large else _STORED_VERSION,
            _flags(member),
            0,
            *_dos_time(member),
            int(crc or "0", 16),
            _MOST if large else size,
            _MOST if large else size,
            len(name),
            len(extra),
        )
        + name
        + extra
    )


def after(member: Member) -> Part:
    """The data descriptor (4.3.9), where the CRC-32 is not known beforehand."""
    if member.digest(DIGEST):
        return b""
    form = _DESCRIPTOR64 if member.size >= _MOST else _DESCRIPTOR

    def render(crc: str) -> bytes:
        return form.pack(b"PK\7\x08", int(crc, 16), member.size, member.size)

    return Deferred(form.size, member, DIGEST, render)


def entry(member: Member, start: int) -> Part:
    """The central directory header (4.3.12) of a member whose local header begins at `start`."""
    overflowing = [value for value in (member.size, member.size, start) if value >= _MOST]
    extra = _timestamp(member)
    if overflowing:
        extra += struct.pack(f"<2H{len(overflowing)}Q", 1, 8 * len(overflowing), *overflowing)
    name = member.name.encode()
    size = min(member.size, _MOST)
    version = _ZIP64_VERSION if overflowing else _STORED_VERSION

    def render(crc: str) -> bytes:
        fixed = _ENTRY.pack(
            b"PK\1\2",
            _BY_UNIX | version,
            version,
            _flags(member),
            0,
            *_dos_time(member),
            int(crc, 16),
            size,
            size,
            len(name),
            len(extra),
            0,
            0,
            0,
            _DIRECTORY if member.is_directory else _FILE,
            min(start, _MOST),
        )
        return fixed + name + extra

    crc = member.digest(DIGEST)
    if crc:
        return render(crc)
    return Deferred(_ENTRY.size + len(name) + len(extra), member, DIGEST, render)


def end(number: int, start: int, size: int) -> bytes:
    """The end of central directory record (4.3.16); Zip64's before it where one overflows."""
    zip64 = b""
    if number >= _MOST_ENTRIES or start >= _MOST or size >= _MOST:
        version = _ZIP64_VERSION
        length = _END64.size - 12  # of what follows
        zip64 = _END64.pack(
            b"PK\6\6", length, _BY_UNIX | version, version, 0, 0, number, number, size, start
        )
        zip64 += _LOCATOR.pack(b"PK\6\7", 0, start + size, 1)
    number = min(number, _MOST_ENTRIES)
    return zip64 + _END.pack(
        b"PK\5\6", 0, 0, number, number, min(size, _MOST), min(start, _MOST), 0
    )


def measure(member: Member, start: int) -> tuple[int, int, int]:
    """Lengths of local header, data descriptor and central directory header.

    They are those that were rendered for a member of the same shape; there is no second formula.
    """
    shape = (
        len(member.name.encode()),
        member.size >= _MOST,
        member.mtime > _LATEST,
        member.digest(DIGEST) is None,
        start >= _MOST,
    )
    lengths = _lengths.get(shape)
    if lengths is None:
        # No more than some ten thousand: names have at most 1,024 bytes.
        lengths = _lengths[shape] = (
            len(before(member)),
            length_of(after(member)),
            length_of(entry(member, start)),
        )
    return lengths


def _flags(member: Member) -> int:
    described = 0 if member.digest(DIGEST) else _DESCRIBED
    return described | (0 if member.name.isascii() else _UTF8)


def _timestamp(member: Member) -> bytes:
    """The extended timestamp, UTC and whole seconds, where DOS time has neither."""
    if member.mtime > _LATEST:
        return b""
    return _TIMESTAMP.pack(0x5455, 5, 1, member.mtime)


def _dos_time(member: Member) -> tuple[int, int]:
    """Time and date as DOS has them (4.4.6): from 1980 to 2107, every other second; here UTC."""
    moment = time.gmtime(min(max(member.mtime, _FIRST), _LAST))
    return (
        moment.tm_hour << 11 | moment.tm_min << 5 | moment.tm_sec >> 1,
        (moment.tm_year - 1980) << 9 | moment.tm_mon << 5 | moment.tm_mday,
    )
