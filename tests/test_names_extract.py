"""Every name that is given out is extracted by every tool, as one file, where it says.

One that ends in a slash is extracted as a directory.
"""

import os
import subprocess
import tarfile
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from unicodedata import combining

import pytest
from hypothesis import given, settings
from test_names import ASSIGNED, HOSTILE, any_names

from tarstream.names import unique

TOOLS = {
    "GNU tar": ["tar", "-xf", "{archive}", "-C", "{target}"],
    "bsdtar": ["bsdtar", "-xf", "{archive}", "-C", "{target}"],
    "busybox": ["busybox", "tar", "-xf", "{archive}", "-C", "{target}"],
    "7z": ["7z", "x", "-y", "-bd", "-o{target}", "{archive}"],
}

# In the C locale bsdtar reports names that are not ASCII as an error, and extracts them.
ENVIRONMENT = os.environ | {"LC_ALL": "C.UTF-8"}

# Memory, where there is such a file system: on disks 50,000 small files take a minute. A container
# may have no more than 64 MiB of it, and one of these trees takes 49.
SHM = Path("/dev/shm")
SCRATCH = SHM if os.access(SHM, os.W_OK) and disk_usage(SHM).free > 256 << 20 else None


def contents(index):
    return index.to_bytes(3, "big")


def archive_of(names):
    parts = []
    for index, name in enumerate(names):
        member = tarfile.TarInfo(name)
        if name.endswith("/"):
            member.type, member.mode = tarfile.DIRTYPE, 0o755
        else:
            member.size = 3
        parts.append(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        if member.size:
            parts.append(contents(index).ljust(512, b"\0"))
    return b"".join([*parts, bytes(1024)])


def extract(tool, archive, target):
    if tool == "Python":
        with tarfile.open(archive) as file:
            file.extractall(target, filter="data")
        return
    command = [part.format(archive=archive, target=target) for part in TOOLS[tool]]
    done = subprocess.run(command, cwd=target, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def files_below(directory):
    """Contents by path. Links and whatever else is neither a file nor a directory have none."""
    found = {}
    for parent, directories, files in os.walk(directory):
        for name in directories + files:
            path = Path(parent, name)
            if path.is_symlink() or not path.is_dir():
                regular = path.is_file() and not path.is_symlink()
                found[str(path.relative_to(directory))] = path.read_bytes() if regular else None
    return found


def assert_extracted(names):
    data = archive_of(names)
    files = [(name, index) for index, name in enumerate(names) if not name.endswith("/")]
    expected = {f"above/target/{name}": contents(index) for name, index in files}
    assert len(expected) == len(files)
    found = {f"above/target/{name[:-1]}" for name in names if name.endswith("/")}
    for tool in [*TOOLS, "Python"]:
        # Two directories of the target's own above it: what leads out is found there.
        with TemporaryDirectory(dir=SCRATCH) as root:
            archive = Path(root, "archive.tar")
            target = Path(root, "above", "target")
            target.mkdir(parents=True)
            archive.write_bytes(data)
            extract(tool, archive, target)
            archive.unlink()
            assert files_below(root) == expected, tool
            for name in found:
                path = Path(root, name)
                assert path.is_dir(), (tool, name)
                assert not path.is_symlink(), (tool, name)
                assert path.stat().st_mode & 0o700 == 0o700, (tool, name)


def test_hostile_names_together():
    assert_extracted(unique([*HOSTILE, *["a", "a/b", "A/B", "x.txt", "X.TXT", "x.txt/y"]]))


@pytest.mark.parametrize(
    "name",
    # Magic numbers that are text: of bzip2, and of what else bsdtar or busybox look for.
    [
        *["BZh91AY&SY", "\\BZh11AY&SY.txt", "d/" * 60 + "BZh91AY&SY", "BZ", "BZh9", "LZIP", "LRZI"],
        *["]", "MSCF", "070701", "#mtree", "WARC/1.0", "PK", "Rar!", "7z", "MZ", "xar!", "!<arch>"],
        *["x!-lh5-", "begin 644 x", "GRZipII", "././@LongLink", "././@PaxHeader", "@PaxHeader"],
        *["ustar", "GNUSparseFile.0/x", "PaxHeaders.0/x"],
    ],
)
def test_the_first_name_does_not_make_the_archive_something_else(name):
    assert_extracted(unique([name, "other"]))


def test_an_absolute_name(tmp_path):
    outside = tmp_path / "outside"
    assert_extracted(unique([str(outside), f"//{outside}", f"C:{outside}", f"..\\..{outside}"]))
    assert not outside.exists()


def test_empty_directories():
    odd = ["a/", "a/", "b/c/", "b/c/", "d/e", "d/", "f/", "f/g", "h", "h/", "-rf/", "Grüße/日本/"]
    long = ["x" * 255 + "/", "y/" * 511 + "z/", "d/" * 49 + "ff/", "d/" * 49 + "f/", "é" * 50 + "/"]
    assert_extracted(unique([*odd, *long, "x.txt/", "x.txt", "."]))


def test_10_000_equal_names():
    assert_extracted(unique(["archive.tar.gz"] * 10_000))


def test_names_of_all_lengths():
    lengths = [*range(90, 110), *range(150, 160), *range(250, 260)]
    segments = ["x" * length for length in lengths]
    below = [f"{'d' * length}/{'e' * (length // 2)}/f" for length in lengths]
    deep = ["y/" * (length // 2) + "z" for length in [*range(90, 520, 10), *range(1016, 1032)]]
    assert_extracted(unique([*segments, *below, *deep]))


def test_each_code_point():
    """Private ones too, in which 7z keeps bytes that are not UTF-8."""
    runs = ["".join(ASSIGNED[start : start + 60]) for start in range(0, len(ASSIGNED), 60)]
    names = ["/".join(runs[start : start + 4]) for start in range(0, len(runs), 4)]
    assert_extracted(unique(names))


def test_each_combining_mark():
    """A tool that normalises, as bsdtar does with tables of its own, must find nothing to do."""
    marks = filter(combining, ASSIGNED)
    pairs = [base + mark for mark in marks for base in "xaeoαωиक가각"]
    runs = ["-".join(pairs[start : start + 20]) for start in range(0, len(pairs), 20)]
    assert_extracted(unique(runs))


def test_many_combining_marks():
    """In canonical order, one of each class: what bsdtar collects without end, but for its room."""
    marks = "".join({combining(mark): mark for mark in sorted(ASSIGNED, key=combining)}.values())[
        1:
    ]
    rising = ["x" + marks[:length] + "y" for length in range(len(marks))]
    tones = ["x" + "\u302by" * length for length in range(1, 20)]
    assert_extracted(unique([*rising, *tones]))


@settings(max_examples=25, deadline=None)
@given(any_names)
def test_any_names(before):
    assert_extracted(unique(before))
