"""Every kind of answer that the gateway gives: the requests that bring them about."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import faults
from gateway import Process, archive_path, process, write_catalog
from made import Made
from nginx import RECOMMENDED, nginx
from origin import Object, Origin

PLAIN, PUBLIC, BEARER, SIGNED = "plain", "public", "bearer", "signed"
IMPATIENT, FULL, DRAINING = "impatient", "full", "draining"

IDS = ("text", "video")

CONFIG = """
[server]
public = {public}
[auth]
{auth}
[catalog]
kind = "file"
path = "{catalog}"
[upstream]
allow = ["{origin}"]
attempts = 1
plan_timeout = {plan_timeout}
[limits]
max_members = 20
max_archives = {max_archives}
stall_timeout = {stall_timeout}
"""
SECRET = "0123456789abcdef0123456789abcdef"  # of tests

_USUAL = {
    "public": "false",
    "auth": 'kind = "none"',
    "plan_timeout": 60,
    "max_archives": 500,
    "stall_timeout": 120,
}


@dataclass(frozen=True)
class Kind:
    """A kind of answer, and how to get it. In `path` and `headers`, {E} is the archive's
    entity-tag and {V} the same without its quotes."""

    name: str
    status: int
    path: str = archive_path(IDS)
    method: str = "GET"
    headers: tuple[str, ...] = ()
    body: bytes = b""
    gateway: str = PLAIN
    version: str = "1.1"
    proxied: bool = True  # nginx in front does not answer it itself
    whole: bool = True  # the request is, so that another may follow it

    @property
    def lasts(self) -> bool:
        """Whether the connection may be used for another request after it."""
        return self.whole and (self.version == "1.1" or "Connection: keep-alive" in self.headers)

    def request(self, etag: str) -> bytes:
        """The bytes to send."""
        lines = [
            f"{self.method} {self.path} HTTP/{self.version}",
            "Host: 127.0.0.1",
            "User-Agent: judges",
            *self.headers,
        ]
        if self.body and not any(line.startswith("Content-Length") for line in lines):
            lines.append(f"Content-Length: {len(self.body)}")
        head = "\r\n".join(lines).replace("{E}", etag).replace("{V}", etag.strip('"'))
        return head.encode() + b"\r\n\r\n" + self.body


def _ask(*ids: str, route: str = "/archive", **parameters: str) -> str:
    return archive_path(ids, route, **parameters)


_PINNED = _ask(*IDS) + "&version={V}"
_PLAN = _ask(*IDS, route="/plan")
_LINES = ("Accept: application/x-ndjson",)
_JSON = ("Content-Type: application/json",)
_LIST = json.dumps({"ids": IDS}).encode()

KINDS = [
    Kind("archive", 200),
    Kind("archive, HEAD", 200, method="HEAD"),
    Kind("archive, POST of JSON", 200, "/archive", "POST", _JSON, _LIST),
    Kind(
        "archive, POST of a form", 200, "/archive", "POST",
        ("Content-Type: application/x-www-form-urlencoded",), b"ids=text,video",
    ),
    Kind("archive by another name", 200, _ask(*IDS, name='Zürich "am" See; 100 %')),
    Kind("archive, gzip accepted", 200, headers=("Accept-Encoding: gzip",)),
    Kind("archive of weak validators", 200, _ask("weak")),
    Kind("archive without validators", 200, _ask("bare")),
    Kind("archive with MISSING.txt", 200, _ask("text", "gone", missing="skip")),
    Kind("part", 206, headers=("Range: bytes=0-99",)),
    Kind("part, If-Range", 206, headers=("Range: bytes=-1", "If-Range: {E}")),
    Kind("part, If-Range of another", 200, headers=("Range: bytes=-1", 'If-Range: "x"')),
    Kind("HEAD with Range", 200, method="HEAD", headers=("Range: bytes=0-99",)),
    Kind("several parts asked for", 200, headers=("Range: bytes=0-1,5-6",)),
    Kind("part of weak validators", 200, _ask("weak"), headers=("Range: bytes=0-99",)),
    Kind("not modified", 304, headers=("If-None-Match: {E}",)),
    Kind("not modified, HEAD", 304, method="HEAD", headers=("If-None-Match: {E}",)),
    Kind("not modified, weak", 304, _ask("weak"), headers=("If-None-Match: *",)),
    Kind("precondition failed", 412, headers=('If-Match: "x"',)),
    Kind("precondition failed, HEAD", 412, method="HEAD", headers=('If-Match: "x"',)),
    Kind("range not satisfiable", 416, headers=("Range: bytes=9999999-",)),
    Kind("pinned", 200, _PINNED),
    Kind("pinned, part", 206, _PINNED, headers=("Range: bytes=0-99",)),
    Kind("pinned, not modified", 304, _PINNED, headers=("If-None-Match: {E}",)),
    Kind("pinned, public", 200, _PINNED, gateway=PUBLIC),
    Kind("pinned, public, HEAD", 200, _PINNED, "HEAD", gateway=PUBLIC),
    Kind("pinned, public, part", 206, _PINNED, headers=("Range: bytes=0-99",), gateway=PUBLIC),
    Kind("HTTP/1.0", 200, version="1.0"),
    Kind("HTTP/1.0, kept alive", 200, headers=("Connection: keep-alive",), version="1.0"),
    Kind("HTTP/1.0, part", 206, headers=("Range: bytes=0-99",), version="1.0"),
    Kind("HTTP/1.0, HEAD", 200, method="HEAD", version="1.0"),
    Kind("HTTP/1.0, problem", 404, _ask("nobody"), version="1.0"),
    Kind("HTTP/1.0, plan as lines", 200, _PLAN, headers=_LINES, version="1.0"),
    Kind("plan", 200, _PLAN),
    Kind("plan, HEAD", 200, _PLAN, "HEAD"),
    Kind("plan, POST", 200, "/plan", "POST", _JSON, _LIST),
    Kind("plan as lines", 200, _PLAN, headers=_LINES),
    Kind("plan as lines, HEAD", 200, _PLAN, "HEAD", _LINES),
    Kind("plan of weak validators", 200, _ask("weak", route="/plan")),
    Kind("openapi", 200, "/openapi.json"),
    Kind("openapi, HEAD", 200, "/openapi.json", "HEAD"),
    Kind("metrics", 200, "/metrics", proxied=False),
    Kind("metrics, HEAD", 200, "/metrics", "HEAD", proxied=False),
    Kind("healthz", 200, "/healthz"),
    Kind("healthz, HEAD", 200, "/healthz", "HEAD"),
    Kind("readyz", 200, "/readyz"),
    Kind("readyz, draining", 503, "/readyz", gateway=DRAINING),
    Kind("no ids", 400, "/archive"),
    Kind("no ids, HEAD", 400, "/archive", "HEAD"),
    Kind("malformed JSON", 400, "/archive", "POST", _JSON, b"{"),
    Kind("version of a weak archive", 400, _ask("weak", version="x")),
    Kind("line too long", 400, "/archive?ids=" + "x" * 40_000, proxied=False),
    Kind("not HTTP", 400, "/archive", "G\x01T", proxied=False),
    Kind("nobody said who", 401, gateway=BEARER),
    Kind("another token", 401, headers=("Authorization: Bearer no",), gateway=BEARER),
    Kind("not signed", 401, gateway=SIGNED),
    Kind(
        "signature wrong", 403, _ask(*IDS) + "&exp=99999999999&key=k1&sig=" + "A" * 43,
        gateway=SIGNED,
    ),
    Kind("source that is not allowed", 403, _ask("forbidden")),
    Kind("unknown id", 404, _ask("nobody", "text")),
    Kind("unknown id, HEAD", 404, _ask("nobody"), "HEAD"),
    Kind("unknown path", 404, "/favicon.ico"),
    Kind("other method", 405, method="DELETE"),
    Kind("other method of a plan", 405, _PLAN, method="PUT"),
    Kind("OPTIONS", 405, method="OPTIONS"),
    Kind("body that does not come", 408, "/archive", "POST",
         (*_JSON, "Content-Length: 9"), b"{", IMPATIENT, proxied=False, whole=False),
    Kind("version that is gone", 409, _ask(*IDS, version="x")),
    Kind("too many members", 413, _ask(*["text"] * 21)),
    Kind("body too long", 413, "/archive", "POST",
         (*_JSON, "Content-Length: 9000000"), b"{", proxied=False, whole=False),
    Kind("body of another type", 415, "/archive", "POST", ("Content-Type: text/csv",), b"a"),
    Kind("source that is gone", 502, _ask("gone")),
    Kind("source with a coding", 502, _ask("coded")),
    Kind("source that is gone, HEAD", 502, _ask("gone"), "HEAD"),
    Kind("gateway full", 503, gateway=FULL),
    Kind("gateway full, HEAD", 503, method="HEAD", gateway=FULL),
    Kind("gateway draining", 503, gateway=DRAINING),
    Kind("source too slow", 504, _ask("late"), gateway=IMPATIENT),
]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a gateway is: directly, and through nginx."""

    direct: int
    proxied: int
    process: Process


@contextmanager
def gateways(directory: Path) -> Iterator[dict[str, Place]]:
    """Run one real gateway for each circumstance, nginx in front of each, and their origin."""
    with ExitStack() as stack:
        origin = stack.enter_context(Origin().in_thread())
        catalog = write_catalog(directory / "catalog.jsonl", _entries(origin))

        def run(name: str, **settings: object) -> Place:
            place = directory / name
            place.mkdir()
            values = {**_USUAL, "catalog": catalog, "origin": origin.root, **settings}
            config = CONFIG.format_map(values)
            gateway = stack.enter_context(process(place, config))
            proxy = stack.enter_context(nginx(place / "nginx", RECOMMENDED, gateway.port))
            return Place(gateway.port, proxy.port, gateway)

        places = {
            PLAIN: run(PLAIN),
            PUBLIC: run(PUBLIC, public="true"),
            BEARER: run(BEARER, auth=f'kind = "bearer"\ntokens = ["{SECRET}"]'),
            SIGNED: run(SIGNED, auth=f'kind = "signed"\nkeys = ["k1 {SECRET}"]'),
            IMPATIENT: run(IMPATIENT, plan_timeout=1, stall_timeout=1),
            FULL: run(FULL, max_archives=1),
            DRAINING: run(DRAINING),
        }
        for name in (FULL, DRAINING):
            stack.enter_context(_download_that_stops(places[name].direct))
        places[DRAINING].process.popen.terminate()
        places[DRAINING].process.wait_for_log("draining")
        yield places


def _entries(origin: Origin) -> Iterator[dict[str, object]]:
    text = origin.add("/text.txt", Object(Made(3000, seed=1), etag='"text"'))
    yield {"id": "text", "url": text, "size": 3000, "mtime": 1_000_000_000, "etag": '"text"'}
    yield {"id": "video", "url": origin.add("/Zürich am See/video.bin", Made(200_000, seed=2))}
    yield {
        "id": "weak",
        "url": origin.add("/weak", Object(Made(3000), etag='W/"w"', last_modified=None)),
    }
    bare = Object(Made(3000), etag=None, last_modified=None)
    yield {"id": "bare", "url": origin.add("/bare", bare)}
    yield {"id": "gone", "url": origin.url("/gone")}
    yield {"id": "coded", "url": origin.add("/coded", b"coded" * 100, faults.coded())}
    yield {"id": "late", "url": origin.add("/late", b"late", faults.late())}
    yield {"id": "large", "url": origin.add("/large", Made(64 * 1024**2))}
    yield {"id": "forbidden", "url": "https://forbidden.example/file"}


@contextmanager
def _download_that_stops(port: int) -> Iterator[None]:
    """A client that holds its download open and takes no more of it."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(f"GET {_ask('large')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        yield
