"""What a request asks for: query string, form and JSON are read alike, and given out again."""

import json
from contextlib import suppress
from dataclasses import replace
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tarstream import names
from tarstream.errors import BadRequest
from tarstream.formats import KINDS
from tarstream.query import MAX_URL, ArchiveRequest, read_form, read_json, read_request


def asked(text):
    return read_request(read_form(text))


def posted(value):
    return read_request(
        read_json(value if isinstance(value, bytes) else json.dumps(value).encode())
    )


def refused(read, value):
    with pytest.raises(BadRequest) as caught:
        read(value)
    assert caught.value.status == 400
    return caught.value.detail


# Ids.

IDS = [
    ("ids=a", ["a"]),
    ("ids=a,b,c", ["a", "b", "c"]),
    ("ids=c,a,b,a", ["c", "a", "b", "a"]),
    # URLSearchParams, requests and forms encode commas.
    ("ids=a%2Cb%2cc", ["a", "b", "c"]),
    ("id=a", ["a"]),
    ("id=a,b", ["a,b"]),
    ("id=a%2Cb", ["a,b"]),
    ("ids=a,b&id=c,d&ids=e&id=a", ["a", "b", "c,d", "e", "a"]),
    ("id=z&ids=y,x&id=w", ["z", "y", "x", "w"]),
    ("ids=a&ids=a&id=a", ["a", "a", "a"]),
    ("ids=a+b,c%2Bd,e%20f", ["a b", "c+d", "e f"]),
    ("ids=dir/a.txt,dir%2Fb.txt", ["dir/a.txt", "dir/b.txt"]),
    ("ids=Gr%C3%BC%C3%9Fe,%E6%97%A5", ["Grüße", "日"]),
    ("ids=Grüße,日", ["Grüße", "日"]),
    ("ids=a%26b,c%3Dd,e=f,100%25,g%23h", ["a&b", "c=d", "e=f", "100%", "g#h"]),
    ("ids=%,%zz,%2", ["%", "%zz", "%2"]),
    ("ids=%252C", ["%2C"]),
    ("ids=..%2Fsecret,%00,%0A", ["../secret", "\0", "\n"]),
    ("ids=+a+", [" a "]),
    ("ids=+", [" "]),
    ("ids=a;b", ["a;b"]),
    ("i%64s=a", ["a"]),
    ("&&ids=a&", ["a"]),
    # Names have no case variants, and unknown ones are ignored, however often.
    ("IDS=b&ids=a&Id=c", ["a"]),
    ("ids=a&utm=1&utm=2&x&=y", ["a"]),
]


@pytest.mark.parametrize(("text", "ids"), IDS)
def test_ids_stand_in_the_order_in_which_they_are_given(text, ids):
    assert list(asked(text).ids) == ids


@pytest.mark.parametrize(("text", "ids"), [pair for pair in IDS if pair[0].isascii()])
def test_a_form_is_read_as_a_query_string_is(text, ids):
    assert asked(text.encode()) == asked(text)


@pytest.mark.parametrize("text", ["", "&", "name=x", "IDS=a", "Ids=a", "ids[]=a", "x=ids=a"])
def test_ids_are_required(text):
    assert refused(asked, text).startswith("ids is required")


@pytest.mark.parametrize(
    "text", ["ids=", "ids", "id=", "id", "ids=a,,b", "ids=,a", "ids=a,", "ids=a&id=", "ids=%2C"]
)
def test_an_empty_id_is_refused(text):
    assert refused(asked, text).startswith("an id is empty")


@pytest.mark.parametrize(
    "text",
    [
        "ids=%FF",
        "ids=a%C3",
        "ids=a%C3,b",
        "ids=%ED%A0%80",
        "ids=%C0%AF",
        "id=%80",
        "ids=a&name=%E9",
        "ids=a&unknown=%FF",
        "ids=a&%FF=1",
        "ids=\udcff",
        "ids=a&x=\udc80",
    ],
)
def test_bytes_that_are_not_utf_8_are_refused_never_replaced(text):
    assert refused(asked, text) == "the request holds bytes that are not UTF-8"


def test_a_form_whose_bytes_are_not_utf_8_is_refused():
    assert refused(asked, b"ids=\xff") == "the request holds bytes that are not UTF-8"
    assert list(asked("ids=Grüße".encode()).ids) == ["Grüße"]


# The other parameters.


def test_what_is_not_said_has_a_default():
    assert asked("ids=a") == ArchiveRequest(["a"], "tar", "archive", "fail", None, None)


def test_what_is_said_is_taken():
    text = "missing=skip&ids=a&version=0123abc&format=tar&checksums=sha256&name=My+pictures"
    assert asked(text) == ArchiveRequest(["a"], "tar", "My pictures", "skip", "sha256", "0123abc")


@pytest.mark.parametrize("key", ["format", "name", "missing", "checksums", "version"])
@pytest.mark.parametrize("second", ["tar", "", "other"])
def test_a_parameter_given_twice_is_refused(key, second):
    good = {"format": "tar", "missing": "fail", "checksums": "sha256"}.get(key, "x")
    assert refused(asked, f"ids=a&{key}={good}&{key}={second}") == f"{key} is given twice"


@pytest.mark.parametrize("value", ["", "rar", "TAR", "tar ", ".tar", "tar.xz"])
def test_a_format_is_one_of_those_there_are(value):
    said = refused(asked, f"ids=a&format={quote(value)}")
    assert said == f"format must be one of: {', '.join(KINDS)}"


def test_each_format_there_is_can_be_asked_for():
    for format_ in KINDS:
        assert asked(f"ids=a&format={format_}").format == format_


@pytest.mark.parametrize("value", ["", "FAIL", "ignore", "skip,fail", "0"])
def test_missing_is_fail_or_skip(value):
    assert refused(asked, f"ids=a&missing={value}") == "missing must be fail or skip"
    assert [asked(f"ids=a&missing={word}").missing for word in ("fail", "skip")] == ["fail", "skip"]


@pytest.mark.parametrize("value", ["", "SHA256", "md5", "crc32", "sha256,sha256", "sha-256", "0"])
def test_checksums_are_sha256(value):
    assert refused(asked, f"ids=a&checksums={value}") == "checksums must be sha256"
    assert asked("ids=a&checksums=sha256").checksums == "sha256"


@pytest.mark.parametrize("format_", KINDS)
def test_checksums_can_be_asked_for_in_each_format(format_):
    assert asked(f"ids=a&checksums=sha256&format={format_}").checksums == "sha256"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("pictures", "pictures"),
        ("Grüße vom See", "Grüße vom See"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("a/b\\c", "a_b_c"),
        ("..", "unnamed"),
        ("a\r\nSet-Cookie: x", "a__Set-Cookie: x"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}x", "_x"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_name_becomes_one_safe_segment(value, name):
    assert asked(f"ids=a&name={quote(value)}").name == name


def test_name_and_version_are_not_empty():
    assert refused(asked, "ids=a&name=") == "name must not be empty"
    assert refused(asked, "ids=a&version").startswith("version must not be empty")


# JSON.


def test_json_takes_ids_whole():
    assert list(posted({"ids": ["a,b", "c", "c", " d ", "%2C", "+"]}).ids) == [
        "a,b",
        "c",
        "c",
        " d ",
        "%2C",
        "+",
    ]


def test_json_takes_the_same_parameters():
    value = {"ids": ["a"], "format": "tar", "name": "x", "missing": "skip", "version": "v"}
    value |= {"checksums": "sha256"}
    assert posted(value) == asked(urlencode({**value, "ids": "a"}))


def test_json_ignores_what_it_does_not_know():
    value = {"x": {"ids": ["b"], "deep": [1, None, 1.5, True]}, "ids": ["a"], "y": None}
    assert list(posted(value).ids) == ["a"]


def test_json_takes_id_for_one_id():
    assert list(posted({"id": "a,b", "ids": ["c"]}).ids) == ["a,b", "c"]


@pytest.mark.parametrize("value", [[], None, 1, "a", True, [["a"]]])
def test_a_json_body_is_an_object(value):
    assert refused(posted, value).startswith("the body must be a JSON object")


@pytest.mark.parametrize("value", ["a", "a,b", 1, None, True, {"a": 1}, {}])
def test_ids_in_json_are_a_list(value):
    assert refused(posted, {"ids": value}) == "ids must be a list of strings"


@pytest.mark.parametrize("value", [1, None, True, ["a"], {"a": "b"}, {}, 1.5])
def test_an_id_in_json_is_a_string(value):
    assert refused(posted, {"ids": ["a", value]}) == "an id must be a string"
    assert refused(posted, {"id": value}) == "an id must be a string"


@pytest.mark.parametrize("key", ["format", "name", "missing", "checksums", "version"])
@pytest.mark.parametrize("value", [1, None, True, ["tar"], {"a": "b"}])
def test_a_parameter_in_json_is_a_string(key, value):
    assert refused(posted, {"ids": ["a"], key: value}) == f"{key} must be a string"


def test_an_empty_id_in_json_is_refused():
    assert refused(posted, {"ids": ["a", ""]}).startswith("an id is empty")
    assert refused(posted, {"ids": []}).startswith("ids is required")
    assert refused(posted, {}).startswith("ids is required")


@pytest.mark.parametrize(
    "body",
    [
        b'{"ids": ["\\ud800"]}',
        b'{"ids": ["a\\udfff"]}',
        b'{"ids": ["\\udfff\\ud800"]}',
        b'{"ids": ["a"], "name": "\\ud83d"}',
        b'{"ids": ["a"], "version": "\\ud83d"}',
    ],
)
def test_half_of_a_surrogate_pair_is_refused(body):
    assert refused(posted, body).endswith("holds half of a surrogate pair")


def test_a_whole_surrogate_pair_is_a_character():
    assert list(posted(b'{"ids": ["\\ud83d\\ude00"]}').ids) == ["😀"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"ids": ["a"], "name": "x", "name": "y"}',
        b'{"ids": ["a"], "name": "x", "name": "x"}',
        b'{"name": null, "name": "x", "ids": ["a"]}',
        b'{"ids": ["a"], "checksums": "sha256", "checksums": "sha256"}',
    ],
)
def test_a_key_that_stands_twice_in_json_is_not_resolved_by_chance(body):
    assert refused(posted, body) in {
        "name is given twice",
        "name must be a string",
        "checksums is given twice",
    }


def test_ids_that_stand_twice_in_json_add_up_as_in_a_query():
    assert list(posted(b'{"ids": ["a"], "id": "b", "ids": ["c"]}').ids) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ids=a",
        b'{"ids": ["a"]',
        b'{"ids": ["a"]} x',
        b"{'ids': ['a']}",
        b'\xef\xbb\xbf{"ids": ["a"]}',
        '{"ids": ["a"]}'.encode("utf-16-le"),
        b'{"ids": ["a"], "x": NaN}',
        b'{"ids": ["a"], "x": [Infinity]}',
        b'{"ids": ["a"], "x": -Infinity}',
        b'{"ids": ["a"], "x": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"ids":' * 100_000,
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "ids": ["a"]}',
    ],
)
def test_what_is_not_json_is_refused(body):
    assert refused(posted, body) == "the body is not JSON"


@pytest.mark.parametrize("body", [b"\xff", b'{"ids": ["\xe9"]}', b'{"ids": ["\xed\xa0\x80"]}'])
def test_json_that_is_not_utf_8_is_refused(body):
    assert refused(posted, body) == "the body holds bytes that are not UTF-8"


def test_fields_of_query_and_body_are_one_request():
    fields = read_form("ids=a&name=x") + read_json(b'{"ids": ["b,c"], "missing": "skip"}')
    assert read_request(fields) == ArchiveRequest(["a", "b,c"], "tar", "x", "skip", None, None)
    with pytest.raises(BadRequest, match="name is given twice"):
        read_request(fields + read_json(b'{"name": "x"}'))


# Whatever is sent, it is a request or refused.

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["ids", "id", "name", "format"]) | st.text(), inner)
    ),
)


@given(st.binary() | ANYTHING.map(json.dumps).map(str.encode))
def test_any_body_is_a_request_or_refused(body):
    for read in (read_json, read_form):
        with suppress(BadRequest):
            request = read_request(read(body))
            assert all(request.ids)
            ("".join(request.ids) + request.name).encode()


@given(st.text())
@example("ids=" + "%" * 1000)
def test_any_query_is_a_request_or_refused(text):
    with suppress(BadRequest):
        assert all(asked(f"ids=a&{text}").ids)


# The way back.

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
REQUESTS = st.builds(
    ArchiveRequest,
    ids=st.lists(TEXT, min_size=1),
    format=st.sampled_from(list(KINDS)),
    name=TEXT.map(names.segment),
    missing=st.sampled_from(["fail", "skip"]),
    checksums=st.sampled_from([None, "sha256"]),
    version=st.none(),
)


@given(REQUESTS, st.none() | TEXT)
@example(ArchiveRequest(["a,b", "c"], "tar", "archive", "fail", None, None), "v")
@example(ArchiveRequest(["a b", "+", "%2B", "&=#?;/"], "tar", "a&b", "skip", None, None), '"<>')
@example(ArchiveRequest([",", ",,"], "tar", "ids", "fail", None, None), None)
@example(ArchiveRequest(["\0\r\n\x7f\u2028"], "tar", "é", "fail", None, None), "é")
def test_a_path_that_is_given_out_asks_for_the_same(request, version):
    version = None if KINDS[request.format].coding else version
    path = request.path("/base/archive", version)
    assert path.isascii()
    assert path.isprintable()
    assert not set(' "<>\\^`{|}#') & set(path)
    route, query = path.split("?")
    assert route == "/base/archive"
    again = asked(query)
    assert list(again.ids) == list(request.ids)
    assert again == replace(request, ids=again.ids, version=version)
    # As a client that decodes and encodes it anew sends it.
    assert asked("&".join(f"{k}={quote_plus(v)}" for k, v in read_form(query))) == again


def test_a_path_is_as_short_as_can_be():
    assert asked("ids=a,dir/b c&format=tar&missing=fail&name=archive").path("/archive", None) == (
        "/archive?ids=a,dir/b%20c"
    )
    assert asked("id=a,b&ids=c&missing=skip&name=x").path("/archive", "v") == (
        "/archive?id=a%2Cb&id=c&name=x&missing=skip&version=v"
    )
    assert asked("version=u&checksums=sha256&ids=a&missing=skip").path("/archive", "v") == (
        "/archive?ids=a&missing=skip&checksums=sha256&version=v"
    )


def test_what_may_stand_in_a_query_stands_there_as_it_is():
    """RFC 3986 3.4, less what clients and shells write differently."""
    path = ArchiveRequest(["/:@!$()*~-._"], "tar", "archive", "fail", None, None).path(
        "/archive", None
    )
    assert path == "/archive?ids=/:@!$()*~-._"


def test_a_path_names_a_format_that_is_not_the_default():
    request = ArchiveRequest(["a"], "x&y", "archive", "fail", None, None)
    assert request.path("/archive", None) == "/archive?ids=a&format=x%26y"


def test_a_path_is_pinned_to_the_version_it_is_given_not_to_the_one_asked_for():
    request = asked("ids=a&version=old")
    assert request.path("/archive", "new") == "/archive?ids=a&version=new"
    assert request.path("/archive", None) == "/archive?ids=a"


@pytest.mark.parametrize("character", ["x", "é", ",", "%"])
def test_a_path_has_at_most_30_000_bytes(character):
    sizes = {
        count: request.path("/archive", "v")
        for count in range(29_950 // len(quote(character)), 30_001 // len(quote(character)))
        for request in [ArchiveRequest([character * count], "tar", "archive", "fail", None, None)]
    }
    given_out = [path for path in sizes.values() if path is not None]
    assert MAX_URL == 30_000
    assert MAX_URL - len(quote(character)) < len(max(given_out, key=len)) <= MAX_URL
    assert None in sizes.values()


def test_the_route_counts_for_the_length():
    request = ArchiveRequest(["x" * 29_980], "tar", "archive", "fail", None, None)
    assert request.path("/archive", None) is not None
    assert request.path("/somewhere/below/archive", None) is None


def test_a_list_that_is_far_too_long_has_no_path():
    request = ArchiveRequest(
        [f"id-{n}" for n in range(100_000)], "tar", "archive", "fail", None, None
    )
    assert request.path("/archive", None) is None


def test_a_suffix_of_the_path_is_the_format():
    for format_ in KINDS:
        assert read_request([("ids", "a")], format_).format == format_
        assert read_request([("ids", "a"), ("format", format_)], format_).format == format_


@pytest.mark.parametrize(
    ("field", "suffix", "detail"),
    [
        (("format", "tar"), "zip", "the path asks for zip, and format for tar"),
        (
            ("version", "x"),
            "tar.gz",
            "version cannot pin tar.gz: compressed bytes may differ each time",
        ),
        (("checksums", "md5"), None, "checksums must be sha256"),
    ],
)
def test_what_cannot_be_asked_for_together_is_told_in_words(field, suffix, detail):
    with pytest.raises(BadRequest) as caught:
        read_request([("ids", "a"), field], suffix)
    assert caught.value.detail == detail
