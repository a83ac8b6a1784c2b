"""Catalog files of whatever bytes: entries, or an error that says where and why."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tarstream.catalogs.base import CatalogError, Entry, inline
from tarstream.catalogs.file import load

FUZZ = settings(deadline=None, max_examples=150)  # however fast the machine is

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(CHARACTERS, min_size=1, max_size=6)
WORDS = st.text("abc/.%é", min_size=1, max_size=5)

REMOTE = st.builds(
    Entry,
    source=st.builds("https://h/{}".format, st.text("abcé/%~", max_size=5)),
    name=st.builds("{}{}".format, TEXT, st.just("x")),  # so that it does not end in a slash
    size=st.none() | st.integers(0, 2**62 - 1),
    mtime=st.none() | st.integers(0, 2**62 - 1),
    etag=st.none() | st.sampled_from(['"a"', 'W/"a"', '""', '"é"']),
    digests=st.sampled_from(
        [(), (("crc32", "00ff00ff"),), (("sha256", "0a" * 32),), (("md5", "0b" * 16),)]
    ),
)
TEXTS = st.builds(
    lambda text, name, mtime: inline(text.encode(), f"{name}x", mtime),
    st.text(CHARACTERS, max_size=6),
    TEXT,
    st.integers(0, 2**62 - 1),
)
DIRECTORIES = st.builds(
    lambda name, mtime: inline(b"", f"{name}/", mtime), TEXT, st.integers(0, 2**62 - 1)
)
ENTRIES = REMOTE | TEXTS | DIRECTORIES
BLANKS = st.text(" \t\r\f", max_size=2).map(str.encode)


@st.composite
def written(draw, entry):
    """An object that gives this entry, written in some way."""
    fields = {"name": entry.name}
    if isinstance(entry.source, bytes):
        if not entry.name.endswith("/"):
            fields["text"] = entry.source.decode()
        for key in ("url", "text", "mtime"):
            if draw(st.booleans()) and not entry.mtime:
                fields.setdefault(key, None)
        if entry.mtime:
            fields["mtime"] = entry.mtime
    else:
        fields["url"] = entry.source
        for key in ("size", "mtime", "etag"):
            value = getattr(entry, key)
            if value is not None or draw(st.booleans()):
                fields[key] = value
        for key, value in entry.digests:
            fields[key] = draw(st.sampled_from([value, value.upper()]))
    return {key: fields[key] for key in draw(st.permutations(list(fields)))}


@st.composite
def lines(draw, id_):
    """A line that stands for this id, written in some way, and its entries."""
    if draw(st.booleans()):
        entries = (draw(ENTRIES),)
        fields = {**draw(written(entries[0])), "id": id_}
    else:
        entries = tuple(draw(st.lists(ENTRIES, min_size=1, max_size=3)))
        fields = {"members": [draw(written(entry)) for entry in entries], "id": id_}
        if draw(st.booleans()):
            fields["prefix"] = prefix = draw(TEXT)
            if prefix := prefix.rstrip("/"):
                entries = tuple(entry._replace(name=f"{prefix}/{entry.name}") for entry in entries)
    text = json.dumps(
        {key: fields[key] for key in draw(st.permutations(list(fields)))},
        ensure_ascii=draw(st.booleans()),
    )
    blank = st.text(" \t", max_size=2)
    return f"{draw(blank)}{text}{draw(blank)}".encode(), entries


BAD = st.sampled_from(
    [
        b"x", b"[]", b"{}", b"null", b'"a"', b"1", b"\xff", b"\xef\xbb\xbf{}", b"\0", b"{",
        b'{"id"', b'{"id": "a"}', b'{"url": "https://h/a"}', b'{"id": "", "url": "https://h/a"}',
        b'{"id": 1, "url": "https://h/a"}', b'{"id": "a", "url": "a"}',
        b'{"id": "a", "url": "https://h/a b"}', b'{"id": "a", "url": "https://h/a", "x": 1}',
        b'{"id": "a", "url": "https://h/a", "size": -1}',
        b'{"id": "a", "url": "https://h/a", "size": 1.5}',
        b'{"id": "a", "url": "https://h/a", "size": true}',
        b'{"id": "a", "url": "https://h/a", "size": 4611686018427387904}',
        b'{"id": "a", "url": "https://h/a", "mtime": "1"}',
        b'{"id": "a", "url": "https://h/a", "etag": "a"}',
        b'{"id": "a", "url": "https://h/a", "crc32": "0"}',
        b'{"id": "a\\ud800", "url": "https://h/a"}', b"[" * 100_000, b"9" * 5000,
        b'{"id": "a", "url": "https://[/a"}', b'{"id": "a", "url": "https://h/a"} {}',
        b'{"id": "a", "url": "https://h/a", "\\u001b[2J": 1}', b'{"id": "a", "name": "a"}',
        b'{"id": "a", "text": "a"}', b'{"id": "a", "text": "a", "name": "a/"}',
        b'{"id": "a", "url": "https://h/a", "text": "a", "name": "a"}',
        b'{"id": "a", "url": "https://h/a", "name": "a/"}',
        b'{"id": "a", "text": "a", "name": "a", "size": 1}', b'{"id": "a", "members": []}',
        b'{"id": "a", "members": [{"url": "https://h/a"}, {}]}', b'{"id": "a", "members": {}}',
        b'{"id": "a", "members": [{"url": "https://h/a"}], "url": "https://h/a"}',
        b'{"id": "a", "members": [{"id": "b", "url": "https://h/a"}]}',
        b'{"id": "a", "url": "https://h/a", "prefix": "b"}',
    ]
)  # fmt: skip
"""Lines that are none, each by itself."""


@st.composite
def files(draw):
    """A file, the entries it gives, and the number of its first bad line or None."""
    entries, text, bad = {}, [], None
    for number in range(1, draw(st.integers(0, 6)) + 1):
        kind = draw(st.integers(0, 11))
        if kind == 0:
            text.append(draw(BAD))
            bad = bad or number
        elif kind <= 2:
            text.append(draw(BLANKS))
        else:
            id_ = draw(WORDS)
            line, found = draw(lines(id_))
            text.append(line)
            bad = bad or (number if id_ in entries else None)
            entries.setdefault(id_, found)
    data = draw(st.sampled_from([b"\n", b"\r\n"])).join(text)
    return data + draw(st.sampled_from([b"", b"\n"])), entries, bad


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "catalog.jsonl"


def loaded(path, data):
    """The entries, or the error, which is one line that names the place."""
    path.write_bytes(data)
    try:
        return load(path)
    except CatalogError as error:
        text = str(error)
        assert text.startswith(f"{path}:")
        assert text.isprintable()
        return text.removeprefix(f"{path}:")


TWICE = b'{"id": "a", "url": "https://h/a"}\n'


@FUZZ
@given(files())
@example((TWICE * 2, {"a": (Entry("https://h/a", "a"),)}, 2))
@example((TWICE + b"[" * 100_000, {"a": (Entry("https://h/a", "a"),)}, 2))
def test_a_file_gives_its_entries_or_the_number_of_its_first_bad_line(path, file):
    data, entries, bad = file
    got = loaded(path, data)
    if bad is None:
        assert got == entries
    else:
        number, _, what = got.partition(": ")
        assert int(number) == bad
        assert what


PIECES = st.sampled_from(
    [
        b"{", b"}", b'"', b":", b",", b"\n", b"\r\n", b"\r", b"\\", b"\\u0000", b"\\ud800", b"\0",
        b"\xff", b"\xe2\x80\xa8", b'"id":', b'"url":', b'"https://h/a"', b'"name":', b'"size":',
        b"NaN", b"1e999", b"-0", b'{"id": "a", "url": "https://h/a"', b'"sha256":', b"null", b"[",
        b"]", b" ", b'"text":', b'"members":[', b'"name":"a/"', b'"prefix":',
        b'{"id":"a","name":"a/"}',
    ]
)  # fmt: skip


@FUZZ
@given(st.lists(PIECES | st.binary(max_size=4), max_size=20).map(b"".join))
@example(b'{"id": "a", "url": "https://h/a", "size": 1e999}')
@example(b'{"id": "a", "url": "https://h/a", "size": NaN}')
@example(b'{"id": "a\\u2028b", "url": "https://h/a"}\n' * 2)
def test_a_file_of_any_bytes_gives_entries_or_an_error(path, data):
    got = loaded(path, data)
    if not isinstance(got, str):
        assert len(got) <= data.count(b"\n") + 1
        for id_, entries in got.items():
            for source, name, *_, etag, _ in entries:
                url = "" if isinstance(source, bytes) else source
                "".join((id_, url, name, etag or "")).encode(errors="surrogateescape")


@FUZZ
@given(files(), st.data())
def test_a_file_that_is_cut_or_damaged_gives_entries_or_an_error(path, file, data):
    damaged = bytearray(file[0])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(damaged)))
        stop = data.draw(st.integers(start, len(damaged)))
        damaged[start:stop] = data.draw(PIECES | st.just(b""))
    loaded(path, bytes(damaged))
