"""The threat model (docs/security.md) is held to its tests; and what concerns the whole process."""

import ast
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import version
from urllib.request import Request, urlopen

import faults
import pytest
from gateway import ROOT, archive_path
from origin import Made, Origin

DOCUMENT = (ROOT / "docs" / "security.md").read_text()
MODEL, _, OPEN = DOCUMENT.partition("\n## What it does not protect from\n")

THREATS = [
    "SSRF", "DNS rebinding", "NAT64", "userinfo", "file://", "symbolic link", "smuggling",
    "response splitting", "terminal", "NUL", "two versions", "truncated", "lying", "drip",
    "content coding", "compression", "cookie", "redirect", "slow", "many ranges", "long lists",
    "overload", "memory", "signed URL", "log", "Referer", "forg", "replay", "timing", "temporary",
    "cache", "CVE", "catalog", "remembered",
]  # fmt: skip
"""What the document has at least a word about."""


def rows(text):
    """Rows of tables, as their cells; without their heads."""
    lines = [line.strip("| \n") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    dashes = [number for number, row in enumerate(cells) if set("".join(row)) <= set("-: ")]
    return [row for number, row in enumerate(cells) if not {number, number + 1} & set(dashes)]


def functions_in(path):
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


TESTS = {path.name: functions_in(path) for path in (ROOT / "tests").glob("test_*.py")}
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


# The threat model


@pytest.mark.parametrize("row", rows(MODEL), ids=lambda row: row[0][:60])
def test_each_threat_has_a_practice_and_a_test_that_exists(row):
    threat, practice, proof = row
    assert threat
    assert practice
    named = NAMED.findall(proof)
    assert named
    assert not NAMED.sub("", proof).strip("`<br>, "), "nothing but tests proves anything"
    for file, name in named:
        assert name in TESTS.get(file, ()), f"{file}::{name}"


def test_the_tables_are_found():
    assert len(rows(MODEL)) > 40
    assert OPEN.count("\n- ") > 5


def test_no_threat_is_forgotten():
    assert [threat for threat in THREATS if threat.lower() not in DOCUMENT.lower()] == []


def test_every_test_that_is_named_anywhere_exists():
    for file, name in NAMED.findall(DOCUMENT):
        assert name in TESTS.get(file, ()), f"{file}::{name}"


# The parser


CONFIG = """
[catalog]
kind = "template"
url = "{root}/{{id}}"
[upstream]
allow = ["{root}"]
"""

WITHOUT = {
    "extension": "import sys\nsys.modules['aiohttp._http_parser'] = None\n",
    "parser of requests": (
        "from aiohttp import http_parser as p\np.HttpRequestParser = p.HttpRequestParserPy\n"
    ),
    "parser of answers": (
        "from aiohttp import http_parser as p\np.HttpResponseParser = p.HttpResponseParserPy\n"
    ),
}


def served(tmp_path, *arguments, **environment):
    """`server.py`, to its end."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(root="http://127.0.0.1:9"))
    return subprocess.run(
        [sys.executable, str(ROOT / "server.py"), *(arguments or ("--config", str(config)))],
        env={**os.environ, **environment},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        *((missing, ()) for missing in WITHOUT),
        ("extension", ("--demo",)),
        ("extension", ("--config", "nowhere", "--check")),
    ],
)
def test_without_the_parser_in_c_it_does_not_start(tmp_path, missing, arguments):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT[missing])
    done = served(tmp_path, *arguments, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("aiohttp: its HTTP parser in C is not in use")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_the_parser_in_c_cannot_be_switched_off(tmp_path):
    done = served(tmp_path, AIOHTTP_NO_EXTENSIONS="1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


# nginx in front


def test_nginx_logs_no_url_as_it_was_asked_for():
    """It may be signed."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    [log_format] = re.findall(r"^\s*log_format (.+?);", text, re.MULTILINE | re.DOTALL)
    variables = set(re.findall(r"\$(\w+)", log_format))
    assert "uri" in variables
    assert not variables & {"request", "request_uri", "args", "query_string", "http_referer"}
    assert not {name for name in variables if re.match("arg_|cookie_|http_(cookie|auth)", name)}


def test_nginx_gives_slow_headers_and_bodies_no_slot():
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    assert re.search(r"^\s*client_header_timeout [0-9]+s;", text, re.MULTILINE)
    assert re.search(r"^\s*proxy_request_buffering on;", text, re.MULTILINE)


# Dependencies


def test_no_version_of_aiohttp_is_allowed_that_an_origin_can_crash():
    """CVE-2026-69244, before 3.14.4."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [wanted] = [each for each in project["dependencies"] if each.startswith("aiohttp")]
    [floor] = re.findall(r">=([0-9.]+)", wanted)
    assert tuple(map(int, floor.split("."))) >= (3, 14, 4)
    assert tuple(map(int, version("aiohttp").split("."))) >= (3, 14, 4)


def test_what_it_stands_on_is_a_short_list():
    """Each is a way in, and has its reason in docs/decisions.md."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    needed = [*project["dependencies"], *itertools.chain(*extras)]
    names = {re.match(r"[a-z-]+", each)[0] for each in needed}
    reasons = (ROOT / "docs" / "decisions.md").read_text()
    for name in names:
        assert f"| {name}" in reasons


# Assertions and dangerous functions


def test_no_assertion_is_a_guard():
    """`python -O` takes them out; they only tell types what is known."""
    for path in [ROOT / "server.py", *(ROOT / "tarstream").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                said = ast.unparse(node.test)
                assert re.fullmatch(r"isinstance\(.+\)|.+ is not None", said), f"{path}: {said}"


# No trace on disk


WRITING_NOTHING = ["prlimit", "--fsize=0", sys.executable, "-B"]
"""Python whose first byte written into a file is an error, in whatever thread."""


def read_all(asked):
    with urlopen(asked, timeout=60) as answer:
        return sum(map(len, iter(lambda: answer.read(1 << 20), b"")))


def test_no_temporary_file_is_written(tmp_path):
    """Neither for large members, nor for repairs, nor for large bodies of requests."""
    config = tmp_path / "config.toml"
    inside = tmp_path / "inside"
    inside.mkdir()
    with Origin().in_thread() as origin:
        origin.add("/a", Made(5_000_000), faults.fin(at=3_000_000, times=1))
        config.write_text(CONFIG.format(root=origin.root))
        popen = subprocess.Popen(
            [*WRITING_NOTHING, str(ROOT / "server.py"), "--config", str(config), "--port", "0"],
            env={**os.environ, "TMPDIR": str(inside), "HOME": str(inside)},
            stderr=subprocess.PIPE,
            cwd=inside,
        )
        with popen:
            try:
                port = re.search(rb"port=(\d+)", popen.stderr.readline())[1].decode()
                base = f"http://127.0.0.1:{port}"
                body = json.dumps({"ids": ["a"] * 3, "pad": "x" * 5_000_000}).encode()
                json_ = {"Content-Type": "application/json"}
                assert read_all(base + archive_path(["a"] * 3)) > 15_000_000
                assert read_all(Request(f"{base}/archive", body, json_)) > 15_000_000
                popen.send_signal(signal.SIGTERM)
                assert popen.wait(30) == 0
            finally:
                popen.kill()
        assert origin.fired["fin"] == 1
    assert list(inside.rglob("*")) == []


def test_a_byte_written_into_a_file_would_be_noticed(tmp_path):
    """What the test above rests on."""
    program = "open('x', 'wb', 0).write(b'x')"
    done = subprocess.run(
        [*WRITING_NOTHING, "-c", program], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
