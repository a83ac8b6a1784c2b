"""httplint and REDbot: every kind of answer of a real gateway, as an HTTP purist reads it.

httplint reads answers that were asked for here, byte by byte, directly and through nginx. REDbot
asks itself, and asks again with Range, conditions and content codings.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from httplint import HttpRequestLinter, HttpResponseLinter
from httplint.note import levels
from thor.http.common import Delimiters, HttpMessageHandler, States, no_body_status
from thor.http.error import HttpError

from judges.answers import IDS, KINDS, PLAIN, PUBLIC, Kind, Place, archive_path
from judges.explained import EXPLAINED
from judges.verdict import Verdict

SECONDS = 30
FOLLOWING = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Exchange(HttpMessageHandler):  # type: ignore[misc]
    """An answer as thor parses it and httplint judges it; whatever follows is looked at too."""

    default_state = States.WAITING

    def __init__(self, kind: Kind, request: bytes) -> None:
        super().__init__()
        self._head = kind.method == "HEAD"
        head, _, body = request.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        method, target, version = line.split(b" ")
        self._request = HttpRequestLinter(start_time=time.time())
        self._request.process_request_topline(method, target, version.removeprefix(b"HTTP/"))
        self._request.process_headers([_field(each) for each in fields])
        self._request.feed_content(body)
        self.response = HttpResponseLinter(start_time=time.time(), _related=self._request)
        self.response.is_head_response = self._head
        self.statuses: list[int] = []
        self.ended = 0
        self.errors: list[str] = []

    def close(self) -> None:
        """Nothing more comes."""
        if self._input_delimit == Delimiters.CLOSE and self._input_state == States.HEADERS_DONE:
            self.input_end([])

    def input_start(
        self,
        top_line: bytes,
        hdr_tuples: list[tuple[bytes, bytes]],
        conn_tokens: list[bytes],
        transfer_codes: list[bytes],
        content_length: int | None,
    ) -> tuple[bool, bool]:
        """A head has come: whether a body follows, and whether it is a final one."""
        version, status, *phrase = top_line.split(b" ", 2)
        self.statuses.append(int(status))
        if len(self.statuses) > 1:
            return True, True
        version = version.removeprefix(b"HTTP/")
        self.response.process_response_topline(version, status, b"".join(phrase))
        self.response.process_headers(hdr_tuples)
        return status not in no_body_status and not self._head, True

    def input_body(self, chunk: bytes) -> None:
        """Some content has come."""
        if len(self.statuses) == 1:
            self.response.feed_content(chunk)

    def input_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """An answer has ended, by its framing."""
        self.ended += 1
        if len(self.statuses) == 1:
            self.response.finish_content(True, trailers)

    def input_error(self, err: HttpError, close: bool = True) -> None:
        """What came is no HTTP."""
        self.errors.append(f"{err.desc} {err.detail or ''}")

    def output(self, data: bytes) -> None:
        """Nothing is sent by way of this."""

    def output_done(self) -> None:
        """Nothing is sent by way of this."""


def judge(places: dict[str, Place]) -> Iterator[Verdict]:
    """Put all kinds of answers before httplint, and some resources before REDbot."""
    etags = {name: _etag(place.direct) for name, place in places.items() if name in {PLAIN, PUBLIC}}
    for kind in KINDS:
        verdict = Verdict("httplint", f"{kind.status} {kind.name}")
        place = places[kind.gateway]
        _lint(verdict, kind, place.direct, etags.get(kind.gateway, ""), "")
        if kind.proxied:
            _lint(verdict, kind, place.proxied, etags.get(kind.gateway, ""), "through nginx: ")
        verdict.remarks = sorted(set(verdict.remarks))
        yield verdict
    yield from _redbot(places[PLAIN].direct, etags[PLAIN], "")
    yield from _redbot(places[PLAIN].proxied, etags[PLAIN], " through nginx")


def _lint(verdict: Verdict, kind: Kind, port: int, etag: str, where: str) -> None:
    request = kind.request(etag)
    exchange = Exchange(kind, request)
    _converse(port, request + FOLLOWING if kind.lasts else request, exchange, all_=kind.whole)
    faults = list(exchange.errors)
    first, *rest = exchange.statuses or [0]
    if first != kind.status:
        faults.append(f"answers {first}")
    if rest not in ([200], []) or exchange.ended != len(exchange.statuses):
        faults.append(f"{exchange.ended} of {exchange.statuses} ended as they should")
    for note, level, summary in _notes(exchange.response.notes):
        _weigh(verdict, faults, note, level, summary)
    verdict.faults += [where + fault for fault in faults]


def _weigh(verdict: Verdict, faults: list[str], note: str, level: str, summary: str) -> None:
    """Everything but good news and information must be explained, and bad notes cannot be."""
    if level == levels.BAD.name:
        faults.append(f"bad: {note}: {summary}")
    elif level == levels.WARN.name:
        if note in EXPLAINED:
            verdict.remarks.append(note)
        else:
            faults.append(f"warning: {note}: {summary}")


def _notes(notes: Any) -> Iterator[tuple[str, str, str]]:
    for note in notes:
        yield type(note).__name__, note.level.name, note.summary
        yield from _notes(note.subnotes)


def _redbot(port: int, etag: str, where: str) -> Iterator[Verdict]:
    """REDbot in a process of its own: its event loop is one for all."""
    paths = {
        "archive": archive_path(IDS),
        "pinned archive": archive_path(IDS, version=etag.strip('"')),
        "archive of weak validators": archive_path(["weak"]),
        "archive without validators": archive_path(["bare"]),
        "plan": archive_path(IDS, "/plan"),
        "problem": archive_path(["nobody"]),
        "healthz": "/healthz",
    }
    urls = [f"http://127.0.0.1:{port}{path}" for path in paths.values()]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "probe.py"), *urls],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    for what, line in zip(paths, done.stdout.splitlines(), strict=True):
        verdict = Verdict("REDbot", what + where)
        said = json.loads(line)
        verdict.faults += said["errors"]
        for note, level, summary in said["notes"]:
            _weigh(verdict, verdict.faults, note, level, summary)
        verdict.remarks = sorted(set(verdict.remarks)) + [
            note for note, level, _ in said["notes"] if level == levels.GOOD.name
        ]
        yield verdict


def _converse(port: int, request: bytes, exchange: Exchange, *, all_: bool) -> None:
    """Send a request; hear all until the other side closes, or only the answer."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        connection.sendall(request)
        with suppress(ConnectionError):
            while data := connection.recv(1 << 16):
                exchange.handle_input(data)
                if exchange.ended and not all_:
                    return  # the gateway waits for the rest of the request
    exchange.close()


def _etag(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{archive_path(IDS, '/plan')}") as plan:
        return str(json.load(plan)["etag"])


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip()
