"""What happens is counted, and what counts has an alert."""

import asyncio
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import aiohttp
import faults
import pytest
from gateway import ROOT, process, running
from made import Made
from nginx import held_port
from prometheus_client.parser import text_string_to_metric_families

from tarstream.errors import OriginBroken
from tarstream.metrics import OUTCOMES

ALERTS = ROOT / "deploy" / "alerts.yml"
CANARY = "canary-5ecret"
WHOLE = Made(300_000)


class Numbers:
    """What `/metrics` says at one moment."""

    def __init__(self, text):
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def __call__(self, name, **labels):
        """The sum of all samples of a name that have these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"tarstream_{name}" and labels.items() <= sample.labels.items()
        )


@pytest.fixture
def numbers(client):
    async def numbers(gateway, port=None):
        async with client.get(f"http://127.0.0.1:{port or gateway.port}/metrics") as response:
            assert response.status == 200
            return Numbers(await response.text())

    return numbers


async def ended(numbers, gateway, outcome):
    """Wait until an archive ended so; all numbers then."""
    async with asyncio.timeout(20):
        while not (now := await numbers(gateway))("archives_total", outcome=outcome):
            await asyncio.sleep(0.01)
    return now


async def test_a_complete_download_is_counted(origin, start, client, numbers):
    for name in "abc":
        origin.add(f"/{name}", WHOLE)
    gateway = await start(origin)
    async with client.get(gateway.url("abc")) as response:
        size = len(await response.read())
    now = await ended(numbers, gateway, "complete")
    assert now("archives_total") == 1
    assert now("sent_bytes_total") == size
    assert now("received_bytes_total") == 3 * 300_000
    assert now("members_total") == 3
    assert now("repairs_total") == 0
    assert now("first_byte_seconds_count") == now("archive_seconds_count") == 1
    assert 0 < now("first_byte_seconds_sum") <= now("archive_seconds_sum")
    assert now("responses_total", route="/archive", status="200") == 1
    assert now("archives_in_flight") == 0
    assert now("archives_limit") == 500
    assert now("draining") == 0


async def test_a_range_counts_what_it_sends(origin, start, client, numbers):
    origin.add("/a", WHOLE)
    gateway = await start(origin)
    async with client.get(gateway.url("a"), headers={"Range": "bytes=1000-1999"}) as response:
        assert response.status == 206
        await response.read()
    now = await ended(numbers, gateway, "complete")
    assert now("sent_bytes_total") == now("received_bytes_total") == 1000
    assert now("members_total") == 1
    assert now("responses_total", route="/archive", status="206") == 1


async def test_what_sends_no_archive_counts_as_an_answer_only(origin, start, client, numbers):
    origin.add("/a", WHOLE)
    gateway = await start(origin)
    asked = [
        ("HEAD", gateway.url("a"), 200),
        ("GET", gateway.url("a", "/plan"), 200),
        ("GET", gateway.url([]), 400),
        ("GET", gateway.url(["../b"]), 404),
        ("DELETE", gateway.url("a"), 405),
        ("GET", gateway.url("a", "/no-such"), 404),
        ("GET", gateway.url([], "/healthz"), 200),
    ]
    for method, url, status in asked:
        async with client.request(method, url) as response:
            assert response.status == status
            await response.read()
    now = await numbers(gateway)
    answers = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for sample in now.samples
        if sample.name == "tarstream_responses_total" and sample.value
    }
    assert answers == {
        ("/archive", "200"): 1,
        ("/plan", "200"): 1,
        ("/archive", "400"): 1,
        ("/archive", "404"): 1,
        ("other", "405"): 1,
        ("other", "404"): 1,
        ("/healthz", "200"): 1,
    }
    assert now("archives_total") == now("first_byte_seconds_count") == 0


REPAIRED = {
    "fin": ("broken", faults.fin(at=100_000, times=1)),
    "rst": ("broken", faults.rst(at=100_000, times=1)),
    "chunk": ("broken", faults.broken_chunk(at=100_000, times=1)),
    "stall": ("timeout", faults.stall(at=100_000, times=1)),
    "drip": ("slow", faults.drip(0.05, at=100_000, times=1)),
}


@pytest.mark.parametrize(("cause", "fault"), REPAIRED.values(), ids=REPAIRED)
async def test_repairs_are_counted_by_cause(origin, start, client, numbers, cause, fault):
    origin.add("/a", WHOLE, fault)
    gateway = await start(origin, upstream={"read_timeout": 2, "patience": 20})
    async with client.get(gateway.url("a")) as response:
        await response.read()
    now = await ended(numbers, gateway, "complete")
    assert now("repairs_total", cause=cause) == now("repairs_total") == 1
    assert now("received_bytes_total") >= 300_000


async def test_a_repair_that_has_to_be_tried_again_counts_each_try(origin, start, client, numbers):
    origin.add("/a", WHOLE, faults.fin(at=100_000, times=1), faults.status(503, skip=2, times=1))
    gateway = await start(origin)
    async with client.get(gateway.url("a")) as response:
        await response.read()
    now = await ended(numbers, gateway, "complete")
    assert now("repairs_total", cause="broken") == 1
    assert now("repairs_total", cause="status") == 1


def test_each_cause_is_shown_before_there_is_one():
    assert {cause for cause, _ in REPAIRED.values()} <= set(OriginBroken.KINDS)


async def test_a_download_that_breaks_off_is_counted(origin, start, client, numbers):
    origin.add("/a", WHOLE, faults.fin(at=100_000))
    gateway = await start(origin, upstream={"attempts": 1})
    async with client.get(gateway.url("a")) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    now = await ended(numbers, gateway, "failed")
    assert now("archives_total") == 1
    assert now("sent_bytes_total") >= 100_000
    assert now("members_total") == 0
    assert now("responses_total", route="/archive", status="200") == 1


async def test_who_leaves_and_who_stalls_is_counted(origin, start, client, numbers):
    origin.add("/a", Made(1 << 30))
    gateway = await start(origin, limits={"stall_timeout": 0.5})
    async with client.get(gateway.url("a")) as response:
        await response.content.readany()
    await ended(numbers, gateway, "client_left")
    async with client.get(gateway.url("a")) as response:
        now = await ended(numbers, gateway, "client_stalled")
    assert now("archives_total") == 2


async def test_what_is_in_flight_is_shown_and_what_finds_no_room_counted(
    origin, start, client, numbers
):
    origin.add("/a", WHOLE, faults.stall(at=100_000))
    gateway = await start(origin, limits={"max_archives": 2})
    async with client.get(gateway.url("a")), client.get(gateway.url("a")):
        await origin.until(lambda: origin.stalled == 2)
        async with client.get(gateway.url("a", "/plan")) as response:
            assert response.status == 503
        now = await numbers(gateway)
        assert now("archives_in_flight") == now("archives_limit") == 2
        assert now("upstream_connections") == origin.open_connections >= 2
        assert now("rejected_total", reason="full") == now("rejected_total") == 1
        assert now("responses_total", route="/plan", status="503") == 1
    await ended(numbers, gateway, "client_left")


async def test_connections_that_were_closed_are_not_shown(origin, start, client, numbers):
    origin.add("/a", WHOLE)
    gateway = await start(origin)
    async with client.get(gateway.url("a")) as response:
        await response.read()
    assert (await numbers(gateway))("upstream_connections") == origin.open_connections == 1
    origin.reset()
    async with asyncio.timeout(20):
        while (await numbers(gateway))("upstream_connections"):
            await asyncio.sleep(0.01)


async def test_prometheus_is_answered_in_the_format_it_asks_for(origin, start, client):
    gateway = await start(origin)
    url = f"http://127.0.0.1:{gateway.port}/metrics"
    async with client.get(url) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert response.headers["Cache-Control"] == "no-store"
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with client.get(url, headers=accept) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await response.text()).endswith("# EOF\n")
    async with client.head(url) as response:
        assert response.status == 200
        assert await response.read() == b""


async def test_nothing_of_a_request_is_shown(origin, start, client, numbers):
    """Neither would labels be bounded that a stranger can make."""
    origin.add(f"/{CANARY}", WHOLE, faults.fin(at=100_000))
    gateway = await start(origin, upstream={"attempts": 1})
    for url in (
        gateway.url([CANARY]),
        gateway.url([CANARY], f"/{CANARY}"),
        gateway.url(["none"], name=CANARY),
    ):
        async with client.request("GET", url, headers={"X-Request-Id": CANARY}) as response:
            with suppress(aiohttp.ClientPayloadError):
                await response.read()
    async with client.request("PROPFIND", gateway.url([CANARY])):
        pass
    now = await ended(numbers, gateway, "failed")
    assert CANARY not in now.text.lower()
    assert "127.0.0.1" not in now.text
    before = len(now.samples)
    async with client.get(gateway.url([], "/another")):
        pass
    assert len((await numbers(gateway)).samples) <= before + 1


async def test_who_may_ask_may_ask_for_metrics(origin, start, client):
    token = "a-token-of-these-tests"
    gateway = await start(origin, auth={"kind": "bearer", "tokens": [token]})
    url = f"http://127.0.0.1:{gateway.port}/metrics"
    async with client.get(url) as response:
        assert response.status == 401
    async with client.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
        assert response.status == 200


CONFIG = """
[catalog]
kind = "template"
url = "{origin}/{{id}}"
[upstream]
allow = ["{origin}"]
[auth]
kind = "bearer"
tokens = ["a-token-of-these-tests"]
[metrics]
port = {port}
"""


async def test_on_a_port_of_its_own_it_is_for_everybody_until_the_end(
    origin, client, numbers, tmp_path
):
    origin.add("/a", WHOLE, faults.stall(at=100_000))
    token = {"Authorization": "Bearer a-token-of-these-tests"}
    with (
        held_port() as port,
        process(tmp_path, CONFIG.format(origin=origin.root, port=port)) as gateway,
    ):
        assert (await numbers(gateway, port))("draining") == 0
        async with client.get(f"http://127.0.0.1:{gateway.port}/metrics", headers=token) as none:
            assert none.status == 404
        async with client.get(gateway.url("a"), headers=token) as response:
            gateway.popen.terminate()
            await asyncio.to_thread(gateway.wait_for_log, "draining")
            async with client.get(gateway.url("a"), headers=token) as refused:
                assert refused.status == 503
            now = await numbers(gateway, port)
            assert now("draining") == now("rejected_total", reason="draining") == 1
            assert now("archives_in_flight") == 1
            origin.release()
            await response.read()
        assert await asyncio.to_thread(gateway.popen.wait, 30) == 0


async def test_a_port_that_somebody_has_is_one_line(origin, tmp_path):
    port = int(origin.root.rpartition(":")[2])
    config = CONFIG.format(origin=origin.root, port=port)
    line = f"cannot listen on 127.0.0.1:{port}: address already in use"
    with pytest.raises(AssertionError, match=line), process(tmp_path, config):
        pass


# Alerts.


def promtool(*arguments):
    done = subprocess.run(
        ["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_are_what_prometheus_takes_for_alerts():
    promtool("check", "rules", str(ALERTS))


def test_alerts_fire_when_they_should_and_not_when_all_is_well():
    """As tests/alerts_test.yml says."""
    promtool("test", "rules", str(Path("tests") / "alerts_test.yml"))
    text = (ROOT / "tests" / "alerts_test.yml").read_text()
    names = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert re.findall(r"alertname: (\w+)", text) == names
    assert f'alertstate="firing"}}\', value: {len(names)} }}' in text


async def test_alerts_are_about_numbers_that_exist(origin, start, numbers):
    """With labels and values that exist."""
    now = await numbers(await start(origin))
    known = {}
    for sample in now.samples:
        for label, value in sample.labels.items():
            known.setdefault(sample.name, {}).setdefault(label, set()).add(value)
        known.setdefault(sample.name, {})
    rules = re.sub(r"(?m)^\s*#.*", "", ALERTS.read_text())
    used = re.findall(r"\b((?:tarstream|process)_\w+)(?:\{([^}]*)\})?", rules)
    assert len(used) > 12
    for name, selector in used:
        assert name in known, name
        for label, operator, value in re.findall(r'(\w+)(!?[=~]{1,2})"([^"]*)"', selector):
            if label == "job":
                continue  # Prometheus adds it
            values = known[name][label]
            pattern = value if "~" in operator else re.escape(value)
            assert any(re.fullmatch(pattern, each) for each in values), (name, label, value)


async def test_every_outcome_is_shown_from_the_start(origin, start, numbers):
    now = await numbers(await start(origin))
    shown = {
        sample.labels["outcome"]
        for sample in now.samples
        if sample.name == "tarstream_archives_total"
    }
    assert shown == {outcome.replace(" ", "_") for outcome in OUTCOMES}


async def test_the_documentation_has_each_number_and_its_values(origin, start, numbers):
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = dict(re.findall(r"(?m)^\| `(tarstream_\w+)(?:\{[^}]*\})?` \| (.*) \|$", text))
    now = await numbers(await start(origin))
    names = {f.name + "_total" * (f.type == "counter") for f in now.families}
    assert rows.keys() == {name for name in names if name.startswith("tarstream")}
    for sample in now.samples:
        for label in ("outcome", "reason", "cause"):
            if label in sample.labels:
                assert f"`{sample.labels[label]}`" in rows[sample.name]


async def test_gateways_of_one_process_count_for_themselves(origin, start, client, numbers):
    origin.add("/a", WHOLE)
    catalog = {"kind": "template", "url": f"{origin.root}/{{id}}"}
    async with running(catalog, [origin.root]) as other:
        gateway = await start(origin)
        async with client.get(gateway.url("a")) as response:
            await response.read()
        await ended(numbers, gateway, "complete")
        assert (await numbers(other))("archives_total") == 0
