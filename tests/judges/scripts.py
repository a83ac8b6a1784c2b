"""varnishtest: scripts in which it is a bad origin of, and a picky client to, a real gateway."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway import Process, archive_path, process, write_catalog
from nginx import RECOMMENDED, STOCK, held_port, nginx
from origin import Object, Origin
from range_facts import CONTENTS, FACTS, NAMES

SCRIPTS = sorted((Path(__file__).parent / "vtc").glob("*.vtc"))

CONFIG = """
[catalog]
kind = "file"
path = "{catalog}"
[upstream]
allow = ["{origin}", "{static}"]
attempts = 3
read_timeout = {read_timeout}
patience = 60
ahead = 0
remember = 0
[limits]
max_members = 4
"""


@dataclass(frozen=True)
class Stage:
    """Where scripts play: a gateway, and the port of the origin that they are."""

    macros: Mapping[str, str]
    proxies: Mapping[str, int]  # ports of nginx in front of the gateway

    def run(self, script: Path, **macros: str) -> str:
        """Run a script; what is wrong, or an empty text."""
        pairs = [f"{name}={value}" for name, value in {**self.macros, **macros}.items()]
        defined = [word for pair in pairs for word in ("-D", pair)]
        done = subprocess.run(
            ["varnishtest", *defined, "-t", "100", str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.stdout.decode(errors="replace") if done.returncode else ""

    def facts(self, path: Path) -> Path:
        """The table of facts about Range and conditions as a script, for a client."""
        path.write_text("\n".join(_facts(self.macros["etag"])))
        return path


def _facts(etag: str) -> Iterator[str]:
    yield 'varnishtest "Range and conditions, as the tests of varnish, nginx and mod_zip expect"'
    yield 'client c1 -connect "${gateway}" {'
    for fact in FACTS:
        headers = "".join(f" -hdr {{{line}}}" for line in fact.lines(etag))
        yield f"\t# {fact.source}"
        yield f'\ttxreq -url "${{archive}}"{headers}'
        yield "\trxresp"
        yield f"\texpect resp.status == {fact.status}"
        content_range = f'"{fact.content_range}"' if fact.content_range else "<undef>"
        yield f"\texpect resp.http.content-range == {content_range}"
        if fact.length is not None:
            yield f"\texpect resp.http.content-length == {fact.length}"
            yield f"\texpect resp.bodylen == {fact.length}"
        yield "\texpect resp.http.etag == {${etag}}"
    yield "} -run\n"


@contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """Run gateways whose catalog names the origin that scripts will be.

    `stated` has 1,000 bytes and `second` 10, and the catalog says so; of `asked` it says nothing.
    `file1.txt` and `file2.txt` lie on an origin that is there, and honest.
    """
    with ExitStack() as stack:
        port = stack.enter_context(held_port())
        root = f"http://127.0.0.1:{port}"
        static = stack.enter_context(Origin().in_thread())
        stated = {"mtime": 1_000_000_000, "etag": '"v1"'}
        entries: list[dict[str, object]] = [
            {"id": "stated", "url": f"{root}/stated", "size": 1000, **stated},
            {"id": "second", "url": f"{root}/second", "size": 10, **stated},
            {"id": "asked", "url": f"{root}/asked"},
            {"id": "forbidden", "url": "https://forbidden.example/"},
        ]
        for name, content in zip(NAMES, CONTENTS, strict=True):
            entries.append({"id": name, "url": static.add(f"/{name}", Object(content))})
        catalog = write_catalog(directory / "catalog.jsonl", entries)

        def gateway(read_timeout: int) -> Process:
            config = CONFIG.format(
                catalog=catalog, origin=root, static=static.root, read_timeout=read_timeout
            )
            return stack.enter_context(process(directory, config))

        patient = gateway(30)
        proxies = {
            name: stack.enter_context(nginx(directory / name, conf, patient.port)).port
            for name, conf in (("recommended", RECOMMENDED), ("defaults", STOCK))
        }
        with urllib.request.urlopen(patient.url(NAMES, "/plan")) as answer:
            etag = json.load(answer)["etag"]
        macros = {
            "gateway": f"127.0.0.1 {patient.port}",
            "hasty": f"127.0.0.1 {gateway(2).port}",  # it soon takes an origin for stalled
            "origin": f"127.0.0.1 {port}",
            "host": f"127.0.0.1:{port}",
            "archive": archive_path(NAMES),
            "plan": archive_path(NAMES, "/plan"),
            "etag": etag,
            "version": etag.strip('"'),
        }
        yield Stage(macros, proxies)
