"""Catalogs: what each kind owes its callers, then what is special about files and templates."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from zlib import crc32

import pytest
from gateway import write_catalog
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from yarl import URL

from tarstream.catalogs import CATALOGS
from tarstream.catalogs.base import Caller, CatalogError, Entry, Unknown, inline
from tarstream.catalogs.file import FileCatalog, FileSettings, load, parse_line
from tarstream.catalogs.template import TemplateCatalog, TemplateSettings
from tarstream.layout import STEP
from tarstream.stores.validators import ENTITY_TAG
from tarstream.watched import SETTLE

CALLER = Caller("127.0.0.1", "test")

TEXT = st.text(st.characters(exclude_categories=["Cs"]))

# The contract.


def a_file(directory, ids):
    entries = [{"id": id_, "url": f"https://files.example.com/{quote(id_)}"} for id_ in ids]
    return {"kind": "file", "path": write_catalog(directory / "catalog.jsonl", entries)}


def a_template(directory, ids):
    return {"kind": "template", "url": "https://files.example.com/{id}"}


MAKERS = {"file": (a_file, "nowhere"), "template": (a_template, "../secret")}
"""What `[catalog]` says where these ids are known, and an id that is not."""

KNOWN = ["b", "a", "dir/c.txt", "with, comma", "Grüße.txt", "x" * 500]


@pytest.fixture(params=CATALOGS)
def kind(request):
    return request.param


@pytest.fixture
def catalog(kind, tmp_path):
    make, _ = MAKERS[kind]
    settings = CATALOGS[kind].settings.model_validate(make(tmp_path, KNOWN))
    return CATALOGS[kind].catalog(settings)


@pytest.fixture
def unknown(kind):
    return MAKERS[kind][1]


def test_every_kind_is_held_to_the_contract():
    assert MAKERS.keys() == CATALOGS.keys()


async def test_lookup_answers_each_id_in_its_place(catalog):
    found = await catalog.lookup(KNOWN, CALLER)
    backwards = await catalog.lookup(KNOWN[::-1], CALLER)
    assert len(found) == len(KNOWN)
    assert [[tuple(each) for each in entries] for entries in backwards] == [
        [tuple(each) for each in entries] for entries in found[::-1]
    ]
    assert len({entries[0].source for entries in found}) == len(KNOWN)


async def test_lookup_gives_entries_that_say_where_the_contents_are(catalog):
    for entries in await catalog.lookup(KNOWN, CALLER):
        assert entries
        assert all(isinstance(entry, Entry) for entry in entries)
        assert all(urlsplit(entry.source).netloc == "files.example.com" for entry in entries)
        assert all(entry.name for entry in entries)


async def test_lookup_says_why_there_is_nothing_for_an_id(catalog, unknown):
    before, nothing, after = await catalog.lookup(["a", unknown, "b"], CALLER)
    assert isinstance(nothing, Unknown)
    assert nothing.reason
    assert "\n" not in nothing.reason
    assert [before[0].source, after[0].source] == [
        "https://files.example.com/a",
        "https://files.example.com/b",
    ]


async def test_lookup_answers_an_id_that_is_given_twice_twice(catalog, unknown):
    first, _, second, third, fourth = await catalog.lookup(
        ["a", "b", "a", unknown, unknown], CALLER
    )
    assert list(first) == list(second)
    assert isinstance(third, Unknown)
    assert isinstance(fourth, Unknown)


async def test_lookup_answers_no_ids_with_nothing(catalog):
    assert list(await catalog.lookup([], CALLER)) == []


@pytest.mark.parametrize(
    "id_",
    ["", "\0", "\n", " ", "%", "%2e%2e", "https://evil.example.com/", "é" * 5000, "__class__"],
)
async def test_lookup_takes_whatever_a_client_writes_for_an_id(catalog, id_):
    (found,) = await catalog.lookup([id_], CALLER)
    if not isinstance(found, Unknown):
        assert [urlsplit(entry.source).netloc for entry in found] == ["files.example.com"]


async def test_watching_ends_at_once_when_it_is_cancelled(catalog):
    watching = asyncio.create_task(catalog.watch())
    await asyncio.sleep(0)
    watching.cancel()
    await asyncio.wait_for(asyncio.wait([watching]), 5)


def test_settings_name_their_kind_and_refuse_what_they_do_not_know(kind, tmp_path):
    make, _ = MAKERS[kind]
    settings = CATALOGS[kind].settings
    good = make(tmp_path, KNOWN)
    assert settings.model_validate(good).kind == kind
    with pytest.raises(ValidationError):
        settings.model_validate(good | {"kind": "other"})
    with pytest.raises(ValidationError):
        settings.model_validate(good | {"unheard_of": 1})


# A file.

GOOD = b'{"id": "a", "url": "https://h/a"}'


def line(**fields):
    return json.dumps({"id": "a", "url": "https://h/a"} | fields).encode()


def here(**fields):
    """A line of an entry that has no origin."""
    return json.dumps({"id": "a"} | fields).encode()


def collection(*members, **fields):
    return json.dumps({"id": "a", "members": members} | fields).encode()


def entry_of(data):
    (entry,) = parse_line(data)[1]
    return entry


def test_a_line_may_state_all_there_is_to_know():
    digits = "0123456789ABCDEF" * 4
    stated = {"name": "dir/b.txt", "size": 7, "mtime": 1700000000, "etag": '"x,y"'}
    digests = {"sha256": digits, "crc32": "0000ABCD", "md5": digits[:32]}
    assert parse_line(line(id="i", **digests, **stated)) == (
        "i",
        (
            Entry(
                "https://h/a",
                **stated,
                digests=(
                    ("crc32", "0000abcd"),
                    ("md5", digits[:32].lower()),
                    ("sha256", digits.lower()),
                ),
            ),
        ),
    )


def test_null_is_as_good_as_not_there():
    nothing = dict.fromkeys(["name", "size", "mtime", "etag", "sha256", "crc32", "md5", "text"])
    assert parse_line(line(**nothing)) == parse_line(GOOD) == ("a", (Entry("https://h/a", "a"),))
    assert entry_of(here(text="x", name="a", url=None, mtime=None)) == inline(b"x", "a")
    assert entry_of(here(name="a/", url=None, text=None)) == inline(b"", "a/")
    member = {"url": "https://h/a"}
    assert parse_line(collection(member, prefix=None)) == parse_line(GOOD)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/b.txt", "b.txt"),
        ("https://h/a/b.txt?x=/y/z#/w", "b.txt"),
        ("https://h/a/Gr%C3%BC%C3%9Fe%20%252F", "Grüße %2F"),
        ("https://h/a/Grüße", "Grüße"),
        ("https://h/a/b/", "b"),
        ("file:///srv/data/b%20c", "b c"),
        ("file:///srv/data/b?c#d", "b?c#d"),
        ("https://h/", ""),  # `names` makes something of it
        ("https://h", ""),
    ],
)
def test_a_name_that_is_not_given_is_the_last_segment_of_the_url(url, name):
    assert entry_of(line(url=url)).name == name
    assert entry_of(line(url=url, name="")).name == name
    assert entry_of(line(url=url, name="other")).name == "other"


@pytest.mark.parametrize("number", [0, 1, 2**53, 2**62 - 1])
def test_sizes_and_times_are_taken_as_they_are(number):
    entry = entry_of(line(size=number, mtime=number))
    assert (entry.size, entry.mtime) == (number, number)


@pytest.mark.parametrize("text", ["", "x", "Grüße\n", "\0\r\n\u2028"])
def test_an_entry_may_be_its_text(text):
    """Nothing of it is left to be asked for: size, time, entity-tag, digests."""
    data = text.encode()
    entry = entry_of(here(text=text, name="dir/README", mtime=5))
    assert entry == inline(data, "dir/README", 5)
    assert entry[:4] == (data, "dir/README", len(data), 5)
    assert entry.etag == f'"{sha256(data).hexdigest()[:32]}"'
    assert dict(entry.digests) == {
        "crc32": f"{crc32(data):08x}",
        "sha256": sha256(data).hexdigest(),
    }
    assert entry_of(here(text=text, name="a")).mtime == 0


def test_texts_of_one_size_have_entity_tags_of_their_own():
    assert inline(b"a", "n").etag != inline(b"b", "n").etag
    assert ENTITY_TAG.fullmatch(inline(b"", "n").etag)


@pytest.mark.parametrize("name", ["a/", "a/b/", "/", "../"])
def test_an_entry_may_be_an_empty_directory(name):
    """`names` makes something safe of it."""
    assert entry_of(here(name=name)) == inline(b"", name)
    assert entry_of(here(name=name, url="", mtime=7)) == inline(b"", name, 7)


COLLECTED = [
    {"url": "https://h/dir/a", "size": 5},
    {"text": "hello", "name": "README"},
    {"name": "empty/", "mtime": 3},
    {"url": "https://h/dir/a", "name": "b/a", "etag": '"v"'},
]
ENTRIES = (
    Entry("https://h/dir/a", "a", 5),
    inline(b"hello", "README"),
    inline(b"", "empty/", 3),
    Entry("https://h/dir/a", "b/a", etag='"v"'),
)


def test_an_id_may_stand_for_several_entries_in_their_order():
    assert parse_line(collection(*COLLECTED)) == ("a", ENTRIES)
    assert parse_line(collection(*COLLECTED[::-1])) == ("a", ENTRIES[::-1])
    assert parse_line(collection(COLLECTED[0], id="i")) == ("i", ENTRIES[:1])


@pytest.mark.parametrize(
    ("prefix", "before"),
    [("", ""), ("/", ""), ("set", "set/"), ("set/", "set/"), ("set//", "set/"), ("a/b", "a/b/")],
)
def test_the_names_of_several_entries_may_have_a_common_prefix(prefix, before):
    found = parse_line(collection(*COLLECTED, prefix=prefix))[1]
    assert [entry.name for entry in found] == [before + entry.name for entry in ENTRIES]
    assert [entry._replace(name="") for entry in found] == [
        entry._replace(name="") for entry in ENTRIES
    ]


NOTHING = "'url' is required, or 'text', or a 'name' that ends in '/'"
UNNAMED = "'text' must have a 'name', one that does not end in '/'"
BOTH = "'url' excludes 'text', and a 'name' that ends in '/'"
BAD_MEMBERS = "'members' must be a list of objects, and not empty"

BAD = {
    "empty object": (b"{}", "'id' is required"),
    "no id": (b'{"url": "https://h/a"}', "'id' is required"),
    "empty id": (line(id=""), "'id' is required"),
    "null id": (line(id=None), "'id' is required"),
    "no url": (b'{"id": "a"}', NOTHING),
    "empty url": (line(url=""), NOTHING),
    "not JSON": (b"a,https://h/a", "not JSON at character 1: Expecting value"),
    "half a line": (GOOD[:20], "not JSON at character"),
    "two objects": (GOOD + GOOD, f"not JSON at character {len(GOOD) + 1}: Extra data"),
    "control character": (
        b'{"id": "a\x01"}',
        "not JSON at character 10: Invalid control character",
    ),
    "single quotes": (b"{'id': 'a'}", "not JSON at character 2"),
    "list": (b'["a", "https://h/a"]', "not a JSON object"),
    "string": (b'"a"', "not a JSON object"),
    "number": (b"1", "not a JSON object"),
    "null": (b"null", "not a JSON object"),
    "NaN alone": (b"NaN", "not a JSON object"),
    "unknown key": (
        line(sise=1),
        "unknown key 'sise'; known are crc32, etag, id, md5, members, mtime, name, sha256",
    ),
    "number for id": (line(id=1), "'id' must be a string"),
    "list for url": (line(url=["https://h/a"]), "'url' must be a string"),
    "object for name": (line(name={}), "'name' must be a string"),
    "number for etag": (line(etag=1), "'etag' must be a string"),
    "number for text": (here(text=1, name="a"), "'text' must be a string"),
    "number for crc32": (line(crc32=1), "'crc32' must be a string"),
    "relative url": (line(url="/a"), "'url' must be an absolute URL without blanks"),
    "no scheme": (line(url="h/a"), "'url' must be an absolute URL without blanks"),
    "blank in url": (line(url="https://h/a b"), "'url' must be an absolute URL without blanks"),
    "newline in url": (line(url="https://h/a\n"), "'url' must be an absolute URL without blanks"),
    "no host to read": (line(url="https://[::1/a"), "Invalid IPv6 URL"),
    "string for size": (line(size="1"), "'size' must be a whole number"),
    "bool for size": (line(size=True), "'size' must be a whole number"),
    "float for size": (line(size=1.0), "'size' must be a whole number"),
    "negative size": (line(size=-1), "'size' must be a whole number, not negative"),
    "size too large": (line(size=2**62), "'size' must be a whole number, not negative and less"),
    "size of 5,000 digits": (
        GOOD[:-1] + b', "size": ' + b"9" * 5000 + b"}",
        "a number has too many digits",
    ),
    "NaN for size": (line(size=float("nan")), "'size' must be a whole number"),
    "infinite size": (line(size=float("inf")), "'size' must be a whole number"),
    "1e999 for size": (GOOD[:-1] + b', "size": 1e999}', "'size' must be a whole number"),
    "float for mtime": (line(mtime=1700000000.5), "'mtime' must be a whole number"),
    "bool for mtime": (line(mtime=False), "'mtime' must be a whole number"),
    "negative mtime": (line(mtime=-1), "'mtime' must be a whole number, not negative"),
    "date for mtime": (line(mtime="2024-01-01"), "'mtime' must be a whole number"),
    "NaN for mtime": (line(mtime=float("nan")), "'mtime' must be a whole number"),
    "etag without quotes": (line(etag="abc"), "'etag' must be as the origin sends it"),
    "empty etag": (line(etag=""), "'etag' must be as the origin sends it"),
    "etag with a blank": (line(etag='"a b"'), "'etag' must be as the origin sends it"),
    "two etags": (line(etag='"a", "b"'), "'etag' must be as the origin sends it"),
    "etag of a wrong kind": (line(etag='w/"a"'), "'etag' must be as the origin sends it"),
    "short crc32": (line(crc32="abc"), "'crc32' must be 8 hex digits"),
    "crc32 that is none": (line(crc32="abcdefgh"), "'crc32' must be 8 hex digits"),
    "short md5": (line(md5="0" * 31), "'md5' must be 32 hex digits"),
    "long md5": (line(md5="0" * 33), "'md5' must be 32 hex digits"),
    "short sha256": (line(sha256="0" * 63), "'sha256' must be 64 hex digits"),
    "sha256 in base64": (line(sha256="A" * 43 + "="), "'sha256' must be 64 hex digits"),
    "lone surrogate in id": (line(id="a\ud800"), "'id' holds half of a surrogate pair"),
    "lone surrogate in name": (line(name="\udfff"), "'name' holds half of a surrogate pair"),
    "lone surrogate in url": (line(url="https://h/\ud83d"), "'url' holds half of a surrogate pair"),
    "lone surrogate in etag": (line(etag='"\ud800"'), "'etag' holds half of a surrogate pair"),
    "surrogate as bytes": (b'{"id": "\xed\xa0\x80", "url": "https://h/a"}', "not UTF-8 at byte 9"),
    "Latin-1": ('{"id": "é", "url": "https://h/a"}'.encode("latin-1"), "not UTF-8 at byte 9"),
    "UTF-16": (GOOD.decode().encode("utf-16-le"), "not JSON at character 2"),
    "deep nesting": (b"[" * 100_000, "nested too deeply"),
    "deep objects": (b'{"id":' * 100_000, "nested too deeply"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "not JSON at character 1: Unexpected UTF-8 BOM"),
    "text and url": (line(text="x"), BOTH),
    "empty text and url": (line(text=""), BOTH),
    "url of a directory": (line(name="a/"), BOTH),
    "text without name": (here(text="x"), UNNAMED),
    "text with an empty name": (here(text="x", name=""), UNNAMED),
    "text of a directory": (here(text="x", name="a/"), UNNAMED),
    "empty text of a directory": (here(text="", name="a/"), UNNAMED),
    "neither text nor directory": (here(name="a"), NOTHING),
    "size beside text": (
        here(text="x", name="a", size=1),
        "unknown key 'size' beside 'text'; known are id, mtime, name, text, url",
    ),
    "digest beside text": (here(text="x", name="a", md5="0" * 32), "unknown key 'md5' beside"),
    "etag of a directory": (
        here(name="a/", etag='"v"'),
        "unknown key 'etag' of a directory; known are id, mtime, name, text, url",
    ),
    "negative mtime of text": (here(text="x", name="a", mtime=-1), "'mtime' must be a whole"),
    "lone surrogate in text": (here(text="\ud800", name="a"), "'text' holds half of a surrogate"),
    "no members": (collection(), BAD_MEMBERS),
    "null for members": (here(members=None), BAD_MEMBERS),
    "object for members": (here(members={"url": "https://h/a"}), BAD_MEMBERS),
    "string for members": (here(members="https://h/a"), BAD_MEMBERS),
    "id of members is empty": (collection(COLLECTED[0], id=""), "'id' is required"),
    "members and url": (
        collection(COLLECTED[0], url="https://h/a"),
        "unknown key 'url'; known are id, members, prefix",
    ),
    "members and name": (collection(COLLECTED[0], name="a"), "unknown key 'name'; known are id,"),
    "number for prefix": (collection(COLLECTED[0], prefix=1), "'prefix' must be a string"),
    "lone surrogate in prefix": (collection(COLLECTED[0], prefix="\ud800"), "'prefix' holds half"),
    "prefix of one": (line(prefix="a"), "'prefix' is for a line with 'members'"),
    "string among members": (collection("https://h/a"), "member 1: not a JSON object"),
    "null among members": (collection(COLLECTED[0], None), "member 2: not a JSON object"),
    "members among members": (
        collection(COLLECTED[0], {"members": COLLECTED}),
        "member 2: unknown key 'members'; known are crc32, etag, md5, mtime, name, sha256, size,",
    ),
    "id among members": (collection({"id": "a", **COLLECTED[0]}), "member 1: unknown key 'id'"),
    "a bad one among members": (
        collection(*COLLECTED, {"url": "/a"}, {"url": ""}),
        "member 5: 'url' must be an absolute URL without blanks",
    ),
    "an empty one among members": (collection({}), f"member 1: {NOTHING}"),
    "no host to read among members": (collection({"url": "https://[::1/a"}), "member 1: Invalid"),
    "the same id again, for several": (
        collection(*COLLECTED, id="first"),
        "id 'first' stands here a second time",
    ),
    "the same id again": (line(id="first"), "id 'first' stands here a second time"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named_with_what_is_wrong_with_it(tmp_path, bad, message):
    path = tmp_path / "catalog.jsonl"
    path.write_bytes(b"\n".join([line(id="first"), b"", bad, line(id="last")]))
    with pytest.raises(CatalogError) as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}:3: {message}")
    assert said.isprintable()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \t\r\n"])
def test_blank_lines_and_carriage_returns_do_not_matter(tmp_path, end):
    path = tmp_path / "catalog.jsonl"
    path.write_bytes(end.join([line(id="a"), line(id="b\u2028\u0085"), line(id="c"), b""]))
    assert list(load(path)) == ["a", "b\u2028\u0085", "c"]


def test_the_last_line_may_lack_its_end(tmp_path):
    path = tmp_path / "catalog.jsonl"
    path.write_bytes(line(id="a") + b"\n" + line(id="b"))
    assert list(load(path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.jsonl", "no such file or directory"), (".", "is a directory")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, message):
    with pytest.raises(CatalogError, match=message) as caught:
        FileCatalog(FileSettings(kind="file", path=tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path))


def test_a_path_that_no_file_can_have_is_an_error_like_others():
    with pytest.raises(CatalogError):
        FileCatalog(FileSettings(kind="file", path=Path("a\0b")))


def test_a_file_without_a_name_does_not_take_that_of_the_prefix():
    found = parse_line(collection({"url": "https://h/"}, COLLECTED[1], prefix="set"))[1]
    assert [entry.name for entry in found] == ["set/unnamed", "set/README"]
    assert entry_of(collection({"url": "https://h/"})).name == ""


def test_all_of_a_collection_is_read_again_with_its_file(tmp_path):
    path = tmp_path / "catalog.jsonl"
    path.write_bytes(b"\n".join([GOOD, collection(*COLLECTED, id="b"), here(id="c", name="d/")]))
    assert load(path) == {
        "a": (Entry("https://h/a", "a"),),
        "b": ENTRIES,
        "c": (inline(b"", "d/"),),
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
VALUES = st.sampled_from([value for value, _ in BAD.values()]) | JSON.map(
    lambda value: json.dumps(value).encode()
)
FIELDS = st.fixed_dictionaries(
    {"id": JSON},
    optional=dict.fromkeys(["name", "size", "mtime", "etag", "sha256", "crc32", "md5"], JSON)
    | {
        "url": JSON | TEXT.map("https://h/{}".format),
        "text": JSON | TEXT,
        "members": st.lists(JSON | st.sampled_from(COLLECTED)),
        "prefix": JSON | TEXT,
    },
).map(lambda value: json.dumps(value).encode())


@given(st.binary() | VALUES | FIELDS)
@example(b'{"id": "a", "url": "https://[/a"}')
@example('{"id": "a", "url": "https://a\N{FULLWIDTH SOLIDUS}b/c"}'.encode())
@example(b'{"id": "a", "url": "https://h/%FF%00%2F.."}')
@example(b'{"id": "a", "members": [{"url": "https://[/a"}]}')
def test_any_line_is_entries_or_a_value_error(data):
    with suppress(ValueError):
        id_, entries = parse_line(data)
        assert id_
        assert entries
        for entry in entries:
            assert isinstance(entry.source, bytes) or entry.source
            assert entry.size is None or 0 <= entry.size < 2**62
            assert entry.mtime is None or 0 <= entry.mtime < 2**62
            url = entry.source if isinstance(entry.source, str) else ""
            text = "".join((id_, url, entry.name, entry.etag or ""))
            assert text.encode(errors="replace").decode() == text


def test_100_000_entries_take_far_less_than_200_mib(tmp_path):
    path = write_catalog(
        tmp_path / "catalog.jsonl",
        (
            {
                "id": f"{number:08d}-aaaa-bbbb-cccc",
                "url": f"https://files.example.com/data/set/{number:08d}.bin",
                "name": f"set/{number:08d}.bin",
                "size": number * 7919,
                "mtime": 1_700_000_000 + number,
                "etag": f'"{number:032x}"',
            }
            for number in range(100_000)
        ),
    )
    program = (
        "import pathlib, re, sys\n"
        "from tarstream.catalogs.file import FileCatalog, FileSettings, load\n"
        "def peak():\n"  # ru_maxrss would count what the parent had before it started this
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    return re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "catalog = FileCatalog(FileSettings(kind='file', path=path))\n"
        "print(peak())\n"
        "print(len(load(path)))\n"  # beside the version in force
        "print(peak())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, check=True, timeout=60
    )
    loaded, entries, reloaded = map(int, done.stdout.split())
    assert entries == 100_000
    assert loaded < 130 * 1024  # KiB, of the whole process
    assert reloaded < 190 * 1024


# A file that changes.


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr("tarstream.watched.POLL", 0.01)
    return write(tmp_path / "catalog.jsonl", "old")


def write(path, *ids):
    return write_catalog(path, [{"id": id_, "url": "https://h/" + id_} for id_ in ids])


def replace(path, *ids):
    write(path.with_suffix(".new"), *ids).rename(path)


@asynccontextmanager
async def watched(path):
    catalog = FileCatalog(FileSettings.model_construct(kind="file", path=path))
    watching = asyncio.create_task(catalog.watch())
    try:
        yield catalog
        assert not watching.done()
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def ids_in_force(catalog, among=("old", "new", "newer", "half")):
    found = await catalog.lookup(among, CALLER)
    return {id_ for id_, each in zip(among, found, strict=True) if not isinstance(each, Unknown)}


async def until(condition, seconds=30):
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def until_in_force(catalog, *ids):
    async def in_force():
        return await ids_in_force(catalog) == set(ids)

    await until(in_force)


async def until_logged(caplog, text):
    async def logged():
        return text in caplog.text

    await until(logged)


async def test_a_file_that_is_replaced_is_taken_over(path, caplog):
    caplog.set_level("INFO")
    async with watched(path) as catalog:
        replace(path, "new")
        await until_in_force(catalog, "new")
        replace(path, "newer", "old")
        await until_in_force(catalog, "newer", "old")
    assert "catalog loaded: 1 entries" in caplog.text
    assert "catalog loaded: 2 entries" in caplog.text


async def test_a_file_that_is_rewritten_is_taken_over(path):
    async with watched(path) as catalog:
        write(path, "new", "newer")
        await until_in_force(catalog, "new", "newer")


async def test_a_file_of_equal_length_and_time_is_still_another(path):
    """rsync --times --inplace, cp --preserve and reproducible builds write such."""
    before = path.stat()
    async with watched(path) as catalog:
        write(path, "new")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        await until_in_force(catalog, "new")


async def test_a_file_that_is_removed_stays_in_force_until_it_is_back(path, caplog):
    async with watched(path) as catalog:
        path.unlink()
        await until_logged(caplog, f"{path}: no such file or directory")
        assert await ids_in_force(catalog) == {"old"}
        write(path, "new")
        await until_in_force(catalog, "new")


async def test_a_file_that_is_moved_away_and_back_is_taken_over(path, caplog):
    aside = path.with_suffix(".aside")
    async with watched(path) as catalog:
        path.rename(aside)
        await until_logged(caplog, f"{path}: no such file or directory")
        aside.rename(path)
        replace(path, "new")
        await until_in_force(catalog, "new")


async def test_a_link_that_leads_elsewhere_is_taken_over(path, tmp_path):
    """Kubernetes mounts configuration so."""
    other = write(tmp_path / "other.jsonl", "new")
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    async with watched(link) as catalog:
        assert await ids_in_force(catalog) == {"old"}
        fresh = tmp_path / "fresh.jsonl"
        fresh.symlink_to(other)
        fresh.rename(link)
        await until_in_force(catalog, "new")


@pytest.mark.parametrize(("bad", "message"), list(BAD.values())[:8], ids=list(BAD)[:8])
async def test_one_bad_line_rejects_all_of_a_new_version(path, caplog, bad, message):
    async with watched(path) as catalog:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(line(id="new") + b"\n" + bad + b"\n" + line(id="newer") + b"\n")
        fresh.rename(path)
        await until_logged(caplog, f"{path}:2: {message}")
        assert await ids_in_force(catalog) == {"old"}
        replace(path, "newer")
        await until_in_force(catalog, "newer")
    (rejected,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "the previous version stays in force" in rejected.getMessage()


async def test_each_rejected_version_is_reported_once(path, caplog):
    async with watched(path) as catalog:
        for number in (1, 2):
            path.with_suffix(".new").write_bytes(b"\n" * number + b"nonsense\n")
            path.with_suffix(".new").rename(path)
            await until_logged(caplog, f"{path}:{number + 1}: not JSON")
        replace(path, "new")
        await until_in_force(catalog, "new")
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 2


async def test_a_file_that_is_half_written_is_not_taken_over(path, caplog):
    whole = line(id="new") + b"\n" + line(id="newer") + b"\n"
    async with watched(path) as catalog:
        with path.open("wb") as writer:
            writer.write(whole[:-10])
            writer.flush()
            await until_logged(caplog, f"{path}:2: not JSON")
            assert await ids_in_force(catalog) == {"old"}
            writer.write(whole[-10:])
        await until_in_force(catalog, "new", "newer")


class WrittenAtEachLook(type(Path())):
    """A path at which somebody writes just before each look that is taken at it."""

    contents = iter(())
    looks = 0

    def stat(self, **kwargs):
        if (data := next(self.contents, None)) is not None:
            self.write_bytes(data)
            os.utime(self, (self.looks, self.looks))
        self.looks += 1
        return super().stat(**kwargs)


async def test_a_file_that_is_being_written_is_waited_for_and_read_once(path, caplog):
    """Emptied first, then cut between two lines: each would be a good catalog."""
    caplog.set_level("INFO")
    lines = [line(id=id_) + b"\n" for id_ in ("half", "new", "newer")]
    path = WrittenAtEachLook(path)
    async with watched(path) as catalog:
        path.contents = iter([b"", *(b"".join(lines[: count + 1]) for count in range(3))])
        await until_in_force(catalog, "half", "new", "newer")
        looks = path.looks

        async def looked_at_again():
            return path.looks > looks + 5

        await until(looked_at_again)
    assert [record.getMessage() for record in caplog.records] == ["catalog loaded: 3 entries"]


async def test_a_file_that_is_written_all_the_time_is_not_waited_for_for_ever(path):
    def for_ever():
        while True:
            yield line(id="new")

    path = WrittenAtEachLook(path)
    async with watched(path) as catalog:
        path.contents = for_ever()
        await until_in_force(catalog, "new")
    assert path.looks > SETTLE


@pytest.mark.timeout(30)
async def test_a_new_version_is_read_while_the_loop_goes_on(path):
    """A pipe can be read by nobody until the loop, in this very test, writes to it."""
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    async with watched(path) as catalog:
        path.unlink()
        os.link(pipe, path)

        async def written():
            try:
                writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody has it open to read it
                return False
            os.write(writer, line(id="new") + b"\n")
            os.close(writer)
            return True

        await until(written)
        await until_in_force(catalog, "new")
    # It may be read once more by now: that ends as soon as there was a writer.
    os.close(os.open(pipe, os.O_RDWR))


# A template.


def template(url, **settings):
    return TemplateCatalog(TemplateSettings(kind="template", url=url, **settings))


async def filled_in(url, id_, **settings):
    (found,) = await template(url, **settings).lookup([id_], CALLER)
    return found if isinstance(found, Unknown) else found[0]


@pytest.mark.parametrize(
    "id_",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        ".",
        "..",
        "./a",
        "a/.",
        "../a",
        "a/..",
        "a/../b",
        "a/./b",
        "//",
        "https://evil.example.com",
    ],
)
async def test_ids_with_an_empty_or_dotted_segment_are_unknown(id_):
    assert await filled_in("https://h/{id}", id_) == Unknown("unknown")


@pytest.mark.parametrize(
    ("id_", "path"),
    [
        ("a", "/a"),
        ("dir/a.txt", "/dir/a.txt"),
        ("a b", "/a%20b"),
        ("Grüße/日本", "/Gr%C3%BC%C3%9Fe/%E6%97%A5%E6%9C%AC"),
        ("a?b=c&d", "/a%3Fb%3Dc%26d"),
        ("a#b", "/a%23b"),
        ("100%", "/100%25"),
        ("%2e%2e/x", "/%252e%252e/x"),
        ("a%2Fb", "/a%252Fb"),
        ("a\\b", "/a%5Cb"),
        ("..\\secret", "/..%5Csecret"),
        ("...", "/..."),
        (".hidden/..x/x..", "/.hidden/..x/x.."),
        ("a;b:c@d!e'(f)*g,h+i=j$k~", "/a%3Bb%3Ac%40d%21e%27%28f%29%2Ag%2Ch%2Bi%3Dj%24k~"),
        ("a\0\r\n\x7fb", "/a%00%0D%0A%7Fb"),
        ("@evil.example.com", "/%40evil.example.com"),
        ("{id}", "/%7Bid%7D"),
        ('"<>^`{|}[]', "/%22%3C%3E%5E%60%7B%7C%7D%5B%5D"),
    ],
)
async def test_an_id_is_encoded_segment_by_segment_with_its_slashes_kept(id_, path):
    assert (await filled_in("https://h/{id}", id_)).source == "https://h" + path


@given(TEXT)
@example("..")
@example("a/../../b")
@example("/" * 10)
async def test_whatever_the_id_the_url_stays_below_the_template(id_):
    found = await filled_in("https://h:8443/base/{id}.bin", id_)
    dotted = {"", ".", ".."}.intersection(id_.split("/"))
    assert isinstance(found, Unknown) == bool(dotted)
    if not dotted:
        parts = urlsplit(found.source)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == (
            "https",
            "h:8443",
            "",
            "",
        )
        assert unquote(parts.path) == f"/base/{id_}.bin"
        assert parts.path.count("/") == 2 + id_.count("/")
        assert found.source.isascii()
        # A client that resolves dot segments makes no other path of it.
        assert unquote(URL(found.source).raw_path) == unquote(parts.path)


async def test_an_id_may_stand_in_the_query_and_more_than_once():
    entry = await filled_in("https://h/{id}/get?f={id}&x=1", "a/b&c")
    assert entry.source == "https://h/a/b%26c/get?f=a/b%26c&x=1"


async def test_the_name_is_the_id_unless_the_template_says_more():
    assert (await filled_in("https://h/{id}", "dir/Grüße %")).name == "dir/Grüße %"
    assert (await filled_in("https://h/{id}", "a", name="set/{id}.txt")).name == "set/a.txt"


async def test_many_ids_let_other_downloads_go_on():
    looking = asyncio.create_task(
        template("https://h/{id}").lookup([f"{number}" for number in range(100 * STEP)], CALLER)
    )
    turns = 0
    while not looking.done():
        await asyncio.sleep(0)
        turns += 1
    assert len(await looking) == 100 * STEP
    assert turns >= 100


async def test_a_template_states_nothing_but_url_and_name():
    assert await filled_in("https://h/{id}", "a") == Entry("https://h/a", "a")


@pytest.mark.parametrize(
    "url",
    [
        "https://h/{id}",
        "http://h:8080/base/{id}?x=1",
        "https://[::1]:8443/{id}",
        "https://h/?file={id}",
        "file:///srv/data/{id}",
    ],
)
def test_templates_that_are_taken(url):
    template(url)


@pytest.mark.parametrize(
    "url",
    [
        "{id}",
        "{id}://h/a",
        "https://{id}",
        "https://{id}/a",
        "https://{id}/{id}",
        "https://h{id}",
        "https://h{id}/a",
        "https://{id}.example.com/a",
        "https://h:{id}/a",
        "https://h:80{id}/a",
        "https://user:{id}@h/a",
        "https://{id}@h/{id}",
        "https://h?{id}",
        "https://h#{id}",
        "https:///{id}",
        "https:/h/{id}",
        "h/{id}",
        "/{id}",
        "//h/{id}",
        "file://{id}/a",
        "file://h/{id}",
        "file://{id}",
    ],
)
def test_an_id_never_names_scheme_host_or_port(url):
    with pytest.raises(ValidationError, match="must look like 'https://files"):
        template(url)


@pytest.mark.parametrize("name", ["{id}/", "set/{id}//"])
def test_a_template_names_files(name):
    with pytest.raises(ValidationError, match="must not end in '/': members are files"):
        template("https://h/{id}", name=name)


def test_url_and_name_must_contain_the_id():
    with pytest.raises(ValidationError, match=r"must contain \{id\}"):
        template("https://h/a")
    with pytest.raises(ValidationError, match=r"must contain \{id\}"):
        template("https://h/{id}", name="a")
