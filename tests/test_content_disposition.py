"""The name that a download is saved under (RFC 6266, RFC 8187), as others read it.

The names are those of the test cases of greenbytes (TC2231, http://test.greenbytes.de/tech/tc2231/)
that can be a name at all, and hostile ones. Each case there is a header and how it is to be read;
here each is a name that it is about, and what has to be read from the header that we make of it.
"""

import asyncio
import os
from urllib.parse import unquote

import pytest
from aiohttp.multipart import content_disposition_filename, parse_content_disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.http import parse_options_header

from tarstream.disposition import content_disposition, file_name
from tarstream.names import segment

GREENBYTES = {
    "inlwithasciifilename": "foo.html",
    "attwithasciifilename25": "0000000000111111111122222",
    "attwithasciifilename35": "00000000001111111111222222222233333",
    "attwithasciifnescapedchar": "f\\oo.html",
    "attwithasciifnescapedquote": '"quoting" tested.html',
    "attwithquotedsemicolon": "Here's a semicolon;.html",
    "attwithfilenameandextparam": "foo.html; foo=bar",
    "attwithfilenameandextparamescaped": 'foo.html"; foo="\\"\\\\',
    "attwithasciifilenamenqws": "foo bar.html",
    "attwithfntokensq": "'foo.bar'",
    "attwithisofnplain": "foo-ä.html",
    "attwithutf8fnplain": "foo-Ã¤.html",
    "attwithfnrawpctenca": "foo-%41.html",
    "attwithfnusingpct": "50%.html",
    "attwithfnrawpctencaq": "foo-%\\41.html",
    "attwithfilenamepctandiso": "ä-%41.html",
    "attwithfnrawpctenclong": "foo-%c3%a4-%e2%82%ac.html",
    "attwith2filenames": 'foo.html"; filename="bar.html',
    "attfnbrokentoken": "foo[1](2).html",
    "attfnbrokentokenutf": "foo-ä(1).html",
    "attmissingdisposition2": "foo; inline; filename=bar",
    "attabspath": "/foo.html",
    "attabspathwin": "\\\\foo.html",
    "attcreationdate": 'foo; creation-date="Wed, 12 Feb 1997 16:29:51 -0500"',
    "attwithfn2231iso": "foo-ä.html",
    "attwithfn2231utf8": "foo-ä-€.html",
    "attwithfn2231utf8comp": "foo-a\u0308.html",
    "attwithfn2231noc": "foo-%c3%a4-%e2%82%ac.html",
    "attwithfn2231quot2": "UTF-8''foo-ä.html",
    "attwithfn2231dpercent": "A-%2541.html",
    "attwithfn2231abspathdisguised": "\\foo.html",
    "attfncontnum": 'foo"; filename*1="bar.html',
    "attfncontenc": "foo\"; filename*0*=UTF-8''foo-%c3%a4; filename*1=\".html",
    "attfnboth": "foo-ä.html\"; filename*=UTF-8''bar",
    "attfnbothreverse": "UTF-8''foo-ä.html; filename=\"foo-ae.html",
    "attnewandfn": 'foobar=x; filename="foo.html',
    "attrfc2047token": "=?ISO-8859-1?Q?foo-=E4.html?=",
    "attrfc2047quoted": "=?UTF-8?B?Zm9vLcOkLmh0bWw=?=",
}

HOSTILE = [
    "..",
    "../../etc/passwd",
    "..\\..\\boot.ini",
    "C:\\autoexec.bat",
    "%2e%2e%2fetc%2fpasswd",
    "..%c0%af..%c0%afetc",
    "a\r\nSet-Cookie: x=y\r\n\r\n<html>",
    "a\0.exe",
    "a\x1b[2J\x9b2J\x7f",
    "\u202egpj.exe",
    "$(id)`id`|id;id&",
    "-rf",
    "~root",
    "<script>alert(1)</script>",
    "a*b?c<d>|e:f",
    "   ",
    "\t\x0b\x0c",
    '"',
    "\\",
    "%",
    "''''",
    "*",
    "=?UTF-8?Q?=22?=",
    "データ",
    "\U0001f600\u200d\U0001f4a9",
    "é" * 120,
    "x" * 400,
]

NAMES = [*GREENBYTES.values(), *HOSTILE]


def served_as(name):
    """The name with its suffix, safe, as an answer has it; and the header."""
    safe = file_name(segment(name), "tar")
    return safe, content_disposition(safe)


def by_aiohttp(header):
    kind, parameters = parse_content_disposition(header)
    return kind, content_disposition_filename(parameters)


def by_werkzeug(header):
    kind, parameters = parse_options_header(header)
    return kind, parameters["filename"]


READERS = [by_aiohttp, by_werkzeug]


def shown(name):
    """Without backslashes, by which mutmut does not find a test again."""
    return ascii(name)[:40].replace("\\", "/")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", NAMES, ids=shown)
def test_the_name_is_read_as_it_was_meant(read, name):
    safe, header = served_as(name)
    assert read(header) == ("attachment", safe)


@pytest.mark.parametrize("read", READERS)
@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_name_is_read_as_it_was_meant(read, name):
    safe, header = served_as(name)
    assert read(header) == ("attachment", safe)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", NAMES, ids=shown)
def test_who_knows_no_other_name_reads_the_ascii_one(read, name):
    """As before RFC 8187: nothing in it is an escape to anybody."""
    safe, header = served_as(name)
    plain = header.rpartition("; filename*=")[0]
    kind, ascii_name = read(plain)
    assert kind == "attachment"
    assert len(ascii_name) == len(safe)
    assert not set(ascii_name) & set('"\\%/;')
    for ours, theirs in zip(ascii_name, safe, strict=True):
        assert ours in {theirs, "_"}


@settings(deadline=None)
@given(st.text(min_size=1, max_size=40).map(lambda text: text * 60))
def test_there_is_room_for_what_browsers_add(name):
    """Chromium cancels a download whose name with ` (1).crdownload` has more than 255 bytes."""
    safe, _ = served_as(name)
    assert len(f"{safe} (1).crdownload".encode()) <= 255
    assert safe.endswith(".tar")
    assert segment(safe) == safe


@settings(deadline=None)
@given(st.text(max_size=60))
def test_the_header_is_what_the_grammar_says(name):
    """RFC 6266 4.1, with quoted-string less quoted-pair; RFC 8187 3.2.1."""
    _, header = served_as(name)
    prefix, plain, rest = header.split('"')
    assert prefix == "attachment; filename="
    assert plain.isascii()
    assert plain.isprintable()
    charset, language, value = rest.removeprefix("; filename*=").split("'")
    assert (charset, language) == ("UTF-8", "")
    assert set(unquote(value.replace("%", "%25"))) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`|~%"
    )


def test_the_ascii_name_is_left_nothing_that_is_read_in_two_ways():
    """Whatever the name was before: a file system may have it so."""
    header = content_disposition('a\\b"c%d;e\u00fc.tar')
    assert header.startswith('attachment; filename="a_b_c_d_e_.tar"; ')


# Real tools


SAVED_BY = {
    # Only the ASCII name, whatever there is.
    "curl": ["curl", "-sSfOJ"],
    # It decodes twice what is encoded once: those with a percent sign are another matter.
    "wget": ["wget", "-q", "--content-disposition"],
    "aria2c": ["aria2c", "-q"],
}


async def saved(tool, url, directory):
    """The names of the files that are there when a tool has fetched this URL."""
    directory.mkdir()
    process = await asyncio.create_subprocess_exec(
        *SAVED_BY[tool], url, cwd=directory, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    async with asyncio.timeout(60):
        assert await process.wait() == 0
    return [str(path.relative_to(directory)) for path in sorted(directory.rglob("*"))]


@pytest.mark.parametrize("tool", SAVED_BY)
async def test_a_tool_saves_it_under_that_name(origin, start, tmp_path, tool):
    """One file, right there, whatever the name; and nothing beside the directory."""
    origin.add("/a", b"hello")
    gateway = await start(origin)
    # wget cuts long names at a length that it takes of their encoding.
    names = [name for name in NAMES if len(name) < 100]
    inside = tmp_path / "inside"
    inside.mkdir()
    for number, name in enumerate(names):
        safe, header = served_as(name)
        url = gateway.url(["a"], name=name)
        [file] = await saved(tool, url, inside / str(number))
        if tool == "curl":
            assert file == header.split('"')[1]
        elif tool == "aria2c" or "%" not in safe:
            assert file == safe
    assert len(list(inside.iterdir())) == len(names)
    assert {path.name for path in tmp_path.iterdir()} <= {"inside", "catalog.jsonl"}


def test_what_need_not_be_encoded_is_not():
    """attr-char in `filename*` (RFC 8187 3.2.1); a blank and a tilde in `filename`."""
    name = "X ~!#$&+^`|-._é.tar"
    assert content_disposition(name) == (
        "attachment; filename=\"X ~!#$&+^`|-.__.tar\"; filename*=UTF-8''X%20~!#$&+^`|-._%C3%A9.tar"
    )


def test_a_name_has_all_the_room_there_is():
    assert file_name("a", "tar") == "a.tar"
    for length in (235, 236, 237, 300):
        assert len(file_name("n" * length, "tar")) == min(length, 236) + len(".tar")
