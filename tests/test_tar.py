"""Tar headers, field by field, and the same bytes everywhere.

The files in golden/ were made by `.venv/bin/python tests/test_tar.py` on Python 3.11. Bytes that
change need another `LAYOUT_VERSION`: an entity-tag must not stand for two archives.
"""

import hashlib
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_formats import ENVIRONMENT, READERS, extract, members
from test_layout import GIB, SIZES, TIB, assemble, by_tarfile, member

from tarstream.formats import tar
from tarstream.layout import Layout

GOLDEN = Path(__file__).parent / "golden"

PAX_FIELDS = {"path": ("name", str), "size": ("size", int), "mtime": ("mtime", int)}

WHOLE = [
    member("empty", 0, 0),
    member("one", 1, 1),
    member("511.bin", 511, 1_700_000_000),
    member("512.bin", 512, 1_700_000_000, "Sun, 06 Nov 1994 08:49:37 GMT"),
    member("513.bin", 513, 1_700_000_000, digests=(("crc32", "00000000"), ("sha256", "ab" * 32))),
    member("Grüße/日本語/😀.txt", 20, 8**11 - 1),
    member("a" * 100, 3, 8**11),
    member("a" * 101, 3),
    member("d/" * 60 + "é" * 100, 3, 2**62 - 1),
    member(("d" * 99 + "/") * 10 + "f" * 24, 3),
]
WHOLE_ETAG = '"4c89aee0893e3c2d11a9d70775ab30ef"'

DIRECTORIES = [
    member("a/", 0, 1_700_000_000),
    member("Grüße/日本語/", 0, 8**11),
    member("d/" * 49 + "f/"),
    member("d/" * 50),
    member("d/" * 50 + "f/"),
    member("d/" * 512, 0, 2**62 - 1),
    member("a/one", 1),
]

LARGE = [
    member(name, size, mtime)
    for size in [8 * GIB - 1, 8 * GIB, TIB, 2**62]
    for name, mtime in [("a", 0), ("é", 8**11), ("d/" * 511 + "ff", 2**40)]
]


def repeated(of, start, stop):
    """Contents that nothing but the member's name makes."""
    data = of.name.encode() + b"\n"
    return (data * (of.size // len(data) + 1))[start:stop]


def whole_archive(members=WHOLE):
    layout = Layout(tar, members)
    return assemble(layout.slice(0, layout.size), repeated)


def large_headers():
    return b"".join(map(tar.before, LARGE))


def last_block(header):
    return tarfile.TarInfo.frombuf(header[-512:], "ascii", "strict")


@pytest.mark.parametrize("header", [tar.before(each) for each in [*WHOLE, *LARGE]])
def test_everybody_gets_the_same_owner_and_mode(header):
    info = last_block(header)
    assert (info.uid, info.gid, info.uname, info.gname) == (0, 0, "", "")
    assert info.mode == 0o644
    assert info.type == tarfile.REGTYPE
    assert info.linkname == ""
    assert header[-512 + 257 :][:8] == b"ustar\x0000"  # POSIX: magic and version


@pytest.mark.parametrize("directory", DIRECTORIES[:-1])
def test_a_directory_may_be_entered_by_everybody_and_ends_in_a_slash(directory):
    header = tar.before(directory)
    info = last_block(header)
    assert (info.uid, info.gid, info.uname, info.gname) == (0, 0, "", "")
    assert (info.type, info.mode, info.size) == (tarfile.DIRTYPE, 0o755, 0)
    assert directory.name.encode() in header
    assert tar.after(directory) == b""


@pytest.mark.parametrize(
    ("name", "size", "mtime", "length"),
    [
        ("a", 0, 0, 512),
        ("a" * 100, 0, 0, 512),
        ("a" * 101, 0, 0, 1536),
        ("d/" * 49 + "ff", 0, 0, 512),
        ("d/" * 50 + "f", 0, 0, 1536),
        ("d/" * 511 + "ff", 0, 0, 2560),
        ("é", 0, 0, 1536),
        ("é" * 512, 0, 0, 2560),
        ("a" * 99 + "/", 0, 0, 512),
        ("a" * 100 + "/", 0, 0, 1536),
        ("a", 8 * GIB - 1, 0, 512),
        ("a", 8 * GIB, 0, 1536),
        ("a", 2**62, 0, 1536),
        ("a", 0, 8**11 - 1, 512),
        ("a", 0, 8**11, 1536),
        ("a", 0, 2**62, 1536),
        ("é", 8 * GIB, 8**11, 1536),
        # "505 path=" and the line feed: 512 bytes with 502 of name, two blocks from 503 on.
        ("a" * 502, 0, 0, 1536),
        ("a" * 503, 0, 0, 2048),
    ],
)
def test_a_header_is_one_block_and_a_pax_header_where_a_field_outgrows_it(
    name, size, mtime, length
):
    header = tar.before(member(name, size, mtime))
    assert len(header) == length
    assert header.startswith(b"././@PaxHeader\0") == (length > 512)


@settings(deadline=None)
@given(member=members)
def test_a_header_says_name_size_and_mtime(member):
    header = tar.before(member)
    info = last_block(header)
    if len(header) > 512:
        outer = tarfile.TarInfo.frombuf(header[:512], "ascii", "strict")
        assert outer.type == tarfile.XHDTYPE
        records, padding = header[512:-512][: outer.size], header[512:-512][outer.size :]
        assert padding == bytes(-outer.size % 512)
        while records:
            length = int(records.partition(b" ")[0])
            record, records = records[:length].decode(), records[length:]
            assert record.endswith("\n")
            keyword, _, value = record.partition(" ")[2][:-1].partition("=")
            field, parse = PAX_FIELDS[keyword]
            setattr(info, field, parse(value))
    # tarfile takes the slash of a directory away, where a pax header does not say the name.
    assert info.name.rstrip("/") == member.name.rstrip("/")
    assert (info.size, info.mtime) == (member.size, member.mtime)
    assert info.isdir() == member.is_directory
    assert info.isreg() != info.isdir()


@given(st.sampled_from(SIZES) | st.integers(0, 2**62))
def test_the_last_block_says_the_size_whatever_it_is(size):
    """busybox reads it nowhere else. tarfile checks the checksum as it reads."""
    for name in ("a", "é"):
        assert last_block(tar.before(member(name, size))).size == size


AT_THE_EDGE = st.integers(0, 8**11 - 1) | st.sampled_from([0, 8**11 - 1])


@given(
    st.text(st.characters(max_codepoint=127), min_size=1, max_size=102), AT_THE_EDGE, AT_THE_EDGE
)
@example("a" * 100, 8**11 - 1, 8**11 - 1)
@example("a" * 101, 1, 1)
@example("a/" * 50, 0, 1)
@example("é", 1, 8**11)
def test_a_header_is_byte_for_byte_what_tarfile_makes(name, size, mtime):
    """Also where it is not tarfile that makes it."""
    it = member(name, size, mtime)
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, mtime
    if it.is_directory:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    assert tar.before(it) == info.tobuf(tarfile.PAX_FORMAT)


def test_contents_are_padded_to_a_block():
    for size in [*SIZES, 2**62, 2**62 + 1]:
        padding = tar.after(member(size=size))
        assert padding == bytes(len(padding))
        assert len(padding) < 512
        assert (size + len(padding)) % 512 == 0


def test_two_blocks_of_zeros_end_it():
    assert tar.end(3, 4096, 0) == bytes(1024)


def test_members_that_nearly_look_alike_are_measured_each_for_itself():
    """What differs is a byte of a pax record, which now and then makes a block more."""
    alike = [
        # As many bits, not as many digits.
        [member("n", 8 * GIB), member("n", 2 * 8 * GIB - 1)],
        [member("n", 0, 8**11), member("n", 0, 2 * 8**11 - 1)],
        # As many digits, not as many bits.
        [member("n", 8 * GIB - 1), member("n", 8 * GIB)],
        [member("n", 0, 8**11 - 1), member("n", 0, 8**11)],
        # As many code points, not as many bytes.
        [member("é"), member("日"), member("😀")],
        [member("n" * 2), member("é")],
    ]
    for length in range(1, 1024):
        for group in alike:
            for each in group:
                it = each._replace(name=each.name * length)
                assert tar.measure(it, 0)[0] == len(tar.before(it))


def test_a_header_is_not_rendered_again_to_be_measured(monkeypatch):
    """What was measured for a member counts for others of its shape."""
    monkeypatch.setattr(tar, "_lengths", {})
    assert tar.measure(member("a" * 101, 7, 1), 0)[0] == 1536
    tar._lengths.update(dict.fromkeys(tar._lengths, 2048))
    assert tar.measure(member("b" * 101, 6, 1), 0)[0] == 2048
    assert tar.measure(member("b" * 102, 6, 1), 0)[0] == 1536


def test_lengths_that_are_remembered_are_bounded(monkeypatch):
    """Who chooses names, sizes and times must not choose how much memory they take."""
    monkeypatch.setattr(tar, "_MOST_LENGTHS", 50)
    chosen = random.Random(1)
    for _ in range(2000):
        any_ = member(
            "n" * chosen.randint(1, 1024), 1 << chosen.randint(0, 62), chosen.getrandbits(60)
        )
        assert tar.measure(any_, 0)[0] == len(tar.before(any_))
        assert len(tar._lengths) <= 50


# Readers.


@pytest.fixture
def sparse(tmp_path):
    """An archive with a member over 8 GiB that takes no room; its contents look like a header."""
    archive = tmp_path / "sparse.tar"
    inner = member("inside", 0)
    outer = [member("é.bin", 8 * GIB + 513), member("large", 8 * GIB), member("last", 3)]
    layout = Layout(tar, outer)
    with archive.open("wb") as file:
        for index, each in enumerate(outer):
            start = layout.content_start(index)
            before = tar.measure(each, 0)[0]
            file.seek(start - before)
            file.write(assemble(layout.slice(start - before, start)))
            file.write(tar.before(inner) if each.size > 512 else b"xyz")
        file.truncate(layout.size)
    return archive


@pytest.mark.parametrize(
    "command",
    [
        ["tar", "-tvf"],
        ["bsdtar", "-tvf"],
        ["busybox", "tar", "-tvf"],
        ["7z", "l"],
        [sys.executable, "-m", "tarfile", "-v", "-l"],
    ],
    ids=lambda command: command[0].rpartition("/")[2],
)
def test_every_reader_goes_past_a_member_of_8_gib(sparse, command):
    environment = ENVIRONMENT | {"PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [*command, sparse], env=environment, capture_output=True, check=True, timeout=20
    )
    words = [line.split() for line in done.stdout.decode().splitlines()]
    found = {
        line[-1]: line
        for line in words
        if line and line[-1] in {"é.bin", "large", "last", "inside"}
    }
    assert list(found) == ["é.bin", "large", "last"]
    for name, size in [("é.bin", 8 * GIB + 513), ("large", 8 * GIB), ("last", 3)]:
        assert str(size) in found[name]


@pytest.mark.parametrize("reader", READERS["tar"])
def test_readers_set_the_time(reader, tmp_path):
    times = {"a": 0, "é": 1_700_000_000, "n" * 101: 8**11 - 1}
    layout = Layout(tar, [member(name, 3, mtime) for name, mtime in times.items()])
    archive = assemble(layout.slice(0, layout.size))
    done, files = extract(READERS["tar"][reader], archive, "tar", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.stat().st_mtime for path in files} == times


@pytest.mark.parametrize("reader", READERS["tar"])
def test_readers_report_an_archive_that_is_cut_inside_contents(reader, tmp_path):
    """Even where one byte of them is missing: that is where a download that fails is cut."""
    layout = Layout(tar, [member("a", 512), member("b", 512), member("c", 512)])
    start = layout.content_start(1)
    for place in (start + 1, start + 511):
        archive = assemble(layout.slice(0, place))
        done, _ = extract(READERS["tar"][reader], archive, "tar", tmp_path / str(place))
        assert done.returncode != 0


# The same bytes everywhere.


def test_the_bytes_are_those_of_the_golden_files():
    assert whole_archive() == (GOLDEN / "whole.tar").read_bytes()
    assert large_headers() == (GOLDEN / "large.headers").read_bytes()
    assert whole_archive(DIRECTORIES) == (GOLDEN / "directories.tar").read_bytes()


def test_the_golden_archives_are_what_tarfile_writes_in_one_piece():
    for name, those in [("whole.tar", WHOLE), ("directories.tar", DIRECTORIES)]:
        golden = (GOLDEN / name).read_bytes()
        assert by_tarfile(those, repeated)[: len(golden)] == golden


def test_the_entity_tag_of_the_golden_archive():
    assert Layout(tar, WHOLE).etag == WHOLE_ETAG


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8", "TZ": "Pacific/Kiritimati"},
        {"TZ": "America/St_Johns", "PYTHONHASHSEED": "0"},
        {"PYTHONHASHSEED": "1", "PYTHONOPTIMIZE": "2"},
        {"PYTHONIOENCODING": "utf-16", "PYTHONUTF8": "1"},
    ],
    ids=str,
)
def test_bytes_and_entity_tag_are_the_same_in_any_environment(environment):
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_tar import WHOLE, Layout, hashlib, large_headers, tar, whole_archive\n"
        "digest = hashlib.sha256(whole_archive() + large_headers()).hexdigest()\n"
        "sys.stdout.buffer.write(f'{digest} {Layout(tar, WHOLE).etag}'.encode('ascii'))"
    )
    golden = (GOLDEN / "whole.tar").read_bytes() + (GOLDEN / "large.headers").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", program, GOLDEN.parent, GOLDEN.parent.parent],
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == f"{hashlib.sha256(golden).hexdigest()} {WHOLE_ETAG}"


if __name__ == "__main__":
    (GOLDEN / "whole.tar").write_bytes(whole_archive())
    (GOLDEN / "large.headers").write_bytes(large_headers())
    (GOLDEN / "directories.tar").write_bytes(whole_archive(DIRECTORIES))
