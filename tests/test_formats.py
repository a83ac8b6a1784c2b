"""What holds for every format. A format that is added to `FORMATS` is tested by this, as it is.

It needs its readers in `READERS`: each extracts, into `{target}`, the archive that comes through a
pipe or, for those that have to seek, lies at `{archive}`. Those in `READERS_OF_STATED` do where the
digests that the format needs are stated.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import java_classes, yauzl
from test_layout import SIZES, assemble, contents, in_one_piece, member, rendered, stating
from test_names import HOSTILE, any_names

from tarstream.formats import FORMATS, KINDS
from tarstream.layout import Deferred, Layout
from tarstream.names import unique

_BY_PYTHON = """
import sys, tarfile
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
    archive.extractall(sys.argv[1], filter="data")
"""

_UNZIP_BY_PYTHON = """
import sys, zipfile
with zipfile.ZipFile(sys.argv[2]) as archive:
    archive.extractall(sys.argv[1])
"""

READERS = {
    "tar": {
        "GNU tar": ["tar", "-xf", "-", "-C", "{target}"],
        "bsdtar": ["bsdtar", "-xf", "-", "-C", "{target}"],
        "busybox": ["busybox", "tar", "-xf", "-", "-C", "{target}"],
        "7z": ["7z", "x", "-y", "-bd", "-o{target}", "{archive}"],
        "7z, from a pipe": ["7z", "x", "-y", "-bd", "-ttar", "-si", "-o{target}"],
        "Python": [sys.executable, "-c", _BY_PYTHON, "{target}"],
    },
    "zip": {
        "unzip": ["unzip", "-q", "{archive}", "-d", "{target}"],
        "7z": ["7z", "x", "-y", "-bd", "-o{target}", "{archive}"],
        "bsdtar": ["bsdtar", "-xf", "{archive}", "-C", "{target}"],
        "bsdtar, from a pipe": ["bsdtar", "-xf", "-", "-C", "{target}"],
        "busybox": ["busybox", "unzip", "-q", "{archive}", "-d", "{target}"],
        "Python": [sys.executable, "-c", _UNZIP_BY_PYTHON, "{target}", "{archive}"],
        "Java's ZipFile": ["java", "-cp", "{java}", "Unzip", "{target}", "{archive}"],
        "yauzl": ["node", "{yauzl}", "{target}", "{archive}"],
    },
}

READERS_OF_STATED = {
    "zip": {
        "busybox, from a pipe": ["busybox", "unzip", "-q", "-", "-d", "{target}"],
        "Java's ZipInputStream": ["java", "-cp", "{java}", "Unzip", "{target}"],
    },
}

EMPTY = {"unzip": 1, "busybox, from a pipe": 1}
"""Exit statuses at an archive without members, which some do not like; nobody is sent one."""

# In the C locale bsdtar reports names that are not ASCII as an error, and extracts them.
ENVIRONMENT = os.environ | {"LC_ALL": "C.UTF-8"}

EDGES = [0, 1, 8**11 - 1, 8**11, 2**62]

any_format = pytest.mark.parametrize("name", FORMATS)
any_variant = pytest.mark.parametrize(
    ("name", "stated"),
    [(name, False) for name in FORMATS] + [(name, True) for name in READERS_OF_STATED],
    ids=[*FORMATS, *(f"{name}, stated" for name in READERS_OF_STATED)],
)

# Of one segment and of several; around 100 bytes, where a header grows, and up to 1,024.
long_names = st.integers(1, 1024).map(lambda length: (("d" * 99 + "/") * 11)[: length - 1] + "f")
safe_names = (st.lists(st.text(max_size=300), max_size=5).map("/".join) | long_names).map(
    lambda name: unique([name.rstrip("/")])[0]
)
times = st.sampled_from(EDGES) | st.integers(0, 2**62)
directories = st.builds(lambda name, mtime: member(f"{name}/", 0, mtime), safe_names, times)
directories |= directories.map(stating)
members = directories | st.builds(
    member, safe_names, st.sampled_from([*SIZES, *EDGES]) | st.integers(0, 2**62), times
)
small_members = directories | st.builds(
    member, safe_names, st.integers(0, 1500), st.sampled_from(EDGES)
)
offsets = st.sampled_from([0, 2**32 - 2, 2**32 - 1, 2**32]) | st.integers(0, 2**62)


def extract(command, archive, suffix, root):
    """Run a reader on the bytes of an archive: what it did, and the files it left below `root`.

    An archive that is too large for that may be a path, for readers that seek.
    """
    target = root / "above" / "target"
    target.mkdir(parents=True)
    path = root / f"archive.{suffix}"
    if isinstance(archive, Path):
        path.hardlink_to(archive)
        archive = b""
    else:
        path.write_bytes(archive)
    places = {"archive": path, "target": target}
    if "{java}" in command:
        places["java"] = java_classes()
    if "{yauzl}" in command:
        places["yauzl"] = yauzl()
    command = [part.format(**places) for part in command]
    done = subprocess.run(command, input=archive, env=ENVIRONMENT, capture_output=True, check=False)
    path.unlink()
    return done, [Path(parent, name) for parent, _, names in os.walk(root) for name in names]


def named(name, names):
    """Members' names, as a format has them."""
    return unique(names, FORMATS[name].mend)


def placed(name, size):
    """A file, or an empty directory, of which everything is stated as the gateway does."""
    return stating(member(name)) if name.endswith("/") else member(name, size)


def assert_read(name, stated, members):
    """Every reader finds the members, all below its target, and nothing else."""
    format_ = FORMATS[name]
    readers = READERS[name]
    if stated:
        members = [stating(each) for each in members]
        readers = readers | READERS_OF_STATED[name]
    layout = Layout(format_, members)
    archive = assemble(layout.slice(0, layout.size))
    kept = [each for each in members if not each.is_directory]
    expected = {f"above/target/{each.name}": contents(each, 0, each.size) for each in kept}
    assert len(expected) == len(kept)
    for reader, command in readers.items():
        with TemporaryDirectory() as directory:
            root = Path(directory)
            done, files = extract(command, archive, format_.SUFFIX, root)
            status = 0 if members else EMPTY.get(reader, 0)
            assert done.returncode == status, (reader, done.stderr[-2000:])
            found = {str(path.relative_to(root)): path.read_bytes() for path in files}
            assert found == expected, reader
            for each in members:
                if each.is_directory:
                    path = root / "above" / "target" / each.name
                    assert path.is_dir(), (reader, each.name)
                    # Whoever extracts it may enter it, and put files into it.
                    assert path.stat().st_mode & 0o700 == 0o700, (reader, each.name)


@any_format
def test_it_says_what_it_is(name):
    format_ = FORMATS[name]
    major, _, minor = format_.MEDIA_TYPE.partition("/")
    assert major
    assert minor
    assert format_.SUFFIX
    assert not format_.SUFFIX.startswith(".")


def test_no_two_share_a_suffix():
    """Entity-tags tell formats apart by it."""
    suffixes = {format_.SUFFIX for format_ in FORMATS.values()}
    assert len(suffixes) == len(FORMATS)


@any_format
@settings(deadline=None)
@given(st.lists(small_members, max_size=8))
def test_its_size_is_the_bytes_of_the_whole(name, members):
    assert Layout(FORMATS[name], members).size == len(in_one_piece(FORMATS[name], members))


@any_format
@settings(deadline=None, max_examples=1000)
@given(member=members, start=offsets)
def test_it_measures_what_it_renders(name, member, start):
    format_ = FORMATS[name]
    # And so it does for those that look alike to a shortcut.
    for twin in (
        member,
        member._replace(name=member.name[:-1] + "é"),
        member._replace(size=member.size + 1),
        member._replace(mtime=member.mtime + 1),
        member._replace(digests=(("crc32", "00000000"),)),
    ):
        assert format_.measure(twin, start) == (
            len(format_.before(twin)),
            len(rendered(format_.after(twin))),
            len(rendered(format_.entry(twin, start))),
        )


@any_format
def test_what_was_measured_counts_for_all_of_the_same_shape(name, monkeypatch):
    """Rendering takes far longer; entity-tags, sources and contents make no shape."""
    format_ = FORMATS[name]
    monkeypatch.setattr(format_, "_lengths", {})
    expected = format_.measure(member("a.bin", 5, 9), 0)
    monkeypatch.setattr(format_, "before", None)
    assert format_.measure(member("b.bin", 5, 8, '"w"'), 0) == expected


@any_format
def test_what_it_defers_follows_from_the_digest_that_it_needs(name):
    format_ = FORMATS[name]
    it = member("a", 5)
    parts = [format_.after(it), format_.entry(it, 0)]
    deferred = [each for each in parts if isinstance(each, Deferred)]
    assert bool(deferred) == (format_.DIGEST is not None)
    assert all((each.member, each.algorithm) == (it, format_.DIGEST) for each in deferred)


@any_format
@settings(deadline=None)
@given(member=members, start=offsets)
def test_its_bytes_depend_on_name_size_mtime_and_the_digest_it_needs(name, member, start):
    format_ = FORMATS[name]

    def all_of(member):
        parts = format_.after(member), format_.entry(member, start)
        return format_.before(member), *map(rendered, parts), format_.end(1, start, 99)

    member = member._replace(digests=())
    bytes_ = all_of(member)
    digests = (("sha256", "00" * 32),) if format_.DIGEST else (("crc32", "00000000"),)
    same = member._replace(source=b"", validator=None, digests=digests, id="i")
    for each in (member, same):
        assert all_of(each) == bytes_


@any_variant
@pytest.mark.timeout(600)
def test_every_reader_reads_an_archive_without_members(name, stated):
    assert_read(name, stated, [])


@any_variant
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1 << 20])
def test_every_reader_reads_one_member(name, stated, size):
    assert_read(name, stated, [member("dir/it.bin", size, 1_700_000_000)])


@any_variant
@pytest.mark.timeout(600)
def test_every_reader_reads_many_members(name, stated):
    sizes = [0, 1, 511, 512, 513, 1024, 5000]
    assert_read(
        name,
        stated,
        [
            member(f"{index % 7}/{index}.txt", sizes[index % 7], EDGES[index % 5])
            for index in range(500)
        ],
    )


@any_variant
@pytest.mark.timeout(600)
def test_every_reader_reads_hostile_names(name, stated):
    names = named(
        name, [*HOSTILE, "a", "a/b", "A/B", "x.txt", "X.TXT", "x.txt/y", "aux.h", "d./e "]
    )
    assert_read(name, stated, [placed(each, index % 600) for index, each in enumerate(names)])


@any_variant
@pytest.mark.timeout(600)
def test_every_reader_makes_empty_directories(name, stated):
    """Alone, nested, twice, before and behind what is in them, with names of any length."""
    odd = ["a/", "a/", "b/c/", "b/", "d/e", "d/", "f/", "f/g", "h", "h/", "-x/", "Grüße/日本/"]
    long = ["x" * 255 + "/", "d/" * 49 + "ff/", "d/" * 49 + "f/", "é" * 50 + "/", "y/" * 120]
    names = named(name, [*odd, *long])
    assert_read(name, stated, [placed(each, index) for index, each in enumerate(names)])
    assert_read(name, stated, [placed("only/", 0)])


@any_variant
@pytest.mark.timeout(600)
@settings(deadline=None, max_examples=5)
@given(any_names)
def test_every_reader_reads_any_names(name, stated, names):
    assert_read(name, stated, [placed(each, 5) for each in named(name, names)])


@pytest.mark.parametrize(
    ("format_", "etag", "expected"),
    [
        ("tar", '"a"', '"a"'),
        ("zip", 'W/"a"', 'W/"a"'),
        ("tar.gz", '"a"', 'W/"a-gzip"'),
        ("tar.zst", '"a"', 'W/"a-zstd"'),
        ("tar.gz", 'W/"Wx/"', 'W/"Wx/-gzip"'),
        ("tar.gz", '"XaX"', 'W/"XaX-gzip"'),
        ("tar", None, None),
        ("tar.gz", None, None),
    ],
)
def test_the_entity_tag_of_what_is_compressed_is_weak_and_its_own(format_, etag, expected):
    assert KINDS[format_].etag(etag) == expected
