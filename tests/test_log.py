"""The log: one line an event, which nobody but the program itself can write."""

import asyncio
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys

import pytest
from aiohttp import web
from faults import fin, stall, status
from gateway import Running, archive_path, process, raw
from hypothesis import example, given
from hypothesis import strategies as st
from origin import Made

from tarstream.app import Gateway, runner_of
from tarstream.config import Settings
from tarstream.log import JsonFormatter, TextFormatter

FORMATTERS = {"text": TextFormatter(), "json": JsonFormatter()}

HOSTILE = {
    "newline": "a\n2026-01-01T00:00:00.000Z info archive outcome=complete",
    "carriage return": "a\rinfo",
    "escape sequence": "\x1b[2J\x1b[31m\x1b]0;title\x07",
    "C1": "\x9b31m\x85",
    "NUL, backspace, DEL": "a\0\b\x7f",
    "line separators": "a\u2028b\u2029c\x0b\x0c\x1c\x1d\x1e",
    "bidirectional": "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe\N{LEFT-TO-RIGHT ISOLATE}",
    "invisible": "a\u200b\ufeff\u00ad",
    "half a surrogate pair": "a\ud800",
    "fields": 'a status=200 outcome="complete"',
    "quotes": "\" ' \\ \\n",
}

ODD = pytest.mark.parametrize("odd", HOSTILE.values(), ids=HOSTILE)


def record(message="archive", *args, exc_info=None, **fields):
    made = logging.LogRecord("tarstream", logging.INFO, "x.py", 1, message, args, exc_info)
    made.created = 1_700_000_000.1234
    if fields:
        made.fields = fields
    return made


def failure(message):
    try:
        raise RuntimeError(message)
    except RuntimeError:
        return sys.exc_info()


# Text.


def test_text_is_time_level_message_and_fields():
    line = TextFormatter().format(
        record(request_id="0f", client="::1", sent=5, seconds=0.25, outcome="client left", x=None)
    )
    assert line == (
        "2023-11-14T22:13:20.123Z info archive request_id=0f client=::1 sent=5 seconds=0.25 "
        'outcome="client left" x=None'
    )


def test_text_without_fields_is_a_message_with_its_arguments():
    line = TextFormatter().format(record("catalog loaded: %d entries", 7))
    assert line == "2023-11-14T22:13:20.123Z info catalog loaded: 7 entries"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("https://h:1/a%20b", "https://h:1/a%20b"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('a"b', r'"a\"b"'),
        ("é", r'"\u00e9"'),
        (["a", "b c"], "\"['a', 'b c']\""),
        (0, "0"),
        (True, "True"),
    ],
)
def test_a_value_in_text_has_quotes_where_it_could_be_misread(value, text):
    assert TextFormatter().format(record(key=value)).endswith(f" archive key={text}")


# JSON.


def test_json_is_one_object_with_the_fields():
    line = JsonFormatter().format(record("%s", "é", client="::1", sent=5, ids=["a"], none=None))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "info",
        "message": "é",
        "client": "::1",
        "sent": 5,
        "ids": ["a"],
        "none": None,
    }


def test_json_holds_a_traceback_in_its_line():
    line = JsonFormatter().format(record("failed", exc_info=failure("wrong\nwith me")))
    assert "\n" not in line
    event = json.loads(line)
    assert event["exception"].startswith("Traceback (most recent call last):\n")
    assert event["exception"].endswith("RuntimeError: wrong\nwith me")


def test_json_takes_values_that_json_does_not_know():
    event = json.loads(JsonFormatter().format(record(path=os, error=ValueError("x"))))
    assert event["error"] == "x"


# Nobody else writes.


def is_plain(text):
    """No control, nothing that a terminal acts upon, no separator but the blank."""
    return text.isascii() and text.isprintable()


@ODD
@pytest.mark.parametrize("format_", FORMATTERS)
def test_nothing_in_a_field_forges_a_line_or_reaches_the_terminal(format_, odd):
    line = FORMATTERS[format_].format(record(id=odd, ids=[odd], detail={odd: odd}))
    assert is_plain(line)


@ODD
@pytest.mark.parametrize("format_", FORMATTERS)
def test_nothing_in_a_message_forges_a_line_or_reaches_the_terminal(format_, odd):
    line = FORMATTERS[format_].format(record("rejected: %s", odd))
    assert line.isprintable()
    assert "\n" not in line


@ODD
def test_a_value_is_read_back_as_it_was(odd):
    text = TextFormatter().format(record(id=odd)).partition(" id=")[2]
    assert json.loads(text) == odd
    assert json.loads(JsonFormatter().format(record(id=odd)))["id"] == odd


@ODD
def test_a_traceback_is_indented_and_cannot_forge_a_line_either(odd):
    lines = TextFormatter().format(record("failed", exc_info=failure(odd))).split("\n")
    assert lines[0] == "2023-11-14T22:13:20.123Z info failed"
    assert lines[1] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in lines[1:])
    assert all(line.isprintable() for line in lines)
    assert "RuntimeError: " in "".join(lines)


@given(st.text(st.characters()), st.text(st.characters()))
@example("a b", "")
def test_whatever_is_logged_is_one_printable_line(message, value):
    for formatter in FORMATTERS.values():
        line = formatter.format(record("%s", message, key=value))
        assert line.isprintable()
        assert len(line.splitlines()) == 1


# Set up, as a process.

SET_UP = """
import logging, sys
from tarstream import log
log.set_up(sys.argv[1], sys.argv[2])
logger = logging.getLogger("tarstream.somewhere")
for level in ("debug", "info", "warning", "error"):
    getattr(logger, level)("said", extra={"fields": {"number": 1}})
"""


@pytest.mark.parametrize("format_", FORMATTERS)
@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_what_is_logged_goes_to_standard_error_from_the_level_up(format_, level, logged):
    done = subprocess.run(
        [sys.executable, "-c", SET_UP, format_, level], capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert done.stdout == ""
    if format_ == "json":
        assert [json.loads(line)["level"] for line in lines] == logged
    else:
        assert [line.split(" ")[1] for line in lines] == logged
        assert all(line.endswith(" said number=1") for line in lines)


def test_the_formatters_are_all_that_can_be_asked_for():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    for format_, formatter in FORMATTERS.items():
        handler.setFormatter(formatter)
        handler.emit(record(format=format_))
    assert stream.getvalue().count("\n") == len(FORMATTERS)


# What a gateway logs.

TEXT_LINE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z (debug|info|warning|error) [a-zA-Z ]+"
    r"( [a-z_]+=([A-Za-z0-9_./:,@*+%-]+|\"([^\"\\]|\\.)*\"))*"
)


@pytest.fixture
def logged():
    """All that is logged meanwhile, formatted as `format_` says."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()

    def logged(format_):
        handler.setFormatter(FORMATTERS[format_])
        return stream

    level = root.level
    root.setLevel("INFO")
    root.addHandler(handler)
    yield logged
    root.removeHandler(handler)
    root.setLevel(level)


async def fetch(gateway, ids, headers=""):
    ids = [id_.encode(errors="replace").decode() for id_ in ids]
    head = f"GET {archive_path(ids)} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n"
    return await raw(gateway.port, head.encode())


@pytest.mark.parametrize("format_", FORMATTERS)
async def test_each_request_is_one_line_whatever_is_asked_for(start, origin, logged, format_):
    origin.add("/good", b"x" * 1000)
    origin.add("/broken", b"x" * 1000, status(500))
    gateway = await start(origin, server={"trusted_proxies": ["127.0.0.1"]})
    stream = logged(format_)
    asked = [["good"], [*HOSTILE.values()], ["good", "nowhere"], ["../secret"], ["good", ""]]
    for number, ids in enumerate(asked):
        hostile = "X-Request-Id: \x9b31m\r\nX-Forwarded-For: \x9b2J\r\nUser-Agent: \u202e\r\n"
        answer = await fetch(gateway, ids, hostile)
        assert answer.startswith(b"HTTP/1.1 ")
        lines = stream.getvalue().splitlines()
        assert len(lines) == number + 1
        assert is_plain(lines[-1])
        if format_ == "json":
            assert json.loads(lines[-1])["message"] == "archive" if number == 0 else "refused"
        else:
            assert TEXT_LINE.fullmatch(lines[-1]), lines[-1]


class Failing:
    """A catalog with a mistake in it."""

    async def lookup(self, ids, caller):
        raise RuntimeError(f"no such table\n2026 info {ids[0]}")

    async def watch(self):
        """Nothing changes."""


@pytest.mark.parametrize("format_", FORMATTERS)
async def test_only_our_own_failure_comes_with_a_traceback(origin, logged, format_):
    settings = Settings(
        catalog={"kind": "template", "url": f"{origin.root}/{{id}}"},
        upstream={"allow": [origin.root]},
    )
    runner = runner_of(Gateway(settings, Failing()))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        stream = logged(format_)
        answer = await fetch(Running(None, runner), ["\x1b[31m"])
    finally:
        await runner.cleanup()
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"no such table" not in answer
    text = stream.getvalue()
    assert text.count("Traceback") == 1
    assert text.count("RuntimeError: no such table") == 1
    assert "\x1b" not in text
    if format_ == "json":
        (failed,) = [json.loads(line) for line in text.splitlines() if "exception" in line]
        assert failed["level"] == "error"
    else:
        assert all(line.startswith(("  ", "2")) for line in text.splitlines())
        assert "\n2026 info" not in text


@pytest.mark.parametrize("format_", FORMATTERS)
async def test_what_others_do_comes_without_a_traceback(start, origin, logged, format_):
    """An origin that fails before and after the first byte, and a client that leaves."""
    origin.add("/refuses", b"", status(500))
    origin.add("/breaks", Made(1 << 20), fin(at=1000))
    origin.add("/stalls", Made(1 << 20), stall(at=1000))
    gateway = await start(origin, upstream={"attempts": 1})
    stream = logged(format_)
    assert (await fetch(gateway, ["refuses"])).startswith(b"HTTP/1.1 502 ")
    assert (await fetch(gateway, ["breaks"])).startswith(b"HTTP/1.1 200 ")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"GET {archive_path(['stalls'])} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    await reader.readexactly(1500)
    writer.close()
    async with asyncio.timeout(30):
        while "client left" not in stream.getvalue():
            await asyncio.sleep(0.01)
    assert "Traceback" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 3


def test_what_is_not_http_is_a_line_without_a_traceback(tmp_path):
    config = """
        [catalog]
        kind = "template"
        url = "https://h/{id}"
        [upstream]
        allow = ["https://h"]
    """
    with process(tmp_path, config) as gateway:
        for nonsense in (
            b"\x1b[31m nonsense\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\0\r\n",
        ):
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
                client.sendall(nonsense)
                client.shutdown(socket.SHUT_WR)
                client.recv(4096)
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
        for line in gateway.log.splitlines():
            assert TEXT_LINE.fullmatch(line), line
