"""A list of checksums: its length beforehand, its lines later, any part of it."""

import subprocess
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_layout import contents, listed, listing_of, member, stating_all
from test_stores import Sink

from tarstream import names
from tarstream.checksums import ListingBody, listing_in_steps
from tarstream.digests import ALGORITHMS, Digests
from tarstream.formats import CHECKSUMS
from tarstream.layout import STEP, is_strong
from tarstream.memory import LocalMemory

files = st.builds(
    member,
    st.text("abé. ", min_size=1, max_size=8).map(lambda name: names.unique([name])[0]),
    st.integers(0, 20),
)
directories = st.builds(lambda name: member(f"{name}/"), st.text("ab", min_size=1, max_size=3))
any_members = st.lists(
    files | st.builds(stating_all, files) | directories,
    max_size=8,
    unique_by=lambda each: each.name,
)


async def learnt(members):
    """What is known once the contents of members have passed."""
    digests = Digests(["sha256"], LocalMemory(0))
    for each in members:
        if each.size:
            wanted = digests.wanted(each)
            for digest in wanted:
                digest.update(contents(each, 0, each.size))
            await digests.learn(each, wanted)
    return digests


async def part(sums, start, stop, digests):
    body = ListingBody(sums.source, start, stop, digests)
    await body.ready()
    sink = Sink()
    await body.copy_to(sink)
    return bytes(sink.data)


@given(any_members, st.data())
async def test_any_part_of_a_list_is_that_part_of_the_whole(members, data):
    """Its lines are those of `sha256sum`, one for each file; its length was known beforehand."""
    sums = listing_of(members)
    whole = listed(members)
    assert sums.size == len(whole)
    digests = await learnt(members)
    assert await part(sums, 0, sums.size, digests) == whole
    start = data.draw(st.integers(0, sums.size))
    stop = data.draw(st.integers(start, sums.size))
    assert await part(sums, start, stop, digests) == whole[start:stop]


@given(any_members)
def test_a_list_states_its_crc_where_all_digests_are_stated(members):
    """Then nothing of it has to be deferred."""
    for each in (members, list(map(stating_all, members))):
        sums = listing_of(each)
        certain = all(it.digest("sha256") or not it.size for it in each)
        crc = f"{zlib.crc32(listed(each)):08x}"
        assert sums.digests == ((("crc32", crc),) if certain else ())


def test_a_list_is_a_file_of_the_gateway():
    sums = listing_of([member("a", 3, 7)], "SHA256SUMS (2)")
    assert (sums.name, sums.mtime, sums.id) == ("SHA256SUMS (2)", 0, None)
    assert is_strong(sums.validator)
    assert not sums.is_directory


def test_directories_have_no_line():
    assert listing_of([member("a/"), member("b/c/")]).size == 0
    assert listing_of([member("a/")]).digests == (("crc32", "00000000"),)
    assert listing_of([]).size == 0
    members = [member("a/"), member("b", 3)]
    assert listing_of(members).size == listing_of(members[1:]).size
    assert [each.name for each in listing_of(members).source.members] == ["b"]


async def test_sha256sum_accepts_it(tmp_path):
    """Whatever the names; `-` would be standard input to it."""
    odd = [
        "-",
        "-c",
        "a b",
        "Grüße",
        " a",
        "*b",
        "d/-",
        "#x",
        "sha (2).txt",
        "é" * 100,
        "=",
        "a  b",
    ]
    assert names.unique(odd) == odd
    members = [member(name, 5 + index) for index, name in enumerate(odd)]
    members = [*members, member("empty"), member("directory/")]
    sums = listing_of(members)
    data = await part(sums, 0, sums.size, await learnt(members))
    assert len(data) == sums.size
    for each in members:
        path = tmp_path / each.name
        if each.is_directory:
            path.mkdir()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(contents(each, 0, each.size))
    (tmp_path / sums.name).write_bytes(data)
    for tool in (["sha256sum"], ["busybox", "sha256sum"]):
        done = subprocess.run(
            [*tool, "-c", sums.name], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert done.stdout.count(b": OK\n") == len(odd) + 1
        assert done.stderr == b""
    (tmp_path / "-").write_bytes(b"other")
    assert subprocess.run(
        ["sha256sum", "-c", "--quiet", sums.name], cwd=tmp_path, check=False
    ).returncode


def test_what_may_be_asked_for_has_a_name_and_is_an_algorithm():
    assert CHECKSUMS == {"sha256": "SHA256SUMS"}
    assert CHECKSUMS.keys() <= ALGORITHMS.keys()
    assert names.unique(list(CHECKSUMS.values())) == list(CHECKSUMS.values())


@pytest.mark.parametrize("number", [0, 1, STEP, STEP + 1, 1000])
async def test_others_can_run_between_every_256_lines(number):
    members = [member(f"{index}", index % 3) for index in range(number)]
    assert len(list(listing_in_steps("sha256", members, "SHA256SUMS"))) == -(-number // STEP)
    sums = listing_of(members)
    writes = []

    class Counted(Sink):
        async def write(self, chunk):
            writes.append(bytes(chunk))

    await ListingBody(sums.source, 0, sums.size, await learnt(members)).copy_to(Counted())
    assert b"".join(writes) == listed(members)
    assert len(writes) == -(-number // STEP)
