"""The plan as JSON: what is in an archive, where, and how to ask for exactly that."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarstream import plan
from tarstream.archive import Archive
from tarstream.errors import Refusal
from tarstream.formats import FORMATS, tar
from tarstream.layout import STEP, Content, Layout, Member
from tarstream.resolve import Renamed, Resolution


def archive(members, renamed=(), missing=()):
    return Archive(
        Layout(tar, members), Resolution(members, renamed, missing, frozenset(), frozenset())
    )


def parsed(made, url="/archive?ids=a"):
    return json.loads(b"".join(plan.as_json(made, "tar", url)))


def some(count):
    return [
        Member(
            f"{number}.bin",
            number * 100,
            number,
            f"https://h/{number}",
            f'"{number}"',
            (),
            f"id{number}",
        )
        for number in range(count)
    ]


def test_a_plan_says_all_that_is_known():
    members = [
        Member("a.txt", 600, 1_700_000_000, "https://h/a?secret=1", '"e"', (), "a"),
        Member("Grüße (2).txt", 0, 0, "https://h/b", 'W/"w"', (), "b,c"),
        Member("d", 1, 5, "https://h/d", "Fri, 17 May 2024 09:30:00 GMT", (), "d"),
        Member("e", 1, 5, "https://h/e", None, (), "e"),
        Member("MISSING.txt", 4, 0, b"gone", '"m"'),
    ]
    made = archive(
        members,
        [Renamed("b,c", "Grüße.txt", "Grüße (2).txt"), Renamed(None, "x", "y")],
        [Refusal("gone", "unknown")],
    )
    assert parsed(made) == {
        "format": "tar",
        "size": made.size,
        "etag": None,
        "url": "/archive?ids=a",
        "members": [
            {
                "id": "a",
                "name": "a.txt",
                "size": 600,
                "mtime": 1_700_000_000,
                "offset": 512,
                "etag": '"e"',
            },
            {
                "id": "b,c",
                "name": "Grüße (2).txt",
                "size": 0,
                "mtime": 0,
                "offset": made.layout.content_start(1),
                "etag": 'W/"w"',
            },
            {
                "id": "d",
                "name": "d",
                "size": 1,
                "mtime": 5,
                "offset": made.layout.content_start(2),
                "etag": None,
            },
            {
                "id": "e",
                "name": "e",
                "size": 1,
                "mtime": 5,
                "offset": made.layout.content_start(3),
                "etag": None,
            },
            {
                "id": None,
                "name": "MISSING.txt",
                "size": 4,
                "mtime": 0,
                "offset": made.layout.content_start(4),
                "etag": '"m"',
            },
        ],
        "renamed": [
            {"id": "b,c", "from": "Grüße.txt", "to": "Grüße (2).txt"},
            {"id": None, "from": "x", "to": "y"},
        ],
        "missing": [{"id": "gone", "reason": "unknown"}],
    }


def test_a_plan_keeps_the_order_of_its_keys():
    assert list(parsed(archive(some(1)))) == [
        "format",
        "size",
        "etag",
        "url",
        "members",
        "renamed",
        "missing",
    ]


def test_a_plan_is_utf_8_without_escapes():
    made = archive([Member("Grüße.txt", 1, 0, b"x", '"a"', (), "日本")])
    for text in (b"".join(plan.as_json(made, "tar", None)), b"".join(plan.as_lines(made))):
        assert "Grüße.txt" in text.decode()
        assert "日本" in text.decode()


def test_a_plan_never_says_where_a_member_comes_from():
    text = b"".join(plan.as_json(archive(some(3)), "tar", None))
    assert b"https://" not in text
    assert b"https://" not in b"".join(plan.as_lines(archive(some(3))))


def test_an_etag_is_that_of_the_archive_and_a_url_may_be_too_long():
    made = archive(some(2))
    assert made.etag.startswith('"')
    assert parsed(made, None)["etag"] == made.etag
    assert parsed(made, None)["url"] is None


@pytest.mark.parametrize("format_", FORMATS)
def test_an_offset_is_that_of_the_contents_first_byte(format_):
    layout = Layout(FORMATS[format_], some(5))
    made = Archive(layout, Resolution(layout.members, [], [], frozenset(), frozenset()))
    for row in parsed(made)["members"]:
        if row["size"]:
            (piece,) = layout.slice(row["offset"], row["offset"] + row["size"])
            assert isinstance(piece, Content)
            assert (piece.member.id, piece.start, piece.stop) == (row["id"], 0, row["size"])


@pytest.mark.parametrize("count", [1, 2, STEP - 1, STEP, STEP + 1, 3 * STEP + 7])
def test_lines_say_the_same_members_as_the_object(count):
    made = archive(some(count))
    lines = b"".join(plan.as_lines(made)).split(b"\n")
    assert lines.pop() == b""
    rows = [json.loads(line) for line in lines]
    assert rows == parsed(made)["members"]
    assert [row["id"] for row in rows] == [f"id{number}" for number in range(count)]


def test_no_chunk_has_more_than_a_step_of_anything():
    """Between two chunks other downloads go on."""
    renamed = [Renamed(f"id{number}", "a", "b") for number in range(2000)]
    missing = [Refusal(f"id{number}", "unknown") for number in range(2000)]
    made = archive(some(2000), renamed, missing)
    for chunk in plan.as_json(made, "tar", None):
        assert chunk.count(b'"id": ') <= STEP
    for chunk in plan.as_lines(made):
        assert chunk.count(b"\n") <= STEP
    assert [len(parsed(made)[key]) for key in ("members", "renamed", "missing")] == [2000] * 3


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT, TEXT, TEXT, TEXT)
def test_whatever_ids_and_names_hold_a_line_is_a_line(id_, from_, to, reason):
    member = Member("a", 1, 0, "https://h/a", '"a"', (), id_)
    made = archive([member], [Renamed(id_, from_, to)], [Refusal(id_, reason)])
    (line,) = b"".join(plan.as_lines(made)).rstrip(b"\n").split(b"\n")
    assert json.loads(line)["id"] == id_
    assert parsed(made)["renamed"] == [{"id": id_, "from": from_, "to": to}]
    assert parsed(made)["missing"] == [{"id": id_, "reason": reason}]


@pytest.mark.parametrize(
    ("format_", "etag"), [("tar.gz", 'W/"{}-gzip"'), ("tar.zst", 'W/"{}-zstd"')]
)
def test_of_what_is_compressed_nobody_knows_the_size(format_, etag):
    made = archive(some(2))
    plain = json.loads(b"".join(plan.as_json(made, "tar", None)))
    packed = json.loads(b"".join(plan.as_json(made, format_, None)))
    etag = etag.format(made.etag.strip('"'))
    assert packed == plain | {"format": format_, "size": None, "etag": etag}
    headers = plan.line_headers(made, format_, None)
    assert "X-Archive-Size" not in headers
    assert headers["ETag"] == etag


def test_what_lines_do_not_say_stands_in_headers():
    made = archive(some(3))
    assert plan.line_headers(made, "tar", "/archive?ids=a&version=b") == {
        "Content-Type": "application/x-ndjson",
        "X-Archive-Members": "3",
        "X-Accel-Buffering": "no",
        "X-Archive-Size": str(made.size),
        "ETag": made.etag,
        "Link": '</archive?ids=a&version=b>; rel="canonical"',
    }


def test_a_header_that_would_say_nothing_is_left_out():
    made = archive([Member("a", 1, 0, "https://h/a", None, (), "a")])
    assert list(plan.line_headers(made, "tar", None)) == [
        "Content-Type",
        "X-Archive-Members",
        "X-Accel-Buffering",
        "X-Archive-Size",
    ]
