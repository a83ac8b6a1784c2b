"""Any part of an archive is that part of the whole, whichever way it is asked for."""

import io
import random
import tarfile
import tracemalloc
from collections.abc import Sequence
from hashlib import sha256
from itertools import combinations_with_replacement
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import Made

from tarstream.checksums import listing_in_steps
from tarstream.digests import of as digest_of
from tarstream.formats import FORMATS, tar
from tarstream.layout import (
    STEP,
    Content,
    Deferred,
    Late,
    Layout,
    Listing,
    Member,
    Opener,
    lay_out,
)

GIB = 1 << 30
TIB = 1 << 40
SIZES = [0, 1, 511, 512, 513, 8 * GIB - 1, 8 * GIB, TIB]


class Letters:
    """A format in letters. Lengths follow the name's, and any of it may be empty."""

    MEDIA_TYPE = "text/plain"
    DIGEST = None

    def __init__(self, trailer=b"", suffix="letters"):
        self.SUFFIX = suffix
        self.trailer = trailer
        self.rendered = []
        self.measured = 0

    def before(self, member):
        self.rendered.append(member)
        return b"<" * (len(member.name) % 4)

    def after(self, member):
        self.rendered.append(member)
        return b">" * (len(member.name) % 3)

    def entry(self, member, start):
        return b""

    def end(self, number, start, size):
        return self.trailer

    def measure(self, member, start):
        self.measured += 1
        return len(member.name) % 4, len(member.name) % 3, 0


class Listed(Letters):
    """With a trailer that lists the members, and bytes that follow from their contents."""

    DIGEST = "crc32"

    def _deferred(self, member, length):
        if length == 0 or member.digest("crc32"):
            return b"=" * length
        return Deferred(length, member, "crc32", lambda crc: (crc * length)[:length].encode())

    def after(self, member):
        self.rendered.append(member)
        return self._deferred(member, len(member.name) % 3)

    def entry(self, member, start):
        self.rendered.append(member)
        return self._deferred(member, 1 + (start + len(member.name)) % 4)

    def end(self, number, start, size):
        return f"{number} {start} {size}".encode()

    def measure(self, member, start):
        before, after, _ = super().measure(member, start)
        return before, after, 1 + (start + len(member.name)) % 4


class Viewed(Sequence):
    """Members that tell which of them were looked at."""

    def __init__(self, members):
        self._members = members
        self.viewed = set()

    def __len__(self):
        return len(self._members)

    def __getitem__(self, index):
        if isinstance(index, int):
            self.viewed.add(index)
        return self._members[index]


class Opened(io.RawIOBase):
    """An archive as a file to read and seek in, none of which is stored."""

    def __init__(self, layout):
        self._layout = layout
        self._position = 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._layout.size}
        self._position = base[whence] + offset
        return self._position

    def readinto(self, buffer):
        data = assemble(self._layout.slice(self._position, self._position + len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def member(name="a", size=0, mtime=0, validator='"v"', **more):
    return Member(name, size, mtime, f"http://origin/{name}", validator, **more)


def contents(of, start, stop):
    """Contents of a member: another name has others, and they do not repeat."""
    if isinstance(of.source, Listing):
        return listed(of.source.members)[start:stop]
    return Made(of.size, seed=crc32(of.name.encode())).read(start, stop)


def listed(members):
    """What `sha256sum` writes of files."""
    lines = [
        f"{sha256(contents(each, 0, each.size)).hexdigest()}  {each.name}\n"
        for each in members
        if not each.name.endswith("/")
    ]
    return "".join(lines).encode()


def listing_of(members, name="SHA256SUMS"):
    """The member that lists members."""
    steps = listing_in_steps("sha256", members, name)
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            return stopped.value


def crc_of(of, contents=contents):
    """What a member's contents come to; too large ones have one that is made up."""
    data = contents(of, 0, of.size) if of.size <= 2 << 20 else of.name.encode()
    return f"{crc32(data):08x}"


def stating(of, contents=contents):
    """The member, with its CRC-32 stated."""
    return of._replace(digests=(("crc32", crc_of(of, contents)),))


def stating_all(of, algorithms=("crc32", "sha256")):
    """The member, with these digests stated."""
    data = contents(of, 0, of.size)
    return of._replace(digests=tuple((each, digest_of(data, each)) for each in algorithms))


def assemble(pieces, contents=contents):
    """The bytes that pieces of a layout stand for; none of the pieces may be empty."""
    parts = []
    for each in pieces:
        if isinstance(each, Content):
            parts.append(contents(*each))
        elif isinstance(each, Late):
            parts.append(rendered(each.deferred, contents)[each.start : each.stop])
        else:
            parts.append(each)
    assert all(parts)
    return b"".join(parts)


def rendered(part, contents=contents):
    """The bytes of a part."""
    if isinstance(part, bytes):
        return part
    data = part.render(crc_of(part.member, contents))
    assert len(data) == part.length
    return data


def in_one_piece(format_, members):
    whole, entries = [], []
    offset = 0
    for each in members:
        entries.append(rendered(format_.entry(each, offset)))
        parts = [
            format_.before(each),
            contents(each, 0, each.size),
            rendered(format_.after(each)),
        ]
        whole += parts
        offset += sum(map(len, parts))
    directory = b"".join(entries)
    return b"".join([*whole, directory, format_.end(len(members), offset, len(directory))])


def found_step_by_step(format_, members, start, stop):
    """The bytes [start, stop), found by going through the archive from its beginning."""
    found = []
    offset = 0

    def at(length, read):
        nonlocal offset
        first, last = max(start, offset), min(stop, offset + length)
        if first < last:
            found.append(read(first - offset, last - offset))
        offset += length

    def literal(data):
        at(len(data), lambda first, last: data[first:last])

    starts = []
    for each in members:
        starts.append(offset)
        literal(format_.before(each))
        at(each.size, lambda first, last, each=each: contents(each, first, last))
        literal(rendered(format_.after(each)))
    directory = offset
    for each, begins in zip(members, starts, strict=True):
        literal(rendered(format_.entry(each, begins)))
    literal(format_.end(len(members), directory, offset - directory))
    return b"".join(found)


def by_tarfile(members, contents=contents):
    """The archive as the standard library writes it in one piece, padded to a record by it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as whole:
        for each in members:
            info = tarfile.TarInfo(each.name)
            info.size, info.mtime, info.uid, info.gid = each.size, each.mtime, 0, 0
            info.mode = 0o644
            if each.name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            whole.addfile(info, io.BytesIO(contents(each, 0, each.size)))
    return file.getvalue()


any_format = pytest.mark.parametrize(
    "format_",
    [*FORMATS.values(), Letters(), Letters(b"end"), Listed()],
    ids=[*FORMATS, "letters", "letters with a trailer", "letters with a list"],
)

short_names = st.text("abé/", min_size=1, max_size=12)
small_files = st.builds(
    member,
    short_names.map(lambda name: name.rstrip("/") or "a") | st.just("n" * 101),
    st.sampled_from([0, 1, 511, 512, 513]) | st.integers(0, 1500),
)
few_bytes = st.builds(member, st.text("ab", min_size=1, max_size=4), st.integers(0, 5))
small_members = (
    small_files
    | st.builds(stating, few_bytes)
    | st.builds(
        stating_all, few_bytes, st.sampled_from([("sha256",), ("crc32", "sha256"), ("md5",)])
    )
    | st.builds(lambda name: member(f"{name}/"), short_names)
    | st.builds(lambda name: stating_all(member(f"{name}/")), short_names)
)
apart = st.lists(small_members, max_size=6, unique_by=lambda each: each.name)
any_members = (
    st.lists(small_members, max_size=6)
    | apart
    | apart.map(lambda members: [*members, listing_of(members)])
)
large_members = st.builds(
    member,
    st.text("abé/", min_size=1, max_size=12),
    st.sampled_from(SIZES) | st.integers(0, 2**60),
)


@any_format
@settings(deadline=None)
@given(any_members, st.data())
def test_any_slice_is_that_slice_of_the_whole(format_, members, data):
    whole = in_one_piece(format_, members)
    layout = Layout(format_, members)
    assert layout.size == len(whole)
    offsets = st.integers(0, layout.size + 3)
    for _ in range(5):
        start, stop = data.draw(offsets), data.draw(offsets)
        assert assemble(layout.slice(start, stop)) == whole[start:stop]


@any_format
@settings(deadline=None)
@given(any_members, st.data())
def test_slices_that_follow_one_another_are_the_whole(format_, members, data):
    layout = Layout(format_, members)
    cuts = sorted(data.draw(st.lists(st.integers(0, layout.size), max_size=20)))
    slices = zip([0, *cuts], [*cuts, layout.size], strict=True)
    parts = [assemble(layout.slice(start, stop)) for start, stop in slices]
    assert b"".join(parts) == in_one_piece(format_, members)


def needed(layout, start, stop):
    """Members and algorithms whose digest a slice needs before the contents have passed in it."""
    passed, found = set(), set()

    def need(each, algorithm):
        if each.size and not each.digest(algorithm) and each not in passed:
            found.add((each, algorithm))
            if isinstance(each.source, Listing):
                need_all(each.source)

    def need_all(listing):
        for each in listing.members:
            need(each, "sha256")

    for piece in layout.slice(start, stop):
        if isinstance(piece, Content):
            if isinstance(piece.member.source, Listing):
                need_all(piece.member.source)
            if (piece.start, piece.stop) == (0, piece.member.size):
                passed.add(piece.member)
        elif isinstance(piece, Late):
            need(piece.deferred.member, "crc32")
    return found


@any_format
@settings(deadline=None)
@given(apart, st.booleans(), st.data())
def test_what_a_slice_follows_from_passes_first_or_is_named_beforehand(
    format_, members, with_list, data
):
    """No more is named than that."""
    layout = Layout(format_, [*members, listing_of(members)] if with_list else members)
    near = [layout.content_start(index) for index in range(len(layout.members))]
    near += [layout.described_start, layout.trailer_start, layout.size]

    def offset():
        if data.draw(st.booleans()):
            return data.draw(st.integers(0, layout.size))
        beside = data.draw(st.sampled_from(near)) + data.draw(st.integers(-1, 1))
        return min(max(beside, 0), layout.size)

    worst = set(layout.beforehand(layout.described_start, layout.size))
    for _ in range(5):
        start, stop = sorted([offset(), offset()])
        beforehand = list(layout.beforehand(start, stop))
        assert set(beforehand) == needed(layout, start, stop)
        assert len(beforehand) == len(set(beforehand))
        assert {algorithm for _, algorithm in beforehand} <= set(layout.algorithms)
        # But for the list itself, which is made of what is known.
        assert {each for each in beforehand if each[0].source is not layout.listing} <= worst
    assert list(layout.beforehand(0, layout.size)) == []


@any_format
@settings(deadline=None)
@given(st.lists(large_members, min_size=1, max_size=4), st.data())
def test_any_slice_of_members_of_any_size(format_, members, data):
    layout = Layout(format_, members)
    starts = [layout.content_start(index) for index in range(len(members))]
    stops = [start + each.size for start, each in zip(starts, members, strict=True)]
    near = data.draw(st.sampled_from([0, *starts, *stops, layout.size]))
    start = max(near - data.draw(st.integers(0, 2000)), 0)
    stop = start + data.draw(st.integers(0, 4000))
    expected = found_step_by_step(format_, members, start, stop)
    assert assemble(layout.slice(start, stop)) == expected


REFERENCE = [
    member("empty"),
    member("one", 1, 1),
    member("dir/511", 511, 1_700_000_000),
    member("dir/512", 512, 1_700_000_000),
    member("dir/513", 513, 1_700_000_000),
    member("Grüße.txt", 2000, 8**11 - 1),
    member("n" * 100, 3, 8**11),
    member("n" * 101, 3),
    member("d/" * 500 + "日本語", 1025, 2**40),
    member("last", 700),
]


def test_a_tar_is_what_tarfile_writes_in_one_piece():
    """Up to our size, and it ends with two blocks of zeros, as ours does; then it only pads."""
    expected = by_tarfile(REFERENCE)
    layout = Layout(tar, REFERENCE)
    assert assemble(layout.slice(0, layout.size)) == expected[: layout.size]
    assert expected[layout.size - 1024 :] == bytes(len(expected) - layout.size + 1024)


def test_each_edge_of_a_tar_plus_and_minus_one():
    whole = by_tarfile(REFERENCE)
    layout = Layout(tar, REFERENCE)
    edges = {0, layout.size - 1024, layout.size - 512, layout.size}
    for index, each in enumerate(REFERENCE):
        content = layout.content_start(index)
        before, after, _ = tar.measure(each, 0)
        edges |= {*range(content - before, content + 1, 512)}
        edges |= {content + each.size, content + each.size + after}
    offsets = {edge + shift for edge in edges for shift in (-1, 0, 1)}
    offsets = sorted(offset for offset in offsets if 0 <= offset <= layout.size)
    for start, stop in combinations_with_replacement(offsets, 2):
        assert assemble(layout.slice(start, stop)) == whole[start:stop], (start, stop)


def test_thousands_of_random_ranges_of_a_tar():
    whole = by_tarfile(REFERENCE)
    layout = Layout(tar, REFERENCE)
    chosen = random.Random(1)
    for _ in range(5000):
        start = chosen.randrange(layout.size)
        length = chosen.choice([1, 512, 1024, layout.size])
        stop = min(start + chosen.randint(1, length), layout.size)
        assert assemble(layout.slice(start, stop)) == whole[start:stop], (start, stop)


@pytest.mark.parametrize("size", SIZES)
def test_members_of_each_size_by_layout(size):
    """The standard library finds each where the layout says, and both ends of its contents."""
    members = [member("first", 5), member("it", size), member("again", size), member("last", 7)]
    layout = Layout(tar, members)
    with tarfile.open(fileobj=io.BufferedReader(Opened(layout))) as archive:
        found = archive.getmembers()
        assert [(each.name, each.size) for each in found] == [(m.name, m.size) for m in members]
        for index, each in enumerate(found):
            assert each.offset_data == layout.content_start(index)
            file = archive.extractfile(each)
            assert file.read(9) == contents(members[index], 0, 9)
            start = max(each.size - 9, 0)
            file.seek(start)
            assert file.read() == contents(members[index], start, each.size)
    assert found[-1].offset_data + 512 + 1024 == layout.size


@any_format
def test_an_empty_slice_has_no_pieces(format_):
    layout = Layout(format_, REFERENCE)
    size = layout.size
    for start, stop in [
        (0, 0),
        (5, 5),
        (7, 3),
        (size, size),
        (size, size + 9),
        (size + 1, size + 9),
    ]:
        assert list(layout.slice(start, stop)) == []


@any_format
def test_an_archive_without_members(format_):
    layout = Layout(format_, [])
    assert layout.size == len(format_.end(0, 0, 0))
    assert assemble(layout.slice(0, layout.size + 1)) == format_.end(0, 0, 0)


@any_format
def test_contents_start_where_content_start_says(format_):
    layout = Layout(format_, REFERENCE)
    whole = in_one_piece(format_, REFERENCE)
    for index, each in enumerate(REFERENCE):
        start = layout.content_start(index)
        assert whole[start : start + each.size] == contents(each, 0, each.size)
        if each.size:
            assert list(layout.slice(start, start + 1)) == [Content(each, 0, 1)]


def test_a_member_without_contents_has_no_placeholder():
    layout = Layout(tar, [member(size=0)])
    assert all(isinstance(piece, bytes) for piece in layout.slice(0, layout.size))


def test_the_same_member_twice_is_two_members():
    layout = Layout(tar, [member("a", 3)] * 2)
    placeholders = [each for each in layout.slice(0, layout.size) if isinstance(each, Content)]
    assert placeholders == [Content(member("a", 3), 0, 3)] * 2
    assert layout.content_start(1) - layout.content_start(0) == 1024


# What follows from contents.


def test_bytes_follow_from_what_the_format_defers_and_from_what_is_listed():
    members = [member("a", 3), member("b/"), member("c", 5)]
    sums = listing_of(members)
    for format_, deferred in [(tar, []), (Listed(), ["crc32"])]:
        plain, layout = Layout(format_, members), Layout(format_, [*members, sums])
        assert (plain.listing, plain.algorithms) == (None, deferred)
        assert plain.described_start == plain.trailer_start
        assert (layout.listing, layout.algorithms) == (sums.source, [*deferred, "sha256"])
        assert layout.described_start == layout.content_start(3) < layout.trailer_start
        assert assemble(
            layout.slice(layout.described_start, layout.described_start + sums.size)
        ) == (listed(members))
    assert (Layout(tar, []).listing, Layout(tar, []).algorithms) == (None, [])


def test_one_byte_of_a_list_needs_all_digests_that_are_not_stated():
    members = [
        member("a", 3),
        stating_all(member("b", 3)),
        member("c"),
        member("d/"),
        stating(member("e", 3)),
    ]
    layout = Layout(tar, [*members, listing_of(members)])
    start = layout.described_start
    expected = [(members[0], "sha256"), (members[4], "sha256")]
    assert list(layout.beforehand(start, start + 1)) == expected
    assert list(layout.beforehand(start + layout.members[-1].size, layout.size)) == []
    assert list(layout.beforehand(start, start)) == []
    # The last one passes first.
    assert list(layout.beforehand(layout.content_start(4), start + 1)) == expected[:1]
    assert list(layout.beforehand(layout.content_start(4) + 1, start + 1)) == expected
    assert list(layout.beforehand(layout.content_start(4) + 1, start)) == []


def test_the_bytes_that_describe_a_list_need_what_it_lists():
    """It has to be made for them."""
    members = [member("a", 3), member("bb", 3)]
    sums = listing_of(members, "c" * 7)
    layout = Layout(Listed(), [*members, sums])
    after = layout.content_start(2) + sums.size
    assert list(layout.beforehand(after, after + 1)) == [
        (members[0], "sha256"),
        (members[1], "sha256"),
        (sums, "crc32"),
    ]
    assert list(layout.beforehand(layout.trailer_start, layout.trailer_start + 1)) == [
        (members[0], "crc32")
    ]


def test_a_directory_is_a_member_whose_name_ends_in_a_slash():
    assert member("a/").is_directory
    assert not member("a").is_directory
    assert not member("a/b").is_directory


# Entity-tags.

TWO = [
    member("a", 1, 10, '"v"', digests=(("crc32", "00000000"),)),
    member("b", 2, 20, "Sun, 06 Nov 1994 08:49:37 GMT"),
]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "c"},
        {"size": 3},
        {"mtime": 11},
        {"validator": '"w"'},
        {"digests": ()},
        {"digests": (("crc32", "00000001"),)},
        {"digests": (("sha256", "00000000"),)},
        {"digests": (("crc32", "00000000"), ("sha256", "00"))},
        {"source": "http://origin/b"},  # whose validator may be the same: it proves nothing there
    ],
    ids=str,
)
def test_an_entity_tag_changes_with_what_the_bytes_depend_on(change):
    assert Layout(tar, [TWO[0]._replace(**change), TWO[1]]).etag != Layout(tar, TWO).etag


def test_an_entity_tag_changes_with_order_number_and_format():
    kinds = [
        (tar, TWO),
        (tar, TWO[::-1]),
        (tar, TWO[:1]),
        (tar, [*TWO, TWO[0]]),
        (tar, []),
        (Letters(), TWO),
        (Letters(suffix="others"), TWO),
    ]
    assert len({Layout(*each).etag for each in kinds}) == len(kinds)


@pytest.mark.parametrize("change", [{"source": "https://mirror:8/a?sig=x"}, {"id": "i"}])
def test_an_entity_tag_does_not_change_with_what_an_origin_is_called(change):
    """Nor with a signature, nor with an id."""
    assert Layout(tar, [TWO[0]._replace(**change), TWO[1]]).etag == Layout(tar, TWO).etag


described = st.builds(
    member,
    st.text("a1", min_size=1, max_size=3),
    st.integers(0, 11),
    st.integers(0, 11),
    st.text('a1"', max_size=2).map('"{}"'.format),
    digests=st.sampled_from([(), (("crc32", "11"),), (("crc32", "1"), ("sha256", "1"))]),
)


@given(st.lists(described, max_size=3), st.lists(described, max_size=3))
def test_archives_of_one_entity_tag_are_one_archive(these, those):
    assert (Layout(tar, these).etag == Layout(tar, those).etag) == (these == those)


def test_no_field_of_a_member_passes_for_another():
    """What is joined to be hashed can be read in one way only."""
    alike = [
        [member("a", 1, 11)],
        [member("a", 11, 1)],
        [member("a1", 1, 1)],
        [member("a", 1, 1, '"1"')],
        [member("a", 1, 1, "1")],
        [member("a", 1, 1, '""')],
        [member("a", 1, 1, '"()"')],
        [member("a\n", 1, 1)],
    ]
    assert len({Layout(tar, each).etag for each in alike}) == len(alike)


def test_an_entity_tag_can_stand_in_a_header():
    etag = Layout(tar, TWO).etag
    assert etag[0] == etag[-1] == '"'
    assert etag[1:-1].isascii()
    assert etag[1:-1].isalnum()


STRONG, DATE = '"s"', "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("validators", "prefix"),
    [
        ([], '"'),
        ([STRONG], '"'),
        ([STRONG, DATE], '"'),
        (['W/"w"'], 'W/"'),
        ([STRONG, f"W/{DATE}", STRONG], 'W/"'),
        ([None], None),
        ([STRONG, None, STRONG], None),
        (['W/"w"', None], None),
        ([None, 'W/"w"', STRONG], None),
    ],
)
def test_an_archive_is_validated_as_well_as_its_weakest_member(validators, prefix):
    """Strong where each member's validator is, weak where each has one, else there is none."""
    layout = Layout(tar, [member(str(index), 1, 0, v) for index, v in enumerate(validators)])
    if prefix is None:
        assert layout.etag is None
    else:
        assert layout.etag.startswith(prefix)
    assert layout.seekable == (prefix == '"')


def test_a_digest_validates_nothing():
    known = member(validator=None, digests=(("sha256", "00"),))
    assert Layout(tar, [known]).etag is None


def test_a_validator_may_hold_bytes_that_are_not_utf_8():
    """RFC 9110 8.8.3, obs-text; aiohttp makes surrogates of them."""
    tags = [Layout(tar, [member(validator=each)]).etag for each in ['"\udce9"', '"\udcea"', '"?"']]
    assert len(set(tags)) == 3


# What is counted is what is sent.


class Drifting(Letters):
    """Renders another length than it measured, in one place."""

    def __init__(self, place):
        super().__init__(b"end")
        self.place = place
        self.excess = 1

    def before(self, member):
        return b"<" * (2 + self.excess * (self.place == "before"))

    def after(self, member):
        return b">" * (2 + self.excess * (self.place == "after"))

    def entry(self, member, start):
        return Deferred(2 + self.excess * (self.place == "entry"), member, "crc32", str.encode)

    def end(self, number, start, size):
        return b"." * (2 + self.excess * (self.place == "end"))

    def measure(self, member, start):
        return 2, 2, 2


@pytest.mark.parametrize("excess", [1, -1, -2])
@pytest.mark.parametrize("place", ["before", "after", "entry", "end"])
def test_a_length_that_drifts_is_never_sent(place, excess):
    format_ = Drifting(place)
    format_.excess = 0
    layout = Layout(format_, [member("a", 5), member("b", 5)])
    sound = list(layout.slice(0, layout.size))
    format_.excess = excess
    taken = []
    with pytest.raises(RuntimeError, match="counted"):
        taken.extend(layout.slice(0, layout.size))
    # What went before it is sound.
    assert taken == sound[: len(taken)]


def test_a_drift_that_a_slice_does_not_touch_does_not_matter():
    format_ = Drifting("before")
    layout = Layout(format_, [member("a", 5), member("b", 5)])
    assert list(layout.slice(2, 9)) == [Content(member("a", 5), 0, 5), b">>"]


# Many members.


@pytest.mark.parametrize("number", [0, 1, STEP, STEP + 1, 3 * STEP])
def test_a_layout_is_made_in_steps(number):
    """Between two of them others can run."""
    format_ = Letters()
    members = [member(str(index), 1) for index in range(number)]
    steps = lay_out(format_, members)
    measured = []
    while True:
        counted = format_.measured
        try:
            next(steps)
        except StopIteration as stopped:
            layout = stopped.value
            break
        measured.append(format_.measured - counted)
    assert sum(measured) == number
    assert max(measured, default=0) <= STEP
    at_once = Layout(format_, members)
    assert (layout.size, layout.etag) == (at_once.size, at_once.etag)
    assert list(layout.slice(0, layout.size)) == list(at_once.slice(0, at_once.size))


MANY = [member(f"photos/{index % 100}/{index}.jpg", index) for index in range(100_000)]


def test_a_layout_of_100_000_members_holds_few_bytes():
    """Less than 42 for each: offsets, no headers."""
    tracemalloc.start()
    try:
        layout = Layout(tar, MANY)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert layout.size > 100_000 * 512
    assert held < 4 << 20
    assert peak < 4 << 20


def test_a_layout_renders_nothing_until_it_is_sliced():
    format_ = Letters()
    layout = Layout(format_, MANY)
    pieces = layout.slice(0, layout.size)
    assert not format_.rendered
    for _ in range(6):
        next(pieces)
    assert len(set(format_.rendered)) <= 6


def test_a_slice_at_the_very_end_touches_only_the_end():
    members = Viewed([member(f"{index:05}--", index % 7) for index in range(100_000)])
    format_ = Letters(b"trailer")
    layout = Layout(format_, members)
    members.viewed.clear()
    assert assemble(layout.slice(layout.size - 7, layout.size)) == b"trailer"
    assert not members.viewed
    assert not format_.rendered
    assert assemble(layout.slice(layout.size - 8, layout.size - 6)) == b">t"
    assert members.viewed == {99_999}
    assert len(format_.rendered) == 1


def test_a_slice_at_the_very_beginning_touches_only_the_beginning():
    members = Viewed(MANY)
    format_ = Letters()
    layout = Layout(format_, members)
    members.viewed.clear()
    assert list(layout.slice(0, 1)) == [format_.before(MANY[0])[:1]]
    assert members.viewed == {0}
    second = layout.content_start(1) - len(format_.before(MANY[1]))
    assert list(layout.slice(0, second)) == [format_.before(MANY[0]), format_.after(MANY[0])]
    assert members.viewed == {0}


def test_openers_are_equal_to_themselves_only():
    def open_(start, stop):
        raise AssertionError("nobody reads")

    one, other = Opener(open_, once=True), Opener(open_, once=True)
    assert one == one  # noqa: PLR0124 - that is the rule
    assert one != other
    assert (one.open, one.once) == (open_, True)
    assert len({one, other}) == 2


@pytest.mark.parametrize("format_", FORMATS)
def test_no_bytes_follow_from_nothing(format_):
    layout = Layout(FORMATS[format_], MANY[:3])
    assert not any(list(layout.slice(at, at)) for at in range(layout.size + 1))
    assert not any(list(layout.beforehand(at, at)) for at in range(layout.size + 1))


def test_contents_that_are_at_no_url_have_no_path():
    here = member(size=1)._replace(source=b"x")
    root = here._replace(source="https://origin/")
    assert Layout(tar, [here]).etag == Layout(tar, [root]).etag
