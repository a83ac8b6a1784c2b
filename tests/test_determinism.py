"""The same sources give the same bytes and the same entity-tag, whichever gateway is asked."""

import hashlib
import subprocess

from gateway import process, write_catalog
from made import Made
from origin import Object, Origin

# What every Python, time zone and locale must give. The suite runs on several Pythons, each of
# which is held to these, so that any two of them agree.
ETAG = '"e45d3d86e865792d3199e875fe05258c"'
SHA256 = "5df46862d61f51776479e1ca6eedd8dd67078f72d994c583d356c1eeeb65c7d2"
ETAG_WITH_DIGEST = '"5a07faad50e7c837c69b910619881bc5"'

PLACES = [
    {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
    {"TZ": "Pacific/Chatham", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"},
    {"TZ": "America/St_Johns", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONHASHSEED": "3"},
]


def test_any_two_gateways_give_the_same_archive(tmp_path):
    with Origin().in_thread() as origin:
        sources = {
            "/a.txt": Object(b"plain", etag='"a"', last_modified=1_700_000_000),
            "/übung/日本.bin": Object(Made(300_000, 3), etag='"b"', last_modified=86_399),
            "/" + "long/" * 60 + "name.txt": Object(b"x" * 512, etag='"c"', last_modified=1e9),
            "/dated": Object(b"by its date", etag=None, last_modified=1_600_000_000),
            "/empty": Object(b"", etag='"e"', last_modified=0),
        }
        entries = [
            {"id": str(index), "url": origin.add(path, thing), "name": path}
            for index, (path, thing) in enumerate(sources.items())
        ]
        entries += [{**entries[0], "id": "again", "mtime": 8**11, "sha256": "0" * 64}]
        catalog = write_catalog(tmp_path / "catalog.jsonl", entries)
        toml = f"""
[catalog]
kind = "file"
path = "{catalog}"
[upstream]
allow = ["{origin.root}"]
"""
        ids = [str(index) for index in range(len(sources))]
        for place in PLACES:
            with process(tmp_path, toml, environment=place) as gateway:
                head, _ = fetch("-I", gateway.url([*ids, "again"]))
                assert f"ETag: {ETAG_WITH_DIGEST}" in head
                head, body = fetch(gateway.url(ids))
                assert f"ETag: {ETAG}" in head
                assert hashlib.sha256(body).hexdigest() == SHA256


def fetch(*arguments):
    """Headers and body, as curl gets them."""
    curl = subprocess.run(["curl", "-sSi", *arguments], check=True, capture_output=True)
    head, _, body = curl.stdout.partition(b"\r\n\r\n")
    return head.decode(), body
