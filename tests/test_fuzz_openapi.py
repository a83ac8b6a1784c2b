"""schemathesis asks a gateway all that its OpenAPI document allows, and much that it does not."""

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
from gateway import process, write_catalog
from origin import Made, Origin

COMMAND = Path(sysconfig.get_path("scripts")) / "schemathesis"
TOKEN = "token-0f-the-fuzzing-tests"
AUTH = f"""
[auth]
kind = "either"
tokens = ["{TOKEN}"]
keys = ["k1 {TOKEN}"]
"""

CONFIG = """
hooks = "{hooks}"

[generation]
deterministic = true
max-examples = {examples}
database = "none"

[phases.stateful]
enabled = false  # no answer holds what another request needs

[checks]
# Origins are honest here, so 502 and 504 would be lies, and nothing is full.
not_a_server_error.enabled = true
# What fits may still name ids that there are not, an archive of the past, or bytes beyond the end.
positive_data_acceptance.expected-statuses = ["2xx", 304, 404, 409, 412, 416]
# Nothing else: 404 would be an id that should have been refused before it was looked up.
negative_data_rejection.expected-statuses = [400, 415]
"""

NO_SIGNATURES = ["--generation-with-security-parameters=false"]
"""It would make them up, and a wrong one is refused whatever token comes with it."""

pytestmark = pytest.mark.timeout(300)  # it starts a program that asks a thousand things

OBJECTS = {
    "a": b"hello",
    "empty": b"",
    "b/c d": Made(5000),
    "Zürich am See.txt": b"x" * 600,
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Origin and configuration of a gateway that knows a few ids."""
    directory = tmp_path_factory.mktemp("fuzz")
    with Origin().in_thread() as origin:
        entries = [{"id": id_, "url": origin.add(f"/{id_}", it)} for id_, it in OBJECTS.items()]
        path = write_catalog(directory / "catalog.jsonl", entries)
        yield f"""
[catalog]
kind = "file"
path = "{path}"
[upstream]
allow = ["{origin.root}"]
"""


def schemathesis(directory, gateway, examples, *options):
    """Run it; the statuses that it has met, and how often."""
    config = directory / "schemathesis.toml"
    hooks = Path(__file__).parent / "fuzz_hooks.py"
    config.write_text(CONFIG.format(hooks=hooks, examples=examples))
    seen = directory / "seen"
    document = f"http://127.0.0.1:{gateway.port}/openapi.json"
    done = subprocess.run(
        [COMMAND, "--config-file", config, "run", document, "--no-color", *options],
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=280,
        env={"FUZZ_IDS": json.dumps([*OBJECTS]), "FUZZ_SEEN": str(seen), "PATH": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return seen.read_text().splitlines()


def test_a_gateway_keeps_to_its_document(catalog, tmp_path):
    with process(tmp_path, catalog) as gateway:
        seen = schemathesis(tmp_path, gateway, 12)
        log = gateway.log
    assert "Traceback" not in log
    assert "status=500" not in log
    met = {" ".join(line.split(" ")[:3]) for line in seen}
    for status in (200, 206, 304, 400, 404, 409, 412):
        assert f"GET /archive {status}" in met
    for status in (200, 400, 404, 415):
        assert f"POST /archive {status}" in met
        assert f"POST /plan {status}" in met
    assert "GET /plan 200 application/x-ndjson" in seen
    assert "DELETE /archive 405 application/problem+json" in seen


def test_a_gateway_lets_in_whom_its_document_says(catalog, tmp_path):
    with process(tmp_path, catalog + AUTH) as gateway:
        headers = ["--header", f"Authorization: Bearer {TOKEN}"]
        options = ["--phases=fuzzing", "--mode=positive", *NO_SIGNATURES]
        seen = schemathesis(tmp_path, gateway, 8, *headers, *options)
        log = gateway.log
    assert "Traceback" not in log
    assert "status=401" in log  # it did try without a token
    for operation in ("GET /archive", "HEAD /archive", "POST /plan", "HEAD /openapi.json"):
        assert any(line.startswith(f"{operation} 2") for line in seen)
