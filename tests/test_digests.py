"""Digests: stated, computed, remembered, and what is rendered of them."""

import hashlib
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from gateway import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_layout import listing_of, member, stating, stating_all

from tarstream import digests
from tarstream.digests import Digest, DigestKey, Digests, affordable, key_of
from tarstream.errors import ObjectChanged
from tarstream.formats import zip as zip_
from tarstream.layout import STEP, Deferred, Late, Listing, Opener
from tarstream.memory import LocalMemory


@pytest.fixture
async def memory():
    return LocalMemory(1000)


def passed(wanted, data):
    """The digests, after contents passed them."""
    for digest in wanted:
        digest.update(data)
    return wanted


def crc(*members):
    """What a format that defers CRC-32s needs of members."""
    return [(each, "crc32") for each in members]


def late(of):
    """All of what is deferred of a member."""
    deferred = Deferred(8, of, "crc32", str.encode)
    return Late(deferred, 0, 8)


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_a_digest_is_that_of_all_chunks_together(chunks):
    data = b"".join(chunks)
    for algorithm, expected in [
        ("crc32", f"{zlib.crc32(data):08x}"),
        ("md5", hashlib.md5(data).hexdigest()),
        ("sha256", hashlib.sha256(data).hexdigest()),
    ]:
        digest = Digest(algorithm, None)
        for chunk in chunks:
            digest.update(chunk)
        assert digest.finish() == digests.of(data, algorithm) == expected


def test_a_crc_is_the_same_without_the_fast_routine():
    program = (
        "import sys\n"
        "if sys.argv[1] == 'without': sys.modules['isal'] = None\n"
        "from tarstream import digests\n"
        "print(digests.crc32.__module__, digests.of(b'123456789', 'crc32'))\n"
    )
    for how, module in [("with", "isal.isal_zlib"), ("without", "zlib")]:
        done = subprocess.run(
            [sys.executable, "-c", program, how], cwd=ROOT, capture_output=True, check=True
        )
        # The check value of CRC-32/ISO-HDLC.
        assert done.stdout.decode().split() == [module, "cbf43926"]


@pytest.mark.parametrize("algorithm", digests.ALGORITHMS)
def test_another_digest_than_was_stated_is_a_change(algorithm):
    right = digests.of(b"contents", algorithm)
    passed([Digest(algorithm, right)], b"contents")[0].finish()
    with pytest.raises(ObjectChanged, match=algorithm):
        passed([Digest(algorithm, right)], b"Contents")[0].finish()


async def test_all_that_was_stated_is_verified_and_what_is_needed_computed(memory):
    it = member("a", 3, digests=(("sha256", "00"),))
    wanted = Digests(["crc32"], memory).wanted(it)
    assert [(each.algorithm, each.stated) for each in wanted] == [("sha256", "00"), ("crc32", None)]
    assert [each.algorithm for each in Digests([], memory).wanted(it)] == ["sha256"]
    [only] = Digests(["crc32"], memory).wanted(stating(it))
    assert only.stated


async def test_what_was_learnt_is_rendered_and_known_the_next_time(memory):
    it = member("a", 3)
    first = Digests(["crc32"], memory)
    await first.learn(it, passed(first.wanted(it), b"abc"))
    assert first.render(late(it)) == b"352441c2"
    second = Digests(["crc32"], memory)
    await second.look_up(crc(it))
    assert second.unread == {}
    assert second.render(late(it)) == b"352441c2"
    assert second.render(Late(late(it).deferred, 2, 5)) == b"244"


@pytest.mark.parametrize("validator", [None, 'W/"v"', "W/Sun, 06 Nov 1994 08:49:37 GMT"])
async def test_without_a_strong_validator_nothing_is_remembered(memory, validator):
    """Other contents might be behind it the next time."""
    it = member("a", 3, validator=validator)
    first = Digests(["crc32"], memory)
    await first.learn(it, passed(first.wanted(it), b"abc"))
    assert first.render(late(it)) == b"352441c2"
    second = Digests(["crc32"], memory)
    await second.look_up(crc(it))
    assert second.unread == {key_of(it, "crc32"): it}


@pytest.mark.parametrize(
    "other", [{"validator": '"w"'}, {"size": 4}, {"source": "http://mirror/a"}], ids=str
)
async def test_a_digest_is_remembered_by_source_validator_and_size(memory, other):
    it = member("a", 3)
    first = Digests(["crc32"], memory)
    await first.learn(it, passed(first.wanted(it), b"abc"))
    second = Digests(["crc32"], memory)
    await second.look_up(crc(it._replace(name="b", mtime=5, id="i"), it._replace(**other)))
    assert list(second.unread.values()) == [it._replace(**other)]


async def test_a_stated_digest_is_not_remembered(memory):
    """Bytes follow from what is stated only, never from what was learnt."""
    it = member("a", 3, digests=(("crc32", "352441c2"),))
    first = Digests(["crc32"], memory)
    await first.learn(it, passed(first.wanted(it), b"abc"))
    assert not memory._items


async def test_what_is_learnt_again_replaces_what_was_remembered(memory):
    it = member("a", 3)
    for data, expected in [(b"abc", b"352441c2"), (b"abd", b"ab40d461")]:
        assert f"{zlib.crc32(data):08x}".encode() == expected
        known = Digests(["crc32"], memory)
        await known.look_up(crc(it))
        await known.learn(it, passed(known.wanted(it), data))
        assert known.render(late(it)) == expected
    assert len(memory._items) == 1


async def test_one_object_is_read_once_however_often_it_is_a_member(memory):
    known = Digests(["crc32"], memory)
    await known.look_up(crc(*[member("a", 3)] * (STEP + 2)))
    assert list(known.unread.values()) == [member("a", 3)]


async def test_a_format_that_needs_none_reads_nothing(memory):
    known = Digests([], memory)
    await known.look_up([])
    assert not known.unread
    assert known.wanted(member("a", 3)) == []


async def test_an_empty_member_needs_nothing_to_be_known(memory):
    it = member("a", 0)
    assert Digests(["crc32"], memory).render(late(it)) == b"00000000"
    descriptor = zip_.after(it)
    rendered = Digests(["crc32"], memory).render(Late(descriptor, 0, descriptor.length))
    assert rendered == b"PK\7\x08" + bytes(12)


async def test_each_digest_that_bytes_follow_from_is_computed_once(memory):
    both = Digests(["crc32", "sha256"], memory)

    def wanted(it):
        return [(each.algorithm, each.stated) for each in both.wanted(it)]

    assert wanted(member("a", 3)) == [("crc32", None), ("sha256", None)]
    assert wanted(member("a", 3, digests=(("md5", "0"), ("sha256", "00")))) == [
        ("md5", "0"),
        ("sha256", "00"),
        ("crc32", None),
    ]
    assert [stated is None for _, stated in wanted(stating_all(member("a", 3)))] == [False, False]


async def test_of_each_digest_that_is_learnt_the_next_archive_knows(memory):
    it = member("a", 3, digests=(("md5", hashlib.md5(b"abc").hexdigest()),))
    first = Digests(["crc32", "sha256"], memory)
    await first.learn(it, passed(first.wanted(it), b"abc"))
    assert first.of(it, "sha256") == hashlib.sha256(b"abc").hexdigest()
    second = Digests(["crc32", "sha256"], memory)
    needed = [(it, "crc32"), (it, "sha256"), (member("b", 1), "sha256")]
    await second.look_up(needed)
    assert second.unread == {key_of(*needed[2]): needed[2][0]}
    assert second.of(it, "crc32") == "352441c2"
    assert second.of(it, "sha256") == first.of(it, "sha256")
    assert {key.algorithm for key in memory._items} == {"crc32", "sha256"}


async def test_one_algorithm_that_is_remembered_says_nothing_of_another(memory):
    it = member("a", 3)
    first = Digests(["crc32"], memory)
    await first.learn(it, passed(first.wanted(it), b"abc"))
    second = Digests(["crc32", "sha256"], memory)
    await second.look_up([(it, "crc32"), (it, "sha256")])
    assert list(second.unread) == [key_of(it, "sha256")]


async def nothing(start, stop):
    """No contents: they are never opened here."""
    return
    yield


@pytest.mark.parametrize(
    ("source", "lasting"),
    [
        ("http://origin/a", True),
        (Path("/a"), True),
        (b"abc", False),
        (Opener(nothing, once=False), False),
        (listing_of([member("a", 3)]).source, False),
    ],
    ids=["URL", "file", "bytes", "opener", "list"],
)
async def test_what_is_remembered_is_of_sources_that_the_next_archive_has_too(
    memory, source, lasting
):
    """Of a list of checksums each archive has its own: it would be kept alive for nothing."""
    it = member("a", 3)._replace(source=source)
    known = Digests(["crc32"], memory)
    await known.learn(it, passed(known.wanted(it), b"abc"))
    assert known.render(late(it)) == b"352441c2"
    assert bool(memory._items) == lasting


async def test_what_is_stated_is_certain_and_nothing_else(memory):
    sha256 = hashlib.sha256(b"").hexdigest()
    assert digests.stated(member("a", 3), "sha256") is None
    assert digests.stated(member("a", 3, digests=(("sha256", "00"),)), "sha256") == "00"
    assert digests.stated(member("a", 3, digests=(("sha256", "00"),)), "crc32") is None
    assert digests.stated(member("a", 0), "sha256") == sha256
    assert Digests([], memory).of(member("a", 0), "sha256") == sha256


def keys(*sizes, algorithm="crc32"):
    return [DigestKey(algorithm, f"{index}", size, '"v"') for index, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("unread", "deferred", "budget", "is_affordable"),
    [
        ([], "crc32", 0, True),
        ([], None, 0, True),
        (keys(5, 5), "crc32", 10, True),
        (keys(5, 6), "crc32", 10, False),
        (keys(1), "crc32", 0, False),
        # It is made of what is known.
        ([DigestKey("crc32", Listing("sha256", []), 99, "listing")], "crc32", 0, True),
        (keys(1), None, 10, False),
        (keys(1, algorithm="sha256"), "crc32", 10, False),
        (keys(1, algorithm="sha256"), None, 10, False),
        ([*keys(1), *keys(1, algorithm="sha256")], "crc32", 10, False),
    ],
)
def test_only_what_is_deferred_is_read_unsent_within_the_budget(
    unread, deferred, budget, is_affordable
):
    assert affordable(unread, deferred, budget) is is_affordable


def test_not_all_of_a_long_list_is_looked_at_to_refuse_it():
    taken = iter(keys(*[5] * 1000))
    assert not affordable(taken, "crc32", 10)
    assert len(list(taken)) == 1000 - 3


@given(st.binary(max_size=50))
def test_contents_at_hand_are_described(data):
    etag, found = digests.described(data)
    assert etag == f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    assert found == (
        ("crc32", f"{zlib.crc32(data):08x}"),
        ("sha256", hashlib.sha256(data).hexdigest()),
    )


@pytest.mark.parametrize(("algorithm", "length"), [("crc32", 8), ("md5", 32), ("sha256", 64)])
def test_hex_of_a_digest_has_its_length(algorithm, length):
    pattern = digests.hex_of(algorithm)
    assert pattern.fullmatch("0123456789abcdefABCDEF"[:8] * (length // 8))
    for wrong in (
        "0" * (length - 1),
        "0" * (length + 1),
        "0" * (length - 1) + "g",
        "",
        "٠" * length,
    ):
        assert not pattern.fullmatch(wrong)


async def test_keys_tell_algorithms_apart():
    it = member("a", 3)
    assert key_of(it, "crc32") != key_of(it, "sha256")
