"""What holds for every format. A format that is added to `FORMATS` is tested by this, as it is.

It needs its readers in `READERS`: each extracts, into `{target}`, the archive that comes through a
pipe or, for those that have to seek, lies at `{archive}`.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layout import SIZES, assemble, contents, in_one_piece, member
from test_names import HOSTILE, any_names

from tarstream.formats import FORMATS
from tarstream.layout import Layout
from tarstream.names import unique

_BY_PYTHON = """
import sys, tarfile
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
    archive.extractall(sys.argv[1], filter="data")
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
}

# In the C locale bsdtar reports names that are not ASCII as an error, and extracts them.
ENVIRONMENT = os.environ | {"LC_ALL": "C.UTF-8"}

EDGES = [0, 1, 8**11 - 1, 8**11, 2**62]

any_format = pytest.mark.parametrize("name", FORMATS)

# Of one segment and of several; around 100 bytes, where a header grows, and up to 1,024.
long_names = st.integers(1, 1024).map(lambda length: (("d" * 99 + "/") * 11)[: length - 1] + "f")
safe_names = (st.lists(st.text(max_size=300), max_size=5).map("/".join) | long_names).map(
    lambda name: unique([name])[0]
)
members = st.builds(
    member,
    safe_names,
    st.sampled_from([*SIZES, *EDGES]) | st.integers(0, 2**62),
    st.sampled_from(EDGES) | st.integers(0, 2**62),
)
small_members = st.builds(member, safe_names, st.integers(0, 1500), st.sampled_from(EDGES))


def extract(command, archive, suffix, root):
    """Run a reader on the bytes of an archive: what it did, and the files it left below `root`."""
    target = root / "above" / "target"
    target.mkdir(parents=True)
    path = root / f"archive.{suffix}"
    path.write_bytes(archive)
    command = [part.format(archive=path, target=target) for part in command]
    done = subprocess.run(command, input=archive, env=ENVIRONMENT, capture_output=True, check=False)
    path.unlink()
    return done, [Path(parent, name) for parent, _, names in os.walk(root) for name in names]


def assert_read(name, members):
    """Every reader finds the members, all below its target, and nothing else."""
    format_ = FORMATS[name]
    layout = Layout(format_, members)
    archive = assemble(layout.slice(0, layout.size))
    expected = {f"above/target/{each.name}": contents(each, 0, each.size) for each in members}
    assert len(expected) == len(members)
    for reader, command in READERS[name].items():
        with TemporaryDirectory() as directory:
            root = Path(directory)
            done, files = extract(command, archive, format_.SUFFIX, root)
            assert done.returncode == 0, (reader, done.stderr[-2000:])
            found = {str(path.relative_to(root)): path.read_bytes() for path in files}
            assert found == expected, reader


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
@given(member=members)
def test_it_measures_what_it_renders(name, member):
    format_ = FORMATS[name]
    measured = format_.measure(member)
    assert measured == (len(format_.before(member)), len(format_.after(member)))
    # And so it does for those that look alike to a shortcut.
    for twin in (
        member._replace(name=member.name[:-1] + "é"),
        member._replace(size=member.size + 1),
        member._replace(mtime=member.mtime + 1),
    ):
        expected = len(format_.before(twin)), len(format_.after(twin))
        assert format_.measure(twin) == expected


@any_format
@settings(deadline=None)
@given(member=members)
def test_its_bytes_depend_on_name_size_and_mtime_alone(name, member):
    format_ = FORMATS[name]
    bytes_ = format_.before(member), format_.after(member), format_.trailer()
    same = member._replace(source=b"", validator=None, digests=(("crc32", "0"),), id="i")
    for each in (member, same):
        assert (format_.before(each), format_.after(each), format_.trailer()) == bytes_


@any_format
def test_every_reader_reads_an_archive_without_members(name):
    assert_read(name, [])


@any_format
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1 << 20])
def test_every_reader_reads_one_member(name, size):
    assert_read(name, [member("dir/it.bin", size, 1_700_000_000)])


@any_format
def test_every_reader_reads_many_members(name):
    sizes = [0, 1, 511, 512, 513, 1024, 5000]
    assert_read(
        name,
        [
            member(f"{index % 7}/{index}.txt", sizes[index % 7], EDGES[index % 5])
            for index in range(500)
        ],
    )


@any_format
def test_every_reader_reads_hostile_names(name):
    names = unique([*HOSTILE, "a", "a/b", "A/B", "x.txt", "X.TXT", "x.txt/y"])
    assert_read(name, [member(each, index % 600) for index, each in enumerate(names)])


@any_format
@settings(deadline=None, max_examples=5)
@given(any_names)
def test_every_reader_reads_any_names(name, names):
    assert_read(name, [member(each, 5) for each in unique(names)])
