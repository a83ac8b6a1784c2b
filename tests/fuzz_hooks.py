"""What schemathesis cannot know of a gateway from its document; loaded by its command.

Which ids there are, and that some id must be asked for: otherwise every answer were 400 or 404.
"""

import json
import os
import random
from pathlib import Path

import schemathesis

IDS = json.loads(os.environ["FUZZ_IDS"])
SEEN = Path(os.environ["FUZZ_SEEN"])

ONCE = {"format", "name", "missing", "checksums", "version"}
MET = {"If-Match": "*", "If-None-Match": '"x"'}
CONDITIONS = [
    {**MET, "Range": "bytes=0-9"},
    {**MET, "Range": "bytes=99999999-"},
    {**MET, "Range": "bytes=-1000", "If-Range": '"x"'},
    {**MET, "If-None-Match": "*"},
]


@schemathesis.hook
def before_call(context, case, kwargs):
    """Make a request that fits the document one that can be met; others are sent as they are."""
    if (
        case.path not in {"/archive", "/archive.{suffix}", "/plan"}
        or not case.meta.generation.mode.is_positive
    ):
        return
    query = case.query
    body = case.body if isinstance(case.body, dict) else {}
    for name in ONCE & query.keys() & body.keys():
        del query[name]  # it must not be given twice, which no document can say
    for fields in (query, body):
        if "{suffix}" in case.path:
            fields.pop("format", None)  # it must not contradict the path
        if "tar." in case.path_parameters.get("suffix", fields.get("format", "")):
            query.pop("version", None)  # what is compressed cannot be pinned
            body.pop("version", None)
    if not {"ids", "id"} & query.keys() and not body.get("ids") and not body.get("id"):
        query["id"] = ["of no catalog"]
    chance = random.Random(repr((query, body)))
    if chance.random() < 0.8:  # else they stay unknown
        known = chance.choice(IDS)
        for name in {"ids", "id"} & query.keys():
            query[name] = [known]
        for name in {"ids", "id"} & body.keys():
            body[name] = [known] if isinstance(body[name], list) else known
    if case.path == "/plan" and chance.random() < 0.5:
        case.headers["Accept"] = "application/x-ndjson"
    if case.path == "/archive" and chance.random() < 0.6:
        query.pop("version", None)
        case.headers.pop("If-Range", None)
        case.headers.update(chance.choice(CONDITIONS))


@schemathesis.hook
def after_call(context, case, response):
    """Note what was met, so that a run that met nothing of note is noticed."""
    kind = response.headers.get("content-type", [""])[0].partition(";")[0]
    with SEEN.open("a") as seen:
        seen.write(f"{case.method} {case.path} {response.status_code} {kind}\n")
