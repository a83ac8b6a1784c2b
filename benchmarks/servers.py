"""Who is measured, an entry each: what it makes, how it is started, what it is asked for.

A peer that is a program listens on 127.0.0.1 at the port of its first argument, and packs at
`GET /tar` or `GET /zip` the members that the JSON file of its second one lists, each with "name",
"size", "mtime", "url" and, where it is known, "crc32".
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cases import Case
from benchmarks.origin import MTIME, ROOT, File, passing_on
from benchmarks.processes import said, status
from tarstream.config import Upstream

PEERS = ROOT / "benchmarks" / "peers"

IN_A_URL = 2000
"""Ids; the gateway takes lines of 32 KiB."""


@dataclass(frozen=True)
class Work:
    """A case with what it stands on: files of the origin, its port, and how often we shall ask."""

    case: Case
    files: list[File]
    root: Path
    """Where these are."""
    origin: int
    rounds: int
    directory: Path

    def name(self, number: int) -> str:
        """A member's name in the archive."""
        return f"members/{number:06}.bin"

    def file(self, number: int) -> File:
        """A member's file at the origin."""
        return self.files[number % len(self.files)]

    def url(self, number: int) -> str:
        """Where the origin has it."""
        return f"http://127.0.0.1:{self.origin}/{self.file(number).path}"


@dataclass(frozen=True)
class Server:
    """One who packs, or passes on."""

    name: str
    formats: frozenset[str]
    command: Callable[[Work, int], list[str]]
    """Of a work and a port: what runs it."""
    request: Callable[[Work, int, int], list[str]]
    """Of a work, a port and a round: what curl is told."""
    version: Callable[[], str]
    packs: bool = True
    uses_crc: bool = False
    """It computes no CRC-32 that it is told."""
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Of our gateway, beside those of every row; where it does not know them there is no row."""
    cases: frozenset[str] | None = None
    """Those it has a row in; None: all that fit."""

    @property
    def is_ours(self) -> bool:
        """Whether it is our gateway."""
        return self.name.startswith("tarstream")

    def fits(self, case: Case) -> bool:
        """Whether it has a row in this case."""
        if self.cases is not None and case.name not in self.cases:
            return False
        if case.ours_only and not self.is_ours:
            return False
        if case.knows_crc and not self.uses_crc:
            return False
        if not self.packs:
            return case.format == "tar" and not case.slow
        return case.format in self.formats


def _ours(name: str, settings: Mapping[str, Mapping[str, object]], *cases: str) -> Server:
    def command(work: Work, port: int) -> list[str]:
        catalog, config = (work.directory / f"{port}.{kind}" for kind in ("jsonl", "toml"))
        with catalog.open("w") as lines:
            lines.writelines(json.dumps(entry) + "\n" for entry in _catalog(work))
        allow = f"http://127.0.0.1:{work.origin}"
        if work.case.place == "file":
            allow = work.root.as_uri()
        config.write_text(_toml(_merged(settings, str(catalog), allow)))
        return [
            sys.executable,
            str(ROOT / "server.py"),
            "--config",
            str(config),
            "--port",
            str(port),
        ]

    return Server(
        name,
        frozenset({"tar", "zip"}),
        command,
        _asked,
        lambda: version("tarstream"),
        uses_crc=True,
        settings=settings,
        cases=frozenset(cases) or None,
    )


def _catalog(work: Work) -> list[dict[str, object]]:
    """Our entries. Where we learn something of a member, each round has URLs of its own.

    What HEAD said and what a CRC-32 turned out to be is remembered for each URL: with the same
    ones the second round would not have to learn it.
    """
    case = work.case
    entries = []
    for round_ in range(work.rounds):
        for number in range(case.members):
            file, path = work.file(number), work.root / work.file(number).path
            entry: dict[str, object] = {
                "id": _id(case, round_, number), "name": work.name(number),
            }  # fmt: skip
            if case.place == "catalog":
                entry |= {"text": path.read_text(), "mtime": MTIME}
            elif case.place == "file":
                entry["url"] = path.as_uri()
            else:
                entry["url"] = f"{work.url(number)}?{round_}"
            if case.place == "origin" and case.knows_sizes:
                entry |= {"size": file.size, "mtime": MTIME, "etag": file.etag}
            if case.knows_crc:
                entry["crc32"] = file.crc32
            entries.append(entry)
        if not _learns(case):
            break
    return entries


def _learns(case: Case) -> bool:
    return not case.knows_sizes or (case.format == "zip" and not case.knows_crc)


def _id(case: Case, round_: int, number: int) -> str:
    return f"{round_ if _learns(case) else 0}-{number}"


def _asked(work: Work, port: int, round_: int) -> list[str]:
    """Our archive: by GET, or by POST where a list of ids outgrows a URL."""
    case, route = work.case, f"http://127.0.0.1:{port}/archive"
    ids = [_id(case, round_, number) for number in range(case.members)]
    if case.members <= IN_A_URL:
        return [f"{route}?format={case.format}&ids={','.join(ids)}"]
    body = work.directory / f"{port}-{round_}.body"
    body.write_text(json.dumps({"ids": ids, "format": case.format}))
    json_ = "Content-Type: application/json"
    return [route, "--header", json_, "--header", "Expect:", "--data-binary", f"@{body}"]


def _merged(
    settings: Mapping[str, Mapping[str, object]], catalog: str, allow: str
) -> dict[str, dict[str, object]]:
    merged: dict[str, dict[str, object]] = {
        "catalog": {"kind": "file", "path": catalog},
        "upstream": {"allow": [allow]},
        "limits": {"max_members": 100_000},
    }
    for section, values in settings.items():
        merged.setdefault(section, {}).update(values)
    return merged


def _toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    lines = []
    for section, values in sections.items():
        # JSON's strings, numbers, booleans and lists are TOML's too.
        lines += [
            f"[{section}]",
            *(f"{key} = {json.dumps(value)}" for key, value in values.items()),
        ]
    return "\n".join(lines) + "\n"


@cache
def knows(section: str, key: str, value: str) -> bool:
    """Whether our gateway has a setting; `value` is JSON."""
    with TemporaryDirectory() as directory:
        config = Path(directory) / "config.toml"
        (catalog := Path(directory) / "catalog.jsonl").touch()
        settings = {section: {key: json.loads(value)}}
        config.write_text(_toml(_merged(settings, str(catalog), "http://127.0.0.1:1")))
        return status([sys.executable, ROOT / "server.py", "--config", config, "--check"]) == 0


def note(case: Case) -> str:
    """What an origin that is far away makes possible, and what is compared without one."""
    if case.place == "catalog":
        return (
            "No origin takes part and curl has little to do, "
            "so two workers have two cores nearly to themselves."
        )
    ahead = Upstream.model_fields["ahead"].default
    if not case.latency or case.is_large:
        return ""
    return (
        f"`ahead` is {ahead}: at most {ahead / case.latency:,.0f} members a second, "
        f"and {1 / case.latency:,.0f} one after the other."
    )


def is_known(server: Server) -> bool:
    """Whether our gateway has the settings of this row."""
    return all(
        knows(section, key, json.dumps(value))
        for section, values in server.settings.items()
        for key, value in values.items()
    )


def _peer(
    name: str, formats: set[str], runs: list[str], package: str, *, uses_crc: bool = False
) -> Server:
    python = runs[0].endswith("python")

    def command(work: Work, port: int) -> list[str]:
        manifest = work.directory / f"{port}.json"
        manifest.write_text(json.dumps(_manifest(work)))
        return [*runs, str(port), str(manifest)]

    def request(work: Work, port: int, round_: int) -> list[str]:
        return [f"http://127.0.0.1:{port}/{work.case.format}"]

    return Server(
        name,
        frozenset(formats),
        command,
        request,
        lambda: _python_version(runs[0], package) if python else _node_version(package),
        uses_crc=uses_crc,
    )


def _manifest(work: Work) -> list[dict[str, object]]:
    members = []
    for number in range(work.case.members):
        file = work.file(number)
        member: dict[str, object] = {
            "name": work.name(number), "size": file.size, "mtime": MTIME, "url": work.url(number),
        }  # fmt: skip
        if work.case.knows_crc:
            member["crc32"] = file.crc32
        members.append(member)
    return members


def _python_version(python: str, package: str) -> str:
    program = f"from importlib.metadata import version; print(version({package!r}))"
    return said([python, "-c", program])[0].strip()


def _node_version(package: str) -> str:
    installed = PEERS / "node_modules" / package / "package.json"
    found: str = json.loads(installed.read_text())["version"]
    return found


def nginx_version() -> str:
    """The version of nginx, which says it on standard error."""
    return said(["sh", "-c", "nginx -v 2>&1"])[0].strip().rpartition("/")[2]


def _passed_on(work: Work, port: int, round_: int) -> list[str]:
    """Every file by itself, over one connection; curl counts from the first to the last."""
    first, last = (Path(work.file(number).path) for number in (0, work.case.members - 1))
    return [f"http://127.0.0.1:{port}/{first.parent}/[{first.name}-{last.name}]"]


def _passing_command(work: Work, port: int) -> list[str]:
    directory = work.directory / f"nginx-{port}"
    directory.mkdir()
    return passing_on(directory, port, work.origin)


PYTHON = str(ROOT / ".venv-peers" / "bin" / "python")

SERVERS = [
    _ours("tarstream", {}),
    _ours(
        "tarstream, zero_copy = false",
        {"server": {"zero_copy": False}},
        "large-tar", "large-zip-known", "slow",
    ),
    _ours("tarstream, workers = 2", {"server": {"workers": 2}}, "crowd", "cores"),
    _ours("tarstream, sendfile = true", {"upstream": {"sendfile": True}}, "large-tar-file"),
    _peer(
        "zipstream-ng (aiohttp)",
        {"zip"},
        [PYTHON, str(PEERS / "zipstream_ng_aiohttp.py")],
        "zipstream-ng",
    ),
    _peer(
        "stream-zip (FastAPI)",
        {"zip"},
        [PYTHON, str(PEERS / "stream_zip_fastapi.py")],
        "stream-zip",
        uses_crc=True,
    ),
    _peer("archiver (Node)", {"tar", "zip"}, ["node", str(PEERS / "archiver.mjs")], "archiver"),
    _peer("tar-stream (Node)", {"tar"}, ["node", str(PEERS / "tar-stream.mjs")], "tar-stream"),
    Server(
        "nginx proxy_pass (no archive)",
        frozenset({"tar"}),
        _passing_command,
        _passed_on,
        nginx_version,
        packs=False,
    ),
]  # fmt: skip
"""In the order of the tables: ours first, which others are compared with."""
