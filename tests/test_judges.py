"""What independent judges found, held; and what is said of them. `make judges` asks them again."""

import asyncio
import re
from contextlib import ExitStack

import pytest
from crowd import room_for_a_crowd
from gateway import ROOT, raw
from judges.attacks import ATTACKS
from judges.explained import EXPLAINED
from judges.scripts import SCRIPTS
from made import Made
from nginx import RECOMMENDED, nginx
from range_facts import FACTS

from tarstream.config import Limits

DOCUMENT = (ROOT / "docs" / "judges.md").read_text()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_is_never_kept(origin, start, path, method):
    """Found by httplint: a cache might have gone on saying that a gateway is ready."""
    gateway = await start(origin)
    answer = await raw(gateway.port, f"{method} {path} HTTP/1.0\r\n\r\n".encode())
    assert b" 200 OK\r\n" in answer
    assert b"\r\nCache-Control: no-store\r\n" in answer


async def status_through(port, address, *, keep):
    """The status of a download from this address that is then not read, and its connection."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, limit=1024, local_addr=(address, 0)
    )
    keep.callback(writer.close)
    writer.write(b"GET /archive?ids=large HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(30):
        return int((await reader.readline()).split()[1])


@pytest.mark.timeout(1200)
async def test_one_address_cannot_take_every_place_through_nginx(origin, start, tmp_path):
    """Found by slowhttptest: a thousand slow readers did."""
    places = int(re.search(r"(?m)^ *limit_conn downloads (\d+);", RECOMMENDED)[1])
    assert places * 10 <= Limits.model_fields["max_archives"].default
    origin.add("/large", Made(32 * 1024**2))
    gateway = await start(origin)
    with (
        room_for_a_crowd(),
        nginx(tmp_path / "nginx", RECOMMENDED, gateway.port) as proxy,
        ExitStack() as keep,
    ):
        for _ in range(places):
            assert await status_through(proxy.port, "127.0.0.1", keep=keep) == 200
        assert await status_through(proxy.port, "127.0.0.1", keep=keep) == 429
        assert await status_through(proxy.port, "127.0.0.2", keep=keep) == 200


def test_every_warning_that_stays_is_explained_in_the_document():
    assert EXPLAINED
    for note, reason in EXPLAINED.items():
        assert f"`{note}`" in DOCUMENT
        assert " ".join(reason.split()) in " ".join(DOCUMENT.split())


def test_every_script_and_attack_stands_in_the_document():
    assert not [script.stem for script in SCRIPTS if f"`{script.stem}`" not in DOCUMENT]
    assert not [attack.name for attack in ATTACKS if f"`{attack.options}`" not in DOCUMENT]


def test_every_difference_from_a_source_stands_in_the_document():
    assert not [fact.why for fact in FACTS if fact.why and fact.why not in DOCUMENT]


def test_every_script_states_its_rule_in_its_first_line():
    for script in SCRIPTS:
        assert re.match(r'varnishtest "[A-Z0-9].{20,}"\n', script.read_text()), script.stem
