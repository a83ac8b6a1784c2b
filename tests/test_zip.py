"""Zip, field by field and whatever the size, and the same bytes everywhere.

The files in golden/ were made by `.venv/bin/python tests/test_zip.py` on Python 3.11. Bytes that
change need another `LAYOUT_VERSION`: an entity-tag must not stand for two archives.
"""

import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_formats import READERS, READERS_OF_STATED, extract
from test_layout import Opened, assemble, contents, crc_of, member, rendered, stating

from tarstream import names
from tarstream.formats import zip as zip_
from tarstream.layout import Layout

GOLDEN = Path(__file__).parent / "golden"
MOST = 0xFFFFFFFF
EDGES = [MOST - 1, MOST, MOST + 1]  # 4 GiB - 2, 4 GiB - 1, 4 GiB: from the second on Zip64

MOMENT = 1_700_000_001  # 2023-11-14 22:13:21 UTC
DOS_TIME = (22 << 11 | 13 << 5 | 10, 43 << 9 | 11 << 5 | 14)
TIMESTAMP = struct.pack("<2HBl", 0x5455, 5, 1, MOMENT)

WHOLE = [
    member("empty", 0, 0),
    member("one", 1, 1),
    stating(member("stated.bin", 511, MOMENT)),
    stating(member("Grüße/日本語/😀.txt", 20, 2**31 - 1)),
    member("é", 700, 2**31, "Sun, 06 Nov 1994 08:49:37 GMT"),
    member("d/" * 511 + "ff", 3, 2**62 - 1),
    stating(member("nothing", 0, 315_532_800)),
]
WHOLE_ETAG = '"4efee6775085bb8eaf0ffb12fd8e6529"'


# As the gateway states everything of them.
DIRECTORIES = [
    *map(stating, [member("a/", 0, MOMENT), member("Grüße/日本語/"), member("d/" * 512)]),
    member("a/one", 1),
]


def whole_archive(members=WHOLE):
    layout = Layout(zip_, members)
    return assemble(layout.slice(0, layout.size))


def large_headers():
    """What is rendered of large members, and at large offsets."""
    parts = []
    for size in EDGES:
        for each in (member("unstated", size, MOMENT), stating(member("stated", size, MOMENT))):
            parts += [zip_.before(each), rendered(zip_.after(each))]
            parts += [rendered(zip_.entry(each, start)) for start in (0, *EDGES)]
    parts += [zip_.end(number, 7, 9) for number in (0, 65_534, 65_535, 65_536)]
    parts += [zip_.end(1, start, 9) + zip_.end(1, 7, start) for start in EDGES]
    return b"".join(parts)


# Fields, written down as APPNOTE has them.


def test_a_local_header_whose_crc_is_stated():
    it = member("a.txt", 5, MOMENT, digests=(("crc32", "0a0b0c0d"),))
    expected = struct.pack(
        "<L5H3L2H", 0x04034B50, 20, 0, 0, *DOS_TIME, 0x0A0B0C0D, 5, 5, 5, len(TIMESTAMP)
    )
    assert zip_.before(it) == expected + b"a.txt" + TIMESTAMP
    assert zip_.after(it) == b""


def test_a_local_header_whose_crc_is_not_stated():
    """CRC and sizes stand in the descriptor behind the contents; bit 3 says so."""
    it = member("a.txt", 5, MOMENT)
    expected = struct.pack("<L5H3L2H", 0x04034B50, 20, 8, 0, *DOS_TIME, 0, 0, 0, 5, len(TIMESTAMP))
    assert zip_.before(it) == expected + b"a.txt" + TIMESTAMP
    assert zip_.after(it).render("0a0b0c0d") == struct.pack("<4L", 0x08074B50, 0x0A0B0C0D, 5, 5)


def test_an_entry_of_the_central_directory():
    it = member("é", 5, MOMENT)
    expected = struct.pack(
        "<L6H3L5H2L", 0x02014B50, 3 << 8 | 20, 20, 8 | 1 << 11, 0, *DOS_TIME,
        0x0A0B0C0D, 5, 5, 2, len(TIMESTAMP), 0, 0, 0, 0o100644 << 16, 77,
    )  # fmt: skip
    assert zip_.entry(it, 77).render("0a0b0c0d") == expected + "é".encode() + TIMESTAMP
    stated = it._replace(digests=(("crc32", "0a0b0c0d"),))
    flags = struct.pack("<H", 1 << 11)
    assert zip_.entry(stated, 77) == expected[:8] + flags + expected[10:] + "é".encode() + TIMESTAMP


def test_a_directory_is_one_to_unix_and_to_dos():
    """4.4.15; without contents, and without a descriptor, where its CRC-32 is stated."""
    it = stating(member("é/", 0, MOMENT))
    expected = struct.pack(
        "<L6H3L5H2L", 0x02014B50, 3 << 8 | 20, 20, 1 << 11, 0, *DOS_TIME,
        0, 0, 0, 3, len(TIMESTAMP), 0, 0, 0, 0o40755 << 16 | 0x10, 77,
    )  # fmt: skip
    assert zip_.entry(it, 77) == expected + "é/".encode() + TIMESTAMP
    assert zip_.after(it) == b""
    layout = Layout(zip_, [it, member("f", 1)])
    archive = assemble(layout.slice(0, layout.size))
    directory, file = zipfile.ZipFile(io.BytesIO(archive)).infolist()
    assert (directory.is_dir(), directory.filename, directory.file_size) == (True, "é/", 0)
    assert not file.is_dir()


@pytest.mark.parametrize(("name", "flag"), [("a b", 0), ("é", 1 << 11), ("日本", 1 << 11)])
def test_both_headers_say_that_a_name_is_utf_8(name, flag):
    it = stating(member(name, 1))
    assert struct.unpack_from("<H", zip_.before(it), 6)[0] == flag
    assert struct.unpack_from("<H", zip_.entry(it, 0), 8)[0] == flag


def extra_fields(extra):
    """By header ID (4.5.1)."""
    found = {}
    while extra:
        kind, size = struct.unpack_from("<2H", extra)
        assert kind not in found
        found[kind], extra = extra[4 : 4 + size], extra[4 + size :]
    return found


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize("size", [0, 1, *EDGES, 2**62])
def test_a_member_is_zip64_only_where_its_size_overflows(size, stated):
    it = member("a", size, MOMENT)
    it = stating(it) if stated else it
    header = zip_.before(it)
    version, crc, packed, unpacked = (
        struct.unpack_from("<H", header, 4)[0],
        *struct.unpack_from("<3L", header, 14),
    )
    fields = extra_fields(header[31:])
    known = size if stated else 0  # where a descriptor follows, zeros (4.4.4)
    assert crc == (int(crc_of(it), 16) if stated else 0)
    if size < MOST:
        assert (version, packed, unpacked, 1 in fields) == (20, known, known, False)
    else:
        # 4.5.3: in a local header both sizes, always.
        assert (version, packed, unpacked) == (45, MOST, MOST)
        assert fields[1] == struct.pack("<2Q", known, known)
    descriptor = rendered(zip_.after(it))
    if stated:
        assert descriptor == b""
    else:
        # 4.3.9.2: eight bytes for each size exactly where the local header is Zip64.
        sizes = struct.pack("<2Q" if size >= MOST else "<2L", size, size)
        assert descriptor == b"PK\7\x08" + struct.pack("<L", int(crc_of(it), 16)) + sizes


@pytest.mark.parametrize("start", [0, *EDGES, 2**62])
@pytest.mark.parametrize("size", [0, 1, *EDGES, 2**62])
def test_an_entry_is_zip64_only_where_size_or_offset_overflows(size, start):
    entry = rendered(zip_.entry(member("a", size, MOMENT), start))
    version = struct.unpack_from("<H", entry, 6)[0]
    packed, unpacked = struct.unpack_from("<2L", entry, 20)
    offset = struct.unpack_from("<L", entry, 42)[0]
    fields = extra_fields(entry[47:])
    # 4.5.3: only those that are 0xFFFFFFFF, in this order.
    overflowing = [size, size] * (size >= MOST) + [start] * (start >= MOST)
    assert (packed, unpacked, offset) == (min(size, MOST), min(size, MOST), min(start, MOST))
    assert version == (45 if overflowing else 20)
    assert fields.get(1, b"") == struct.pack(f"<{len(overflowing)}Q", *overflowing)
    assert list(fields) == [0x5455] + [1] * bool(overflowing)


@pytest.mark.parametrize(
    ("number", "start", "size", "zip64"),
    [
        (0, 0, 0, False),
        (65_534, 1, 2, False),
        (65_535, 1, 2, True),
        (65_536, 1, 2, True),
        (1, MOST - 1, MOST - 1, False),
        (1, MOST, 2, True),
        (1, 1, MOST, True),
        (1, 2**62, 2**40, True),
    ],
)
def test_the_end_is_zip64_only_where_something_overflows(number, start, size, zip64):
    end = zip_.end(number, start, size)
    few, least = min(number, 0xFFFF), min(start, MOST)
    assert end[-22:] == struct.pack(
        "<L4H2LH", 0x06054B50, 0, 0, few, few, min(size, MOST), least, 0
    )
    if zip64:
        assert end[:-22] == struct.pack(
            "<LQ2H2L4Q", 0x06064B50, 44, 3 << 8 | 45, 45, 0, 0, number, number, size, start
        ) + struct.pack("<LLQL", 0x07064B50, 0, start + size, 1)
    else:
        assert end[:-22] == b""


@pytest.mark.parametrize(
    ("mtime", "moment", "stamped"),
    [
        (0, (1980, 1, 1, 0, 0, 0), True),
        (315_532_799, (1980, 1, 1, 0, 0, 0), True),
        (315_532_801, (1980, 1, 1, 0, 0, 0), True),
        (MOMENT, (2023, 11, 14, 22, 13, 20), True),
        (2**31 - 1, (2038, 1, 19, 3, 14, 6), True),
        (2**31, (2038, 1, 19, 3, 14, 8), False),
        (4_354_819_199, (2107, 12, 31, 23, 59, 58), False),
        (4_354_819_200, (2107, 12, 31, 23, 59, 58), False),
        (2**62, (2107, 12, 31, 23, 59, 58), False),
    ],
)
def test_dos_time_is_utc_and_held_to_its_limits(mtime, moment, stamped):
    """The extended timestamp is exact, as long as four bytes can say it."""
    layout = Layout(zip_, [member("a", 1, mtime)])
    archive = assemble(layout.slice(0, layout.size))
    [info] = zipfile.ZipFile(io.BytesIO(archive)).infolist()
    assert info.date_time == moment
    expected = {0x5455: struct.pack("<Bl", 1, mtime)} if stamped else {}
    assert extra_fields(info.extra) == expected


def test_lengths_that_are_remembered_are_bounded(monkeypatch):
    """Who chooses names, sizes and times must not choose how much memory they take."""
    monkeypatch.setattr(zip_, "_lengths", {})
    chosen = random.Random(1)
    for _ in range(2000):
        each = member(
            "n" * chosen.randint(1, 20), 1 << chosen.randint(0, 62), chosen.getrandbits(60)
        )
        zip_.measure(each, 1 << chosen.randint(0, 62))
    assert len(zip_._lengths) <= 20 * 2**4


@pytest.mark.parametrize(
    ("name", "mended"),
    [
        ('a<b>c:d"e|f?g*h', "a_b_c_d_e_f_g_h"),
        ("dir./b ", "dir_/b_"),
        ("a..", "a._"),
        ("a. .b", "a. .b"),
        ("CON", "CO_"),
        ("d/aux.h", "d/au_.h"),
        ("nul .txt/x", "nu_ .txt/x"),
        ("com1.tar.gz", "com_.tar.gz"),
        ("LPT³", "LPT_"),
        ("conin$", "conin_"),
        ("console", "console"),
        ("aux-1", "aux-1"),
        ("a.con", "a.con"),
        ("com10", "com10"),
        ("con.", "con_"),
        ("../NUL", "NU_"),
    ],
)
def test_names_are_mended_for_windows(name, mended):
    assert zip_.mend(name) == mended


@given(st.text(st.sampled_from("aCcOoNn.: /\\1m?é"), max_size=9))
def test_a_name_that_is_mended_for_windows_needs_no_mending(name):
    mended = zip_.mend(name)
    assert names.mend(mended) == zip_.mend(mended) == mended
    assert len(mended) == len(names.mend(name))
    assert all(segment[-1] not in ". " for segment in mended.split("/"))


# Large ones.


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize("size", EDGES)
def test_members_around_4_gib_by_layout(size, stated):
    """The standard library finds each where the layout says, and both ends of its contents."""
    # The second one begins within three bytes of 4 GiB, or has itself that size.
    names = ["first", "it", "after", "last"]
    header = len(zip_.before(member("first")))
    sizes = [size - header - (0 if stated else 16), size, 3, 7]
    members = [member(*each) for each in zip(names, sizes, strict=True)]
    members = [stating(each) for each in members] if stated else members
    layout = Layout(zip_, members)
    opened = Opened(layout)
    with zipfile.ZipFile(io.BufferedReader(opened)) as archive:
        found = archive.infolist()
        assert [(each.filename, each.file_size) for each in found] == list(
            zip(names, sizes, strict=True)
        )
        assert found[1].header_offset == size
        for index, (info, each) in enumerate(zip(found, members, strict=True)):
            assert int(crc_of(each), 16) == info.CRC
            assert info.header_offset + len(zip_.before(each)) == layout.content_start(index)
            with archive.open(info) as file:
                assert file.read(9) == contents(each, 0, 9)
            stop = layout.content_start(index) + each.size
            assert assemble(layout.slice(stop - 3, stop)) == contents(
                each, each.size - 3, each.size
            )
        assert archive.read("last") == contents(members[3], 0, 7)


@pytest.mark.parametrize("number", [65_534, 65_535, 65_536])
def test_members_around_65_536_by_layout(number):
    layout = Layout(zip_, [member(f"{index:x}", index % 3) for index in range(number)])
    ends = len(zip_.end(number, layout.trailer_start, 0))
    assert ends == (22 if number < 65_535 else 22 + 56 + 20)
    with zipfile.ZipFile(io.BufferedReader(Opened(layout), 1 << 20)) as archive:
        assert len(archive.infolist()) == number
        last = layout.members[-1]
        assert archive.read(last.name) == contents(last, 0, last.size)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A file with 65,536 members."""
    layout = Layout(zip_, [member(f"{index:x}", index % 3) for index in range(65_536)])
    path = tmp_path_factory.mktemp("many") / "many.zip"
    path.write_bytes(assemble(layout.slice(0, layout.size)))
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["unzip", "-tqq"],
        ["zip", "-qT"],
        ["7z", "t", "-bd"],
        ["bsdtar", "-xOf"],
        ["jar", "-tf"],
        [sys.executable, "-m", "zipfile", "-t"],
    ],
    ids=lambda command: command[0].rpartition("/")[2],
)
def test_readers_read_65_536_members(many, command):
    subprocess.run([*command, many], capture_output=True, check=True, timeout=100)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A member of 4 GiB of zeros, which take no room, and another one behind it."""
    members = [member("large", MOST + 1), member("last", 7)]
    layout = Layout(zip_, members)
    path = tmp_path_factory.mktemp("sparse") / "sparse.zip"
    with path.open("wb") as file:
        file.write(zip_.before(members[0]))
        file.seek(layout.content_start(0) + members[0].size)
        behind = layout.slice(file.tell(), layout.size)
        file.write(assemble(behind))
    return path


_LAST_BY_PYTHON = """
import sys, zipfile
with zipfile.ZipFile(sys.argv[2]) as archive:
    archive.extract("last", sys.argv[1])
"""

ONLY_LAST = {
    "unzip": ["unzip", "-q", "{archive}", "last", "-d", "{target}"],
    "7z": ["7z", "x", "-y", "-bd", "-o{target}", "{archive}", "last"],
    "bsdtar": ["bsdtar", "-xf", "{archive}", "-C", "{target}", "last"],
    "Python": [sys.executable, "-c", _LAST_BY_PYTHON, "{target}", "{archive}"],
    "Java's ZipFile": [*READERS["zip"]["Java's ZipFile"], "last"],
    "yauzl": [*READERS["zip"]["yauzl"], "last"],
}


@pytest.mark.parametrize("reader", ONLY_LAST)
def test_readers_find_what_lies_behind_4_gib(sparse, reader, tmp_path):
    done, files = extract(ONLY_LAST[reader], sparse, "zip", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in files] == [contents(member("last", 7), 0, 7)]


def test_busybox_says_that_it_cannot_read_zip64(sparse):
    done = subprocess.run(["busybox", "unzip", "-l", sparse], capture_output=True, check=False)
    assert done.returncode != 0


# Readers.


@pytest.mark.parametrize("stated", [False, True])
def test_zip_itself_finds_nothing_wrong(stated, tmp_path):
    members = [stating(each) if stated else each for each in WHOLE if each.digests == ()]
    layout = Layout(zip_, members)
    path = tmp_path / "archive.zip"
    path.write_bytes(assemble(layout.slice(0, layout.size)))
    done = subprocess.run(["zip", "-T", path], capture_output=True, check=True)
    assert b"OK" in done.stdout


@pytest.mark.parametrize("reader", READERS_OF_STATED["zip"])
def test_from_a_pipe_some_readers_refuse_a_crc_that_is_not_stated(reader, tmp_path):
    """They say so, and do not take part of an archive for the whole."""
    layout = Layout(zip_, [member("a", 9), member("b", 9)])
    archive = assemble(layout.slice(0, layout.size))
    done, files = extract(READERS_OF_STATED["zip"][reader], archive, "zip", tmp_path)
    assert done.returncode != 0
    assert files == []


READERS_OF_ALL = READERS["zip"] | READERS_OF_STATED["zip"]


@pytest.mark.parametrize("reader", ["unzip", "7z", "bsdtar", "bsdtar, from a pipe"])
def test_readers_set_the_time(reader, tmp_path):
    """Of those that set one at all, by the extended timestamp: busybox reads DOS time as local."""
    layout = Layout(zip_, [member("a", 3, MOMENT), stating(member("é", 3, 2**31 - 1))])
    archive = assemble(layout.slice(0, layout.size))
    done, files = extract(READERS["zip"][reader], archive, "zip", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.stat().st_mtime for path in files} == {"a": MOMENT, "é": 2**31 - 1}


@pytest.mark.parametrize(
    ("reader", "stated"),
    [(each, True) for each in READERS_OF_ALL] + [(each, False) for each in READERS["zip"]],
)
def test_readers_report_an_archive_that_is_cut_inside_contents(reader, stated, tmp_path):
    """Even where one byte of them is missing: that is where a download that fails is cut."""
    members = [member(name, 512) for name in "abc"]
    members = [stating(each) for each in members] if stated else members
    layout = Layout(zip_, members)
    start = layout.content_start(1)
    for place in (start + 1, start + 511):
        archive = assemble(layout.slice(0, place))
        done, _ = extract(READERS_OF_ALL[reader], archive, "zip", tmp_path / str(place))
        assert done.returncode != 0


LOOK_AT_NO_CRC = {"busybox", "busybox, from a pipe", "Java's ZipFile", "yauzl"}
"""Of what is stored, that is."""


@pytest.mark.parametrize("reader", READERS_OF_ALL)
def test_readers_report_a_wrong_crc(reader, tmp_path):
    """Most of them: they find out an origin that changes contents in silence."""
    members = [
        member(name, 512, digests=(("crc32", digest),))
        for name, digest in [("a", crc_of(member("a", 512))), ("b", "00000000")]
    ]
    layout = Layout(zip_, members)
    archive = assemble(layout.slice(0, layout.size))
    done, _ = extract(READERS_OF_ALL[reader], archive, "zip", tmp_path)
    assert (done.returncode == 0) == (reader in LOOK_AT_NO_CRC)


# The same bytes everywhere.


def test_the_bytes_are_those_of_the_golden_files():
    assert whole_archive() == (GOLDEN / "whole.zip").read_bytes()
    assert large_headers() == (GOLDEN / "large.zip.headers").read_bytes()
    assert whole_archive(DIRECTORIES) == (GOLDEN / "directories.zip").read_bytes()


def test_the_golden_archives_are_what_they_should_be():
    for name, members in [("whole.zip", WHOLE), ("directories.zip", DIRECTORIES)]:
        with zipfile.ZipFile(GOLDEN / name) as archive:
            assert archive.testzip() is None
            found = {info.filename: archive.read(info) for info in archive.infolist()}
        assert found == {each.name: contents(each, 0, each.size) for each in members}
        crcs = {int(crc_of(each), 16) for each in members}
        assert {zlib.crc32(data) for data in found.values()} == crcs


def test_the_entity_tag_of_the_golden_archive():
    assert Layout(zip_, WHOLE).etag == WHOLE_ETAG


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8", "TZ": "Pacific/Kiritimati"},
        {"TZ": "America/St_Johns", "PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": "2"},
    ],
    ids=str,
)
def test_bytes_and_entity_tag_are_the_same_in_any_environment(environment):
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_zip import WHOLE, Layout, hashlib, large_headers, zip_, whole_archive\n"
        "digest = hashlib.sha256(whole_archive() + large_headers()).hexdigest()\n"
        "sys.stdout.buffer.write(f'{digest} {Layout(zip_, WHOLE).etag}'.encode('ascii'))"
    )
    golden = (GOLDEN / "whole.zip").read_bytes() + (GOLDEN / "large.zip.headers").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", program, GOLDEN.parent, GOLDEN.parent.parent],
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == f"{hashlib.sha256(golden).hexdigest()} {WHOLE_ETAG}"


if __name__ == "__main__":
    (GOLDEN / "whole.zip").write_bytes(whole_archive())
    (GOLDEN / "large.zip.headers").write_bytes(large_headers())
    (GOLDEN / "directories.zip").write_bytes(whole_archive(DIRECTORIES))
