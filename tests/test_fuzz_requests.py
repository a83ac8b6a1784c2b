"""What requests ask for, against readers that are written a second time, from what is promised."""

import json
import string
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tarstream.errors import BadRequest
from tarstream.formats import KINDS
from tarstream.query import ArchiveRequest, read_form, read_json, read_request

FUZZ = settings(deadline=None, max_examples=200)  # however fast the machine is

ONCE = {
    "format": "tar",
    "name": "archive",
    "missing": "fail",
    "checksums": None,
    "version": None,
}


def asked(text):
    return read_request(read_form(text))


def answer(read, value):
    """What is asked for, without the name, which is mended; None for a refusal."""
    try:
        request = read(value)
    except BadRequest:
        return None
    return list(request.ids), request.format, request.missing, request.checksums, request.version


# Ids, however a client writes them

CHARACTERS = st.characters(exclude_categories=["Cs"])
IDS = st.text(st.sampled_from("ab,+%&=#; /\\é日😀\0\n") | CHARACTERS, min_size=1, max_size=6)
SAFE = string.ascii_letters + string.digits + "-._~"


@st.composite
def written(draw, text, comma):
    """The text as some client writes it in a query: each byte as it is, or encoded in any case."""
    out = []
    for character in text:
        ways = ["%{:02X}", "%{:02x}"]
        if character in SAFE + "/:@!$'()*?\\é日😀":
            ways.append(character)
        if character == ",":
            ways += [","] if comma else []
        if character == " ":
            ways.append("+")
        way = draw(st.sampled_from(ways))
        out.append(way if "{" not in way else "".join(way.format(b) for b in character.encode()))
    return "".join(out)


@st.composite
def queries(draw):
    """Ids, and a query that asks for them: as `ids` or `id`, encoded anyhow, with noise between."""
    ids, fields = [], []
    for several in draw(st.lists(st.lists(IDS, min_size=1, max_size=3), min_size=1, max_size=3)):
        ids += several
        listed = not any("," in id_ for id_ in several) and draw(st.booleans())
        values = [draw(written(id_, comma=not listed)) for id_ in several]
        if listed:
            comma = draw(st.sampled_from([",", "%2C", "%2c"]))
            fields.append("ids=" + comma.join(values))
        else:
            fields += [f"id={value}" for value in values]
        fields += draw(
            st.lists(st.sampled_from(["", "x", "x=1", "IDS=z", "=", "Id=z"]), max_size=2)
        )
    return ids, "&".join(fields)


@FUZZ
@given(queries())
def test_ids_are_the_same_in_all_encodings(query):
    ids, text = query
    assert list(asked(text).ids) == ids
    assert list(asked(text.encode()).ids) == ids


# A form, read by WHATWG URL 5.1, with what is not UTF-8 refused


def reads_form(data):
    """Names and values, or None where they are not UTF-8, be it as sent or once decoded."""
    fields = []
    for piece in data.split(b"&"):
        if not piece:
            continue
        decoded = []
        name, _, value = piece.partition(b"=")
        for part in (name, value):
            out, rest = bytearray(), part.replace(b"+", b" ")
            while rest:
                hexes = rest[1:3]
                if (
                    rest[:1] == b"%"
                    and len(hexes) == 2
                    and all(c in b"0123456789abcdefABCDEF" for c in hexes)
                ):
                    out.append(int(hexes, 16))
                    rest = rest[3:]
                else:
                    out.append(rest[0])
                    rest = rest[1:]
            decoded.append(bytes(out))
        fields.append(decoded)
    try:
        data.decode()
        return [(name.decode(), value.decode()) for name, value in fields]
    except UnicodeDecodeError:
        return None


def means(fields):
    """What fields ask for by the documents, or None."""
    if fields is None:
        return None
    ids = []
    once = dict(ONCE)
    for name, value in fields:
        if name in ("ids", "id", *ONCE) and not isinstance(value, str):
            return None
        if name == "ids":
            ids += value.split(",")
        elif name == "id":
            ids += [value]
        elif name in ONCE:
            if [n for n, _ in fields].count(name) > 1 or value == "":
                return None
            once[name] = value
    if not ids or not all(ids) or once["format"] not in KINDS:
        return None
    if once["version"] is not None and KINDS[once["format"]].coding:
        return None
    if once["missing"] not in ("fail", "skip"):
        return None
    if once["checksums"] not in (None, "sha256"):
        return None
    return ids, once["format"], once["missing"], once["checksums"], once["version"]


PIECES = [
    *"&&==,+%;#", "ids=", "id=", "ids=a", "format=", "format=tar", "name=", "missing=", "skip",
    "fail", "missing=skip", "checksums=", "sha256",
    "checksums=sha256", "version=", "x", "%2", "%2C", "%2c", "%26", "%3D", "%C3%A9", "%c3",
    "%FF", "%ED%A0%80", "%00", "i%64s=", "é", "a", "tar",
]  # fmt: skip
# Most begin well, so that what follows is the only reason to refuse them.
TEXTS = st.builds(
    "{}{}".format,
    st.sampled_from(["", "ids=a&", "id=a,b&", "ids=a"]),
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
)


@FUZZ
@given(
    TEXTS.map(str.encode) | st.lists(st.binary(max_size=3) | TEXTS.map(str.encode)).map(b"".join)
)
@example(b"ids=a&name=%00")
@example(b"ids=a&%C3\x80")
@example(b"ids=a&x=%ff")
def test_a_form_is_read_as_the_documents_say(data):
    assert answer(asked, data) == means(reads_form(data))


@FUZZ
@given(TEXTS)
def test_a_query_is_read_as_the_documents_say(text):
    assert answer(asked, text) == means(reads_form(text.encode()))


# JSON

NAMES = st.sampled_from(["ids", "id", *ONCE, "x", "IDS", ""])
LIKELY = st.sampled_from(
    ["a", "a,b", "", "tar", "skip", "fail", "sha256", "v", "é", "\0", None, 1, True, 1.5]
)
VALUES = st.recursive(
    LIKELY | st.text(CHARACTERS, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=6,
)
PAIRS = st.lists(
    st.tuples(NAMES, VALUES)
    | st.tuples(st.just("ids"), st.lists(IDS, min_size=1, max_size=3))
    | st.sampled_from(
        [
            ("format", "tar"),
            ("missing", "skip"),
            ("checksums", "sha256"),
            ("version", "v"),
            ("id", "a"),
        ]
    ),
    max_size=5,
)
BLANKS = st.text(" \t\r\n", max_size=2)


def whole(pairs):
    """As `means` wants them: each id in a list of ids is one taken whole."""
    fields = []
    for name, value in pairs:
        if name != "ids":
            fields.append((name, value))
        elif isinstance(value, list):
            fields += [("id", each) for each in value]
        else:
            return None
    return fields


@FUZZ
@given(PAIRS, st.booleans(), BLANKS)
def test_json_is_read_as_the_documents_say(pairs, ascii_, blank):
    """Whatever names come twice, whatever stands where text should, however it is written."""
    written_ = [
        f"{blank}{json.dumps(name)}{blank}:{blank}{json.dumps(value, ensure_ascii=ascii_)}"
        for name, value in pairs
    ]
    body = f"{blank}{{{','.join(written_)}{blank}}}{blank}".encode()
    got = answer(lambda it: read_request(read_json(it)), body)
    assert got == means(whole(pairs))


@FUZZ
@given(PAIRS, st.data())
def test_json_that_is_damaged_is_a_request_or_refused(pairs, data):
    body = bytearray(json.dumps(dict(pairs)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from(
                [b"", b'"', b"\\", b"{", b"]", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"NaN"]
            )
        )
    with suppress(BadRequest):
        request = read_request(read_json(bytes(body)))
        assert all(request.ids)
        "".join(request.ids).encode()


# One request, in every way that it can be asked for


@FUZZ
@given(
    st.lists(IDS, min_size=1, max_size=4),
    st.sampled_from(["fail", "skip"]),
    st.sampled_from([None, "sha256"]),
    st.none() | IDS,
)
def test_query_form_and_json_ask_for_the_same(ids, missing, checksums, version):
    request = ArchiveRequest(ids, "tar", "archive", missing, checksums, version)
    path = request.path("/archive", version)
    text = path.partition("?")[2]
    fields = {"ids": ids, "missing": missing}
    given_ = {"checksums": checksums, "version": version}
    fields |= {key: value for key, value in given_.items() if value is not None}
    ways = [
        asked(text),
        asked(text.encode()),
        read_request(read_json(json.dumps(fields).encode())),
        read_request(read_json(json.dumps(fields, ensure_ascii=False).encode())),
        read_request(read_form(text) + read_json(b"{}")),
    ]
    for way in ways:
        got = (list(way.ids), way.missing, way.checksums, way.version)
        assert got == (ids, missing, checksums, version)


@pytest.mark.parametrize("deep", ["[", '{"a":', '{"ids":['])
def test_depth_is_refused_wherever_it_stands(deep):
    for prefix in ("", '{"x":', '{"ids":["a"],"x":'):
        with pytest.raises(BadRequest):
            read_request(read_json((prefix + deep * 50_000).encode()))
