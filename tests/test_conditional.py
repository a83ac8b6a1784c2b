from email.utils import format_datetime

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tarstream.conditional import Selection, select

E = '"2f7a"'
N = 10_000

FIELDS = ("Range", "If-Range", "If-Match", "If-None-Match")
WHOLE = (200, 0, N)
NOT_MODIFIED = (304, 0, 0)
FAILED = (412, 0, 0)
UNSATISFIABLE = (416, 0, 0)


def fields(lines):
    """Header lines as a request has them; names in lower case, as HTTP/2 proxies send them."""
    pairs = (line.partition(":") for line in lines)
    return CIMultiDict((name.lower(), value.lstrip(" ")) for name, _, value in pairs)


def answer(lines, etag=E, size=N, method="GET"):
    selection = select(method, fields(lines), etag, size)
    return selection.status, selection.start, selection.stop


def ranged(value, size=N):
    return answer([f"Range: {value}"], size=size)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # GET, and conditions that rest on a date
        ([], WHOLE),
        (["Accept-Encoding: gzip"], WHOLE),
        (["If-Modified-Since: Fri, 31 Dec 9999 23:59:59 GMT"], WHOLE),
        (["If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT"], WHOLE),
        (["If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT", "Range: bytes=1-2"], (206, 1, 3)),
        # Range + If-Range
        (["Range: bytes=1-2", f"If-Range: {E}"], (206, 1, 3)),
        (["Range: bytes=1-2", f"If-Range: \t{E} "], (206, 1, 3)),
        (["Range: bytes=1-2", 'If-Range: "2f7b"'], WHOLE),
        (["Range: bytes=1-2", 'If-Range: "2F7A"'], WHOLE),
        (["Range: bytes=1-2", f"If-Range: W/{E}"], WHOLE),
        (["Range: bytes=1-2", "If-Range: Fri, 31 Dec 9999 23:59:59 GMT"], WHOLE),
        (["Range: bytes=1-2", "If-Range: 2f7a"], WHOLE),
        (["Range: bytes=1-2", "If-Range: *"], WHOLE),
        (["Range: bytes=1-2", "If-Range:"], WHOLE),
        (["Range: bytes=1-2", f"If-Range: {E}, {E}"], WHOLE),
        (["Range: bytes=1-2", f'If-Range: "other", {E}'], WHOLE),
        (["Range: bytes=1-2", f"If-Range: {E}", f"If-Range: {E}"], WHOLE),
        (["Range: bytes=1-2", f"If-Range: {E}", 'If-Range: "other"'], WHOLE),
        (["Range: bytes=5-2", 'If-Range: "other"'], WHOLE),
        (["Range: bytes=5-2", f"If-Range: {E}"], UNSATISFIABLE),
        (["Range: bytes=1-2,4-5", f"If-Range: {E}"], WHOLE),
        ([f"If-Range: {E}"], WHOLE),
        (['If-Range: "other"'], WHOLE),
        # If-None-Match
        ([f"If-None-Match: {E}"], NOT_MODIFIED),
        ([f"If-None-Match: W/{E}"], NOT_MODIFIED),
        (["If-None-Match: *"], NOT_MODIFIED),
        (["If-None-Match: \t* "], NOT_MODIFIED),
        ([f'If-None-Match: "other", {E}'], NOT_MODIFIED),
        ([f'If-None-Match: {E},"other"'], NOT_MODIFIED),
        ([f'If-None-Match: "a,b" ,\tW/{E}\t, "c"'], NOT_MODIFIED),
        ([f"If-None-Match: ,, {E} ,"], NOT_MODIFIED),
        (['If-None-Match: "other"', f"If-None-Match: {E}"], NOT_MODIFIED),
        ([f"If-None-Match: {E}", 'If-None-Match: "other"'], NOT_MODIFIED),
        (['If-None-Match: "other"'], WHOLE),
        (['If-None-Match: "2F7A"'], WHOLE),
        (['If-None-Match: "2f7"'], WHOLE),
        (['If-None-Match: "2f7aa"'], WHOLE),
        (['If-None-Match: ""'], WHOLE),
        (["If-None-Match:"], WHOLE),
        (["If-None-Match: ,"], WHOLE),
        (["If-Modified-Since: Fri, 31 Dec 9999 23:59:59 GMT", 'If-None-Match: "other"'], WHOLE),
        # If-None-Match: what is no entity-tag matches nothing, and hides no tag after it
        (["If-None-Match: 2f7a"], WHOLE),
        ([f"If-None-Match: w/{E}"], WHOLE),
        ([f"If-None-Match: W/ {E}"], WHOLE),
        ([f"If-None-Match: W/W/{E}"], WHOLE),
        ([f"If-None-Match: {E[:-1]}"], WHOLE),
        ([f"If-None-Match: x{E}"], WHOLE),
        ([f"If-None-Match: {E}x"], WHOLE),
        ([f"If-None-Match: {E}{E}"], WHOLE),
        ([f"If-None-Match: \xa0{E}"], WHOLE),
        (['If-None-Match: *, "other"'], WHOLE),
        (["If-None-Match: *,"], WHOLE),
        (["If-None-Match: **"], WHOLE),
        ([f"If-None-Match: *, {E}"], NOT_MODIFIED),
        ([f"If-None-Match: rubbish, {E}"], NOT_MODIFIED),
        ([f'If-None-Match: "a b", {E}'], NOT_MODIFIED),
        ([f'If-None-Match: "a" b, {E}'], NOT_MODIFIED),
        ([f"If-None-Match: {E}, rubbish"], NOT_MODIFIED),
        # ... but behind a quote that is never closed nobody knows what is a tag
        ([f'If-None-Match: {E}, "'], NOT_MODIFIED),
        ([f'If-None-Match: "a, {E}'], WHOLE),
        (['If-None-Match: "a,2f7a'], WHOLE),
        # If-Match
        ([f"If-Match: {E}"], WHOLE),
        (["If-Match: *"], WHOLE),
        ([f'If-Match: "a,b" ,, {E}'], WHOLE),
        ([f'If-Match: {E}, W/"other"'], WHOLE),
        ([f'If-Match: {E}, "", "\xe9\udcff"'], WHOLE),
        (['If-Match: "other"', f"If-Match: {E}"], WHOLE),
        ([f"If-Match: {E}", 'If-Match: "other"'], WHOLE),
        (['If-Match: "other"'], FAILED),
        (['If-Match: "2F7A"'], FAILED),
        ([f"If-Match: W/{E}"], FAILED),
        ([f'If-Match: W/{E}, "other"'], FAILED),
        (["If-Match:"], FAILED),
        (["If-Match: 2f7a"], FAILED),
        (["If-Match: **"], FAILED),
        (['If-Match: *, "other"'], FAILED),
        # If-Match: with an element that is no entity-tag nothing matches
        ([f"If-Match: *, {E}"], FAILED),
        ([f"If-Match: {E}, rubbish"], FAILED),
        ([f"If-Match: rubbish, {E}"], FAILED),
        ([f'If-Match: {E}, "'], FAILED),
        ([f'If-Match: {E}, "a b"'], FAILED),
        ([f'If-Match: {E}, "\x7f"'], FAILED),
        ([f'If-Match: {E}, "a"b"'], FAILED),
        ([f'If-Match: {E}, w/"other"'], FAILED),
        ([f'If-Match: {E} "other"'], FAILED),
        # Precedence, RFC 9110 13.2.2: If-Match, If-None-Match, Range
        (['If-Match: "other"', f"If-None-Match: {E}", "Range: bytes=1-2"], FAILED),
        (['If-Match: "other"', "Range: bytes=5-2"], FAILED),
        ([f"If-Match: {E}", f"If-None-Match: {E}", "Range: bytes=1-2"], NOT_MODIFIED),
        ([f"If-Match: {E}", 'If-None-Match: "other"', "Range: bytes=1-2"], (206, 1, 3)),
        ([f"If-None-Match: {E}", "Range: bytes=1-2"], NOT_MODIFIED),
        ([f"If-None-Match: {E}", "Range: bytes=1-2", f"If-Range: {E}"], NOT_MODIFIED),
        ([f"If-None-Match: {E}", "Range: bytes=5-2"], NOT_MODIFIED),
        (["If-None-Match: *", "Range: bytes=1-2,4-5"], NOT_MODIFIED),
        ([f"If-Match: {E}", "Range: bytes=1-2", 'If-Range: "other"'], WHOLE),
    ],
)
def test_conditions(lines, expected):
    assert answer(lines) == expected


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        # the contract's
        ("bytes=0-0", N, (206, 0, 1)),
        ("bytes=9999-", N, (206, 9999, N)),
        ("bytes=0-", N, (206, 0, N)),
        ("bytes=-1", N, (206, 9999, N)),
        ("bytes=-10000", N, (206, 0, N)),
        ("bytes=-10001", N, (206, 0, N)),
        (f"bytes=0-{10**30}", N, (206, 0, N)),
        (f"bytes=-{10**30}", N, (206, 0, N)),
        ("bytes=10000-", N, UNSATISFIABLE),
        (f"bytes={10**30}-", N, UNSATISFIABLE),
        (f"bytes={10**30}-{10**31}", N, UNSATISFIABLE),
        ("bytes=-0", N, UNSATISFIABLE),
        ("bytes=-000", N, UNSATISFIABLE),
        ("bytes=5-2", N, UNSATISFIABLE),
        ("bytes=5-4", N, UNSATISFIABLE),
        ("bytes=a-b", N, UNSATISFIABLE),
        ("bytes=10", N, UNSATISFIABLE),
        ("bytes=²-", N, UNSATISFIABLE),
        ("bytes=٠-٠", N, UNSATISFIABLE),
        ("bytes=٠-", N, UNSATISFIABLE),
        ("bytes=-٣", N, UNSATISFIABLE),
        ("bytes=0-٩", N, UNSATISFIABLE),
        ("bytes=0-0,2-3", N, WHOLE),
        ('bytes="0-0,2-3"', N, WHOLE),
        ("items=0-0", N, WHOLE),
        # edges of last-pos
        ("bytes=5-5", N, (206, 5, 6)),
        ("bytes=0-9998", N, (206, 0, 9999)),
        ("bytes=0-9999", N, (206, 0, N)),
        ("bytes=0-10000", N, (206, 0, N)),
        ("bytes=9999-9999", N, (206, 9999, N)),
        ("bytes=10000-10000", N, UNSATISFIABLE),
        # more digits than int() reads
        ("bytes=0-" + "9" * 5000, N, (206, 0, N)),
        ("bytes=-" + "9" * 5000, N, (206, 0, N)),
        ("bytes=" + "9" * 5000 + "-", N, UNSATISFIABLE),
        ("bytes=" + "9" * 5000 + "-1", N, UNSATISFIABLE),
        ("bytes=" + "0" * 5000 + "1-" + "0" * 5000 + "2", N, (206, 1, 3)),
        ("bytes=-" + "0" * 5000 + "2", N, (206, 9998, N)),
        ("bytes=-" + "0" * 5000, N, UNSATISFIABLE),
        # units (RFC 9110 14.1)
        ("BYTES=1-2", N, (206, 1, 3)),
        ("bYtEs=1-2", N, (206, 1, 3)),
        ("byteſ=1-2", N, WHOLE),
        ("byte=1-2", N, WHOLE),
        ("bytes =1-2", N, WHOLE),
        ("none=1-2", N, WHOLE),
        ("items=5-2", N, WHOLE),
        ("x-bytes=1-2", N, WHOLE),
        # no range unit, hence no ranges-specifier
        ("", N, WHOLE),
        ("foo", N, WHOLE),
        ("bytes", N, WHOLE),
        ("1-2", N, WHOLE),
        ("bytes 1-2", N, WHOLE),
        ("=1-2", N, WHOLE),
        # malformed
        ("bytes=", N, UNSATISFIABLE),
        ("bytes= ", N, UNSATISFIABLE),
        ("bytes=,", N, UNSATISFIABLE),
        ("bytes=-", N, UNSATISFIABLE),
        ("bytes=--5", N, UNSATISFIABLE),
        ("bytes=1--5", N, UNSATISFIABLE),
        ("bytes=1-2-", N, UNSATISFIABLE),
        ("bytes=+1-2", N, UNSATISFIABLE),
        ("bytes=1-+2", N, UNSATISFIABLE),
        ("bytes=-+2", N, UNSATISFIABLE),
        ("bytes=1_0-20", N, UNSATISFIABLE),
        ("bytes=1.0-2", N, UNSATISFIABLE),
        ("bytes==1-2", N, UNSATISFIABLE),
        ("bytes=1-2=", N, UNSATISFIABLE),
        ("bytes=bytes=1-2", N, UNSATISFIABLE),
        ("bytes=1-2;q=1", N, UNSATISFIABLE),
        ("bytes=*", N, UNSATISFIABLE),
        ("bytes=1-2/10000", N, UNSATISFIABLE),
        ("bytes=1-2\n", N, UNSATISFIABLE),
        ("bytes=\xa01-2", N, UNSATISFIABLE),
        # one element among empty ones, OWS around it (RFC 9110 5.6.1.2)
        ("bytes=,0-0,", N, (206, 0, 1)),
        ("bytes= \t,, ,\t1-2 \t, ,", N, (206, 1, 3)),
        ("bytes= 1-2\t", N, (206, 1, 3)),
        ("bytes=, ,-2", N, (206, 9998, N)),
        # a representation without a byte has no range
        ("bytes=0-", 0, UNSATISFIABLE),
        ("bytes=0-0", 0, UNSATISFIABLE),
        ("bytes=-5", 0, UNSATISFIABLE),
        # a representation of one byte, and one beyond 64 bits
        ("bytes=0-0", 1, (206, 0, 1)),
        ("bytes=1-", 1, UNSATISFIABLE),
        ("bytes=-1", 1, (206, 0, 1)),
        (f"bytes={2**70}-", 2**70 + 1, (206, 2**70, 2**70 + 1)),
    ],
)
def test_range(value, size, expected):
    assert ranged(value, size) == expected


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        # The cases of Go's src/net/http/range_test.go; where Go answers several ranges, or calls
        # them an error, we answer with the whole.
        ("bytes=7", 10, UNSATISFIABLE),
        ("bytes= 7 ", 10, UNSATISFIABLE),
        ("bytes=1-", 0, UNSATISFIABLE),
        ("bytes=5-4", 10, UNSATISFIABLE),
        ("bytes=0-2,5-4", 10, (200, 0, 10)),
        ("bytes=2-5,4-3", 10, (200, 0, 10)),
        ("bytes=--5,4--3", 10, (200, 0, 10)),
        ("bytes=A-", 10, UNSATISFIABLE),
        ("bytes=A- ", 10, UNSATISFIABLE),
        ("bytes=A-Z", 10, UNSATISFIABLE),
        ("bytes= -Z", 10, UNSATISFIABLE),
        ("bytes=5-Z", 10, UNSATISFIABLE),
        ("bytes=Ran-dom, garbage", 10, (200, 0, 10)),
        ("bytes=0x01-0x02", 10, UNSATISFIABLE),
        ("bytes=         ", 10, UNSATISFIABLE),
        ("bytes= , , ,   ", 10, UNSATISFIABLE),
        ("bytes=0-9", 10, (206, 0, 10)),
        ("bytes=0-", 10, (206, 0, 10)),
        ("bytes=5-", 10, (206, 5, 10)),
        ("bytes=0-20", 10, (206, 0, 10)),
        ("bytes=15-,0-5", 10, (200, 0, 10)),
        ("bytes=1-2,5-", 10, (200, 0, 10)),
        ("bytes=-2 , 7-", 11, (200, 0, 11)),
        ("bytes=0-0 ,2-2, 7-", 11, (200, 0, 11)),
        ("bytes=-5", 10, (206, 5, 10)),
        ("bytes=-15", 10, (206, 0, 10)),
        ("bytes=0-499", N, (206, 0, 500)),
        ("bytes=500-999", N, (206, 500, 1000)),
        ("bytes=-500", N, (206, 9500, N)),
        ("bytes=9500-", N, (206, 9500, N)),
        ("bytes=0-0,-1", N, WHOLE),
        ("bytes=500-700,601-999", N, WHOLE),
        # Go and nginx let spaces into a range ("Apache laxity"), which the grammar does not.
        ("bytes=1 -2", 11, UNSATISFIABLE),
        ("bytes=7 - 8", 11, UNSATISFIABLE),
        ("bytes=- 5", 11, UNSATISFIABLE),
        # The cases of nginx's range.t.
        ("bytes=0-8", 1000, (206, 0, 9)),
        ("bytes=-10", 1000, (206, 990, 1000)),
        ("bytes=990-", 1000, (206, 990, 1000)),
        ("bytes=990-1990", 1000, (206, 990, 1000)),
        ("bytes=0-9, -10, 100000-, 10-19", 1000, (200, 0, 1000)),
        ("bytes=100000-", 1000, UNSATISFIABLE),
        ("bytes=alpha", 1000, UNSATISFIABLE),
        ("bytes=10-alpha", 1000, UNSATISFIABLE),
        ("bytes=10", 1000, UNSATISFIABLE),
        ("bytes=10-11 12-", 1000, UNSATISFIABLE),
        ("bytes=0-10001, 0-0", 1000, (200, 0, 1000)),
    ],
)
def test_range_as_go_and_nginx_test_it(value, size, expected):
    assert ranged(value, size) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Range: bytes=0-0", "Range: bytes=2-3"], WHOLE),
        (["Range: bytes=0-0", "Range: 2-3"], WHOLE),
        (["Range: bytes=0-0", "Range: bytes=0-0"], WHOLE),
        (["Range: items=0-0", "Range: bytes=0-0"], WHOLE),
        (["Range: bytes=5-2", "Range: bytes=0-0"], WHOLE),
        (["Range: bytes=0-0", "Range:"], (206, 0, 1)),
        (["Range: bytes=", "Range: 0-0"], (206, 0, 1)),
    ],
)
def test_several_range_lines_are_one_list(lines, expected):
    assert answer(lines) == expected


@pytest.mark.parametrize("etag", [None, f"W/{E}"])
@pytest.mark.parametrize("value", ["bytes=0-0", "bytes=5-2", "bytes=", "bytes=0-0,2-3", "rubbish"])
@pytest.mark.parametrize("if_range", [[], [f"If-Range: {E}"], [f"If-Range: W/{E}"]])
def test_without_a_strong_etag_every_range_is_the_whole(etag, value, if_range):
    assert answer([f"Range: {value}", *if_range], etag) == WHOLE


@pytest.mark.parametrize(
    ("lines", "etag", "expected"),
    [
        (["If-Match: *"], None, WHOLE),
        ([f"If-Match: {E}"], None, FAILED),
        (["If-Match: None"], None, FAILED),
        (["If-None-Match: *"], None, NOT_MODIFIED),
        ([f"If-None-Match: {E}"], None, WHOLE),
        (["If-None-Match: None"], None, WHOLE),
        (["If-Match: *"], f"W/{E}", WHOLE),
        ([f"If-Match: {E}"], f"W/{E}", FAILED),
        ([f"If-Match: W/{E}"], f"W/{E}", FAILED),
        (["If-None-Match: *"], f"W/{E}", NOT_MODIFIED),
        ([f"If-None-Match: {E}"], f"W/{E}", NOT_MODIFIED),
        ([f"If-None-Match: W/{E}"], f"W/{E}", NOT_MODIFIED),
        (['If-None-Match: W/"other"'], f"W/{E}", WHOLE),
        # quotes, commas and what looks like syntax inside a tag are the tag's
        (['If-None-Match: "a", "b"'], '"a,b"', WHOLE),
        (['If-None-Match: "a,b"'], '"a,b"', NOT_MODIFIED),
        (['If-None-Match: "a,b"'], '"a"', WHOLE),
        (['If-None-Match: "x,"a","y"'], '"a"', WHOLE),
        (['If-Match: "a,b"'], '"a,b"', WHOLE),
        (['If-Match: "a,b"'], '"a"', FAILED),
        (['If-Match: "x,", "a"'], '"a"', WHOLE),
        (["Range: bytes=1-2", 'If-Range: "a,b"'], '"a,b"', (206, 1, 3)),
        (["Range: bytes=1-2", 'If-Range: "a,b"'], '"a"', WHOLE),
        (['If-None-Match: "W/"'], '"W/"', NOT_MODIFIED),
        (['If-None-Match: W/"W/a"'], '"W/a"', NOT_MODIFIED),
        (['If-None-Match: "*"'], '"*"', NOT_MODIFIED),
        (["If-None-Match: W/"], '""', WHOLE),
        (['If-None-Match: ""'], '""', NOT_MODIFIED),
        (['If-None-Match: "\\"'], '"\\"', NOT_MODIFIED),
        (['If-None-Match: "!#~\\", "x"'], '"!#~\\"', NOT_MODIFIED),
        (['If-Match: "\xe9"'], '"\xe9"', WHOLE),
        (['If-Match: "\udce9"'], '"\udce9"', WHOLE),
        (['If-Match: "e\u0301"'], '"\xe9"', FAILED),
    ],
)
def test_entity_tags(lines, etag, expected):
    assert answer(lines, etag) == expected


@pytest.mark.parametrize("value", ["bytes=0-0", "bytes=5-2", "bytes=-0", "bytes=", "rubbish"])
@pytest.mark.parametrize("if_range", [[], [f"If-Range: {E}"]])
def test_head_ignores_range(value, if_range):
    assert answer([f"Range: {value}", *if_range], method="HEAD") == WHOLE


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([f"If-None-Match: W/{E}", "Range: bytes=0-0"], NOT_MODIFIED),
        (["If-None-Match: *"], NOT_MODIFIED),
        (['If-None-Match: "other"'], WHOLE),
        (['If-Match: "other"', "Range: bytes=0-0"], FAILED),
        ([f"If-Match: {E}"], WHOLE),
    ],
)
def test_head_heeds_conditions(lines, expected):
    assert answer(lines, method="HEAD") == expected


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "head", ""])
@pytest.mark.parametrize("line", ["Range: bytes=0-0", "If-Match: rubbish", "If-None-Match: *"])
def test_other_methods_have_neither_conditions_nor_ranges(method, line):
    assert answer([line], method=method) == WHOLE


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Range: bytes=0-0"], "bytes 0-0/10000"),
        (["Range: bytes=-1"], "bytes 9999-9999/10000"),
        (["Range: bytes=0-20000"], "bytes 0-9999/10000"),
        (["Range: bytes=10000-"], "bytes */10000"),
        ([], None),
        ([f"If-None-Match: {E}"], None),
        (['If-Match: "other"'], None),
    ],
)
def test_content_range(lines, expected):
    assert select("GET", fields(lines), E, N).content_range(N) == expected


def test_any_object_with_getall_holds_fields():
    """One that does not fold case too: fields are asked for as RFC 9110 writes them."""

    class Fields(dict):
        def getall(self, key, default):
            return self.get(key, default)

    for fields, expected in (
        ({"Range": ["bytes=1-2"]}, (206, 1, 3)),
        ({"Range": ["bytes=1-2"], "If-Range": ['"other"']}, WHOLE),
        ({"If-Match": ['"other"']}, FAILED),
        ({"If-None-Match": ['"other"', E]}, NOT_MODIFIED),
    ):
        assert select("GET", Fields(fields), E, N) == Selection(*expected)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ['"', ",", '",', '"a",', 'W/"', '""', " ", ' "', ", ", "a", "1"])
@pytest.mark.parametrize("lead", ["", '"', "bytes=", "bytes=1", "bytes=-", "W/"])
def test_parsing_is_linear(unit, lead):
    """A megabyte: what is quadratic runs into the time limit, whatever the machine."""
    value = (lead + unit * 2**20)[: 2**20]
    for name in FIELDS:
        assert answer([f"{name}: {value}x"])[0] in {200, 412, 416}


# Properties

ETAGC = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != '"')
opaque_tags = st.text(ETAGC + "\x80\xe9\xff\udc80\udcff", max_size=6).map('"{}"'.format)
entity_tags = st.builds("{}{}".format, st.sampled_from(["", "W/"]), opaque_tags)
etags = st.one_of(st.none(), entity_tags, st.sampled_from([E, f"W/{E}"]))
sizes = st.one_of(st.integers(0, 40), st.integers(0, 2**70))
positions = st.integers(0, 50)
paddings = st.text(" \t", max_size=2)
separators = st.builds("{},{}".format, paddings, st.text(" \t,", max_size=4))

# Text made of what the parsers look for comes further into them than any text does.
near_misses = st.lists(
    st.sampled_from(
        [*'",-=*/W0159 \t', "bytes", "bytes=", E, f"W/{E}", "²", "٣", "٩", "9" * 4400, "\xe9"]
    ),
    max_size=12,
).map("".join)
values = st.one_of(st.text(), near_misses)
requests = st.lists(st.tuples(st.sampled_from(FIELDS), values), max_size=6).map(CIMultiDict)


@given(st.sampled_from(["GET", "HEAD", "POST"]), requests, etags, sizes)
def test_any_request_selects_bytes_that_exist(method, headers, etag, size):
    selection = select(method, headers, etag, size)
    assert selection.status in {200, 206, 304, 412, 416}
    assert 0 <= selection.start <= selection.stop <= size
    if selection.status == 206:
        assert selection.start < selection.stop
    elif selection.status == 200:
        assert (selection.start, selection.stop) == (0, size)
    else:
        assert selection.start == selection.stop == 0
    assert (selection.content_range(size) is None) == (selection.status not in {206, 416})


@given(requests, etags, sizes)
def test_several_lines_are_one_joined_by_commas(headers, etag, size):
    joined = {name: ", ".join(headers.getall(name)) for name in headers}
    for method in ("GET", "HEAD"):
        assert select(method, headers, etag, size) == select(
            method, CIMultiDict(joined), etag, size
        )


@given(st.data(), st.binary(min_size=1, max_size=40))
def test_a_range_is_the_slice(data, content):
    """As the definition says: the positions from first-pos to last-pos, or the last K."""
    first, last, zeros = data.draw(st.tuples(positions, positions, st.integers(0, 3)))
    for spec, wanted in [
        (f"{first:0{zeros}}-{last:0{zeros}}", [p for p in range(50) if first <= p <= last]),
        (f"{first:0{zeros}}-", range(first, 50)),
        (f"-{last:0{zeros}}", range(max(len(content) - last, 0), 50)),
    ]:
        expected = bytes(content[position] for position in wanted if position < len(content))
        status, start, stop = ranged(f"bytes={spec}", len(content))
        assert content[start:stop] == expected
        assert status == (206 if expected else 416)


@given(st.integers(0, 50), st.integers(0, 50), st.binary(min_size=1, max_size=40))
def test_aiohttp_reads_the_same_of_a_valid_range(first, more, content):
    for spec in (f"{first}-{first + more}", f"{first}-", f"-{more + 1}"):
        request = make_mocked_request("GET", "/", headers={"Range": f"bytes={spec}"})
        _, start, stop = ranged(f"bytes={spec}", len(content))
        assert content[start:stop] == content[request.http_range]


@given(st.integers(min_value=0), st.integers(0, 10**6), sizes)
def test_content_range_names_what_was_asked_for(first, more, size):
    selection = select("GET", fields([f"Range: bytes={first}-{first + more}"]), E, size)
    if first < size:
        last = min(first + more, size - 1)
        assert selection.content_range(size) == f"bytes {first}-{last}/{size}"
    else:
        assert selection.content_range(size) == f"bytes */{size}"


@given(st.data(), st.lists(entity_tags, max_size=5), opaque_tags, paddings, paddings)
def test_lists_of_entity_tags(data, tags, etag, before, after):
    """The two comparisons of RFC 9110 8.8.3.2, however the list is written."""
    value = before + "".join(tag + data.draw(separators) for tag in tags) + after
    listed = etag in tags
    weakly = listed or f"W/{etag}" in tags
    assert answer([f"If-Match: {value}"], etag)[0] == (200 if listed else 412)
    assert answer([f"If-Match: {value}"], f"W/{etag}")[0] == 412
    for validator in (etag, f"W/{etag}"):
        assert answer([f"If-None-Match: {value}"], validator)[0] == (304 if weakly else 200)


@given(st.data(), st.lists(entity_tags, min_size=1, max_size=4), etags)
def test_a_list_may_come_in_several_lines(data, tags, etag):
    name = data.draw(st.sampled_from(["If-Match", "If-None-Match"]))
    lines = [f"{name}: {tag}" for tag in tags]
    assert answer(lines, etag) == answer([f"{name}: {','.join(tags)}"], etag)


ascii_tags = st.builds('{}"{}"'.format, st.sampled_from(["", "W/"]), st.text(ETAGC, min_size=1))


@given(st.lists(ascii_tags, min_size=1, max_size=5), ascii_tags)
def test_aiohttp_reads_the_same_of_a_list_of_entity_tags(tags, etag):
    value = ", ".join(tags)
    request = make_mocked_request("GET", "/", headers={"If-None-Match": value})
    read = {f'"{tag.value}"' for tag in request.if_none_match or ()}
    expected = 304 if etag.removeprefix("W/") in read else 200
    assert answer([f"If-None-Match: {value}"], etag)[0] == expected


@given(opaque_tags, values)
def test_if_range_is_the_very_tag_or_none(etag, value):
    expected = 206 if value.strip(" \t") == etag else 200
    assert answer([f"If-Range: {value}", "Range: bytes=1-2"], etag)[0] == expected
    assert answer([f"If-Range: {etag}", "Range: bytes=1-2"], etag)[0] == 206
    assert answer([f"If-Range: W/{etag}", "Range: bytes=1-2"], etag)[0] == 200


@given(st.datetimes())
def test_a_date_in_if_range_never_matches(date):
    assert answer([f"If-Range: {format_datetime(date)}", "Range: bytes=1-2"]) == WHOLE
