"""Range and conditions as the tests of varnish, nginx and mod_zip expect them, over real HTTP.

`range_facts.py` is the table. varnishtest asks the same of a gateway process
(tests/test_varnishtest.py), directly and through nginx.
"""

import pytest
from gateway import raw
from origin import Object
from range_facts import CONTENTS, FACTS, NAMES, SIZE

PATH = f"/archive?ids={','.join(NAMES)}"


@pytest.fixture
async def gateway(origin, start):
    for name, content in zip(NAMES, CONTENTS, strict=True):
        origin.add(f"/{name}", Object(content))
    return await start(origin)


async def ask(gateway, *lines, path=PATH, version="1.1"):
    request = "\r\n".join(
        [f"GET {path} HTTP/{version}", "Host: localhost", "Connection: close", *lines, "\r\n"]
    )
    head, _, body = (await raw(gateway.port, request.encode())).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    return int(status.split()[1]), headers, body


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_every_fact_holds(gateway, version):
    """Of 1.0 too: that is what nginx's own tests and a stock nginx speak."""
    status, headers, whole = await ask(gateway)
    assert (status, len(whole)) == (200, SIZE)
    wrong = []
    for fact in FACTS:
        got, answer, body = await ask(gateway, *fact.lines(headers["etag"]), version=version)
        expected = whole if fact.part is None else whole[fact.part[0] : fact.part[1] + 1]
        said = (got, answer.get("content-range"), answer.get("etag"))
        if said != (fact.status, fact.content_range, headers["etag"]):
            wrong.append((str(fact), said))
        elif got in {200, 206}:
            length = int(answer["content-length"])
            if (length, body) != (len(expected), expected):
                wrong.append((str(fact), f"{length} announced, {len(body)} came"))
            if not body.startswith(fact.content or b""):
                wrong.append((str(fact), body[:40]))
        elif got == 304 and body:
            wrong.append((str(fact), body[:40]))
    assert not wrong


async def test_a_precondition_does_not_hide_that_an_id_is_unknown(origin, start):
    """not_modified.t: a precondition is ignored where the answer would be no 2xx."""
    gateway = await start(origin, [])
    assert (await ask(gateway, 'If-Match: "foo"', path="/archive?ids=nx"))[0] == 404


def test_whatever_differs_from_its_source_says_why():
    assert all(bool(fact.theirs) == bool(fact.why) for fact in FACTS)
    assert all(fact.theirs != fact.status for fact in FACTS)
    assert len(set(map(str, FACTS))) == len(FACTS)
