"""The gateway behind a real nginx: with the recommended file, and with no settings at all."""

import hashlib
import http.client
import json
import re
import signal
import socket
import subprocess
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import faults
import pytest
from gateway import archive_path, process
from nginx import BUFFERING, RECOMMENDED, STOCK, command, held_port, nginx, substituted
from origin import Made, Origin

from tarstream.app import KEEPALIVE, MAX_LINE
from tarstream.config import Limits, Upstream
from tarstream.query import MAX_URL
from tarstream.request import MAX_BODY

MIB = 1024**2
BIG = Made(160 * MIB, seed=1)  # what sockets hold between an origin and a client is some 30 MiB
MEMBERS = {"a": Made(1_000_000, seed=2), "b": Made(0), "c": Made(70_001, seed=3)}

CONFIG = """
[server]
trusted_proxies = ["127.0.0.1"]
[catalog]
kind = "template"
url = "{root}/{{id}}"
[upstream]
allow = ["{root}"]
attempts = 2
"""

SAME_HEADERS = (
    "Accept-Ranges",
    "Cache-Control",
    "Content-Disposition",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "ETag",
    "X-Content-Type-Options",
    "X-Request-Id",
)


@pytest.fixture(scope="module")
def origin():
    with Origin(send_buffer=256 * 1024).in_thread() as origin:
        for path, content in {**MEMBERS, "big": BIG}.items():
            origin.add(f"/{path}", content)
        yield origin


@pytest.fixture(scope="module")
def gateway(origin, tmp_path_factory):
    with process(tmp_path_factory.mktemp("gateway"), CONFIG.format(root=origin.root)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def recommended(gateway, tmp_path_factory):
    with nginx(tmp_path_factory.mktemp("nginx") / "recommended", RECOMMENDED, gateway.port) as it:
        yield it


@pytest.fixture(scope="module")
def stock(gateway, tmp_path_factory):
    with nginx(tmp_path_factory.mktemp("nginx") / "stock", STOCK, gateway.port) as it:
        yield it


@pytest.fixture(params=["recommended", "stock"])
def proxy(request):
    return request.getfixturevalue(request.param)


def ask(port, path, method="GET", headers=None, body=None):
    """An answer: status, headers, body."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, {"X-Request-Id": "same", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def curl(*options, **how):
    return run(["curl", "-sS", *options], **how)


def run(command, **how):
    return subprocess.run(command, check=False, capture_output=True, timeout=60, **how)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def paused(port, path):
    """A connection that asked for an archive, was answered, and reads nothing from here on."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    client.settimeout(30)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    assert head.startswith(b"HTTP/1.1 200 ")
    return client


def settled(origin, request, seconds=15):
    """What an origin has sent of an answer once it can send no more: all sockets are full."""
    deadline = time.monotonic() + seconds
    sent, since = request.sent, time.monotonic()
    while time.monotonic() < since + 0.5 and not request.finished:
        assert time.monotonic() < deadline, "it goes on and on"
        time.sleep(0.01)
        if request.sent != sent:
            sent, since = request.sent, time.monotonic()
    return request.sent


def upstream_connections(port):
    """The other ends of the connections that a gateway has (proc(5), /proc/net/tcp)."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    ends = {(row[1].split(":")[1], row[2].split(":")[1]) for row in rows if row[3] == "01"}
    return {other for here, other in ends if int(here, 16) == port}


# The file itself


def tried(directory, conf):
    """Exit status and words of `nginx -t`."""
    path = directory / "nginx.conf"
    with held_port() as port:
        path.write_text(substituted(conf, directory, port, 8080))
        tested = run(command(path, "-t"))
    return tested.returncode, tested.stderr


def test_the_file_is_accepted_without_a_warning(tmp_path):
    status, said = tried(tmp_path, RECOMMENDED)
    assert status == 0
    assert b"warn" not in said


def test_what_is_commented_out_is_accepted_too(tmp_path):
    # All but IPv6, which not every machine has.
    line = r"^( +)# ((?!listen)(?: *[a-z_]+ [^#\n]*[;{]|}).*)$"
    everything = re.sub(line, r"\1\2", RECOMMENDED, flags=re.MULTILINE)
    for directive in ("limit_conn_zone", "limit_conn", "limit_req", "server 127.0.0.1:8081"):
        assert re.search(f"^ *{directive}", everything, flags=re.MULTILINE)
    status, said = tried(tmp_path, everything)
    assert status == 0, said


def test_every_line_has_its_reason_beside_it():
    for before, line in pairwise(line.strip() for line in RECOMMENDED.splitlines()):
        if line.endswith(";") and "#" not in line:
            assert before.startswith(("#", "log_format")), f"no reason: {line}"


def test_its_times_and_sizes_fit_the_gateway():
    def told(directive):
        return re.search(rf"^\s*{directive} (?:4 )?([0-9]+)[skm]?;", RECOMMENDED, re.MULTILINE)[1]

    default = {name: field.default for name, field in Upstream.model_fields.items()}
    longest_silence = 2 * (default["plan_timeout"] + default["patience"])
    assert int(told("proxy_read_timeout")) > longest_silence
    assert int(told("send_timeout")) > Limits.model_fields["stall_timeout"].default
    assert int(told("keepalive_timeout")) < KEEPALIVE
    assert int(told("client_max_body_size")) * MIB == MAX_BODY
    assert int(told("large_client_header_buffers")) * 1024 > MAX_LINE
    assert int(told("proxy_buffer_size")) * 1024 > MAX_URL + 8192


# The same answers


ASKED = {
    "whole": ({}, 200),
    "first byte": ({"Range": "bytes=0-0"}, 206),
    "from the middle": ({"Range": "bytes=500000-"}, 206),
    "last bytes": ({"Range": "bytes=-1500"}, 206),
    "beyond": ({"Range": "bytes=10000000-"}, 416),
    "several": ({"Range": "bytes=0-1,5-6"}, 200),
    "range of this": ({"Range": "bytes=7-8", "If-Range": "{etag}"}, 206),
    "range of another": ({"Range": "bytes=7-8", "If-Range": '"other"'}, 200),
    "known": ({"If-None-Match": "{etag}"}, 304),
    "another": ({"If-Match": '"other"'}, 412),
    "coded": ({"Accept-Encoding": "gzip, br"}, 200),
}


@pytest.mark.parametrize(("headers", "status"), ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_answer_through_it_is_the_direct_one(gateway, proxy, method, headers, status):
    path = archive_path(MEMBERS)
    etag = ask(gateway.port, path, "HEAD")[1]["ETag"]
    headers = {name: value.format(etag=etag) for name, value in headers.items()}
    direct = ask(gateway.port, path, method, headers)
    through = ask(proxy.port, path, method, headers)
    assert direct[0] == (200 if method == "HEAD" and status in {206, 416} else status)
    assert through[0] == direct[0]
    assert sha256(through[2]) == sha256(direct[2])
    assert {name: through[1][name] for name in SAME_HEADERS} == {
        name: direct[1][name] for name in SAME_HEADERS
    }


def test_another_proxy_in_front_is_told_not_to_buffer(recommended):
    assert ask(recommended.port, archive_path(["c"]))[1]["X-Accel-Buffering"] == "no"


def test_a_refusal_through_it_is_the_direct_one(gateway, proxy):
    path = archive_path(["a", "../unknown"])
    status, _, body = ask(gateway.port, path)
    assert status == 404
    through = ask(proxy.port, path)
    assert (through[0], through[1]["Content-Type"], through[2]) == (
        404,
        "application/problem+json",
        body,
    )


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_told_through_it(recommended, path):
    assert ask(recommended.port, path)[0] == 200


def test_metrics_are_not_for_the_public(recommended, gateway):
    assert ask(gateway.port, "/metrics")[0] == 200
    assert ask(recommended.port, "/metrics")[0] == 404


def test_a_body_of_8_mib_is_taken_and_a_longer_one_refused(recommended, gateway):
    asked = {"ids": list(MEMBERS), "padding": ""}
    asked["padding"] = "x" * (MAX_BODY - len(json.dumps(asked)))
    headers = {"Content-Type": "application/json"}
    body = json.dumps(asked)
    assert len(body) == MAX_BODY
    status, _, archive = ask(recommended.port, "/archive", "POST", headers, body)
    assert status == 200
    assert sha256(archive) == sha256(ask(gateway.port, archive_path(MEMBERS))[2])
    longer = curl("-d@-", "-Hcontent-type:application/json", recommended.url(), input=b" " * 2**24)
    assert b"413" in longer.stdout


def test_a_request_line_of_32_kib_is_taken(recommended):
    path = archive_path(["c"]) + "&x="
    path += "y" * (MAX_LINE - len(f"GET {path} HTTP/1.1"))
    assert ask(recommended.port, path)[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_plan_with_the_longest_link_is_passed_on(recommended, origin, method):
    for index in range(146):
        origin.add(f"/{index:04}{'x' * 199}", Made(100, seed=index))
    ids = [f"{index:04}{'x' * 199}" for index in range(146)]
    headers, path, body = {"Accept": "application/x-ndjson"}, "/plan?ids=" + ",".join(ids), None
    if method == "POST":
        headers["Content-Type"] = "application/json"
        path, body = "/plan", json.dumps({"ids": ids})
    status, answered, lines = ask(recommended.port, path, method, headers, body)
    assert status == 200
    assert MAX_URL - 300 < len(answered["Link"]) - len('<>; rel="canonical"') <= MAX_URL
    assert [json.loads(line)["id"] for line in lines.splitlines()] == ids
    url = re.fullmatch('<(.*)>; rel="canonical"', answered["Link"])[1]
    assert ask(recommended.port, url, "HEAD")[1]["Content-Length"] == answered["X-Archive-Size"]


# Who asks, and under which id


def test_the_client_is_named_and_cannot_name_another(recommended, gateway):
    # 127.0.0.2 is an address of loopback too, and not that of a trusted proxy.
    forged = ["-H", "X-Forwarded-For: 203.0.113.7", "-H", "X-Request-Id: who-asks"]
    assert curl("--interface", "127.0.0.2", *forged, recommended.url(["c"])).returncode == 0
    gateway.wait_for_log(r"request_id=who-asks client=127\.0\.0\.2 ")


@pytest.mark.parametrize("said", ["", "not sane", "x" * 129, 'quoted"'])
def test_a_request_without_a_sane_id_gets_one_that_both_log(recommended, gateway, said):
    asked = ["-H", f"X-Request-Id: {said}", recommended.url(["c"])]
    head = curl("-D-", "-o/dev/null", *asked).stdout.decode()
    given = re.search(r"X-Request-Id: ([0-9a-f]{32})\r", head)[1]
    gateway.wait_for_log(rf"archive request_id={given} ")
    deadline = time.monotonic() + 30
    while f" {given} " not in recommended.access:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Connections


def test_connections_to_the_gateway_are_kept(origin, tmp_path):
    with (
        process(tmp_path, CONFIG.format(root=origin.root)) as gateway,
        nginx(tmp_path / "recommended", RECOMMENDED, gateway.port) as recommended,
        closing(http.client.HTTPConnection("127.0.0.1", recommended.port)) as client,
    ):
        seen = []
        for path in (archive_path(MEMBERS), archive_path(["c"], "/plan"), archive_path(["nobody"])):
            client.request("GET", path)
            client.getresponse().read()
            seen.append(upstream_connections(gateway.port))
    assert len(seen[0]) == 1
    assert seen == [seen[0]] * 3


def test_a_client_that_leaves_frees_the_origin_at_once(origin, proxy):
    origin.add("/stalls", Made(MIB, seed=4), faults.stall(at=200_000))
    with paused(proxy.port, archive_path(["stalls"])):
        origin.wait(lambda: origin.stalled == 1)
    origin.wait(lambda: origin.in_flight == 0)


# Slow clients


def test_a_client_that_pauses_pauses_the_origin(origin, proxy):
    with paused(proxy.port, archive_path(["big"])) as client:
        request = origin.asked("/big")[-1]
        assert settled(origin, request) < 64 * MIB
        digest = hashlib.sha256()
        client.recv(512, socket.MSG_WAITALL)  # the header
        left = BIG.size
        while left:
            chunk = client.recv(min(left, MIB))
            assert chunk, f"{left} bytes are missing"
            digest.update(chunk)
            left -= len(chunk)
        trailer = client.recv(2048, socket.MSG_WAITALL)
    assert request.finished
    assert trailer == bytes(1024)
    expected = hashlib.sha256()
    for piece in BIG.pieces():
        expected.update(piece)
    assert digest.digest() == expected.digest()
    assert not proxy.stored


def test_the_file_does_not_rely_on_the_gateway_to_pause(origin, gateway, tmp_path):
    deaf = RECOMMENDED.replace("server {", "server { proxy_ignore_headers X-Accel-Buffering;", 1)
    with nginx(tmp_path / "deaf", deaf, gateway.port) as proxy:
        with paused(proxy.port, archive_path(["big"])):
            assert settled(origin, origin.asked("/big")[-1]) < 64 * MIB
        assert not proxy.stored
    origin.wait(lambda: origin.in_flight == 0)


def test_a_slow_client_fills_no_disk(origin, proxy, tmp_path):
    partial = tmp_path / "archive.tar"
    slow = subprocess.Popen(
        ["curl", "-sS", "--limit-rate", "1M", "-o", str(partial), proxy.url(["big"])]
    )
    try:
        origin.wait(lambda: origin.in_flight == 1)
        assert settled(origin, origin.asked("/big")[-1]) < 100 * MIB
    finally:
        slow.kill()
        slow.wait()
    assert not proxy.stored
    origin.wait(lambda: origin.in_flight == 0)


def test_buffering_would_have_filled_the_disk(origin, gateway, tmp_path):
    """What X-Accel-Buffering spares a stock nginx, and that the tests above would see it."""
    with (
        nginx(tmp_path / "buffering", BUFFERING, gateway.port) as buffering,
        paused(buffering.port, archive_path(["big"])),
    ):
        request = origin.asked("/big")[-1]
        origin.wait(lambda: request.finished, timeout=30)
        assert buffering.stored
    origin.wait(lambda: origin.in_flight == 0)


# Cut and resumed


def test_a_cut_download_is_resumed_through_it(gateway, proxy, tmp_path):
    plan = json.loads(ask(proxy.port, archive_path(["big", "a"], "/plan"))[2])
    partial = tmp_path / "archive.tar"
    url = proxy.root + plan["url"]
    cut = subprocess.Popen(["curl", "-sS", "--limit-rate", "40M", "-o", str(partial), url])
    deadline = time.monotonic() + 20
    while not partial.exists() or partial.stat().st_size < 4 * MIB:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cut.kill()
    cut.wait()
    assert partial.stat().st_size < plan["size"]
    assert curl("-C", "-", "-o", str(partial), url).returncode == 0
    whole = tmp_path / "whole.tar"
    assert curl("-o", str(whole), gateway.url(["big", "a"])).returncode == 0
    assert run(["cmp", str(partial), str(whole)]).returncode == 0


def test_a_broken_archive_is_reported_through_it(origin, proxy, tmp_path):
    origin.add("/broken", Made(3 * MIB, seed=5), faults.fin(at=2 * MIB))
    partial = tmp_path / "archive.tar"
    assert curl("-o", str(partial), proxy.url(["broken"])).returncode == 18
    assert partial.read_bytes()[512:] == origin.objects["/broken"].content.read(0, 2 * MIB)


# Below a path


def test_below_a_path_the_urls_given_out_lead_back(origin, tmp_path):
    config = CONFIG.format(root=origin.root).replace("[server]", '[server]\nbase_path = "/files"')
    below = re.sub(
        r"location / \{\s+proxy_pass http://gateway;",
        "location /files/ { proxy_pass http://gateway/;",
        RECOMMENDED,
    )
    with process(tmp_path, config) as gateway, nginx(tmp_path / "it", below, gateway.port) as it:
        plan = json.loads(ask(it.port, "/files" + archive_path(["c"], "/plan"))[2])
        assert plan["url"].startswith("/files/archive?")
        status, headers, body = ask(it.port, plan["url"])
    assert (status, headers["ETag"], len(body)) == (200, plan["etag"], plan["size"])


# Several gateways


def test_another_gateway_takes_over_from_one_that_drains_or_is_gone(origin, tmp_path):
    config, some = CONFIG.format(root=origin.root), archive_path(["c"])
    with process(tmp_path, config) as leaving, process(tmp_path, config) as staying:

        def first_answer(name, *gateways, path=some, **how):
            """What a new nginx answers first: it asks the first gateway first."""
            with nginx(tmp_path / name, RECOMMENDED, *gateways) as it:
                return ask(it.port, path, **how)

        both = (leaving.port, staying.port)
        post = {
            "path": "/archive",
            "method": "POST",
            "headers": {"Content-Type": "application/json"},
            "body": '{"ids": ["c"]}',
        }
        with paused(leaving.port, archive_path(["big"])):
            leaving.popen.send_signal(signal.SIGTERM)
            leaving.wait_for_log("draining")
            assert first_answer("draining-GET", *both)[0] == 200
            assert first_answer("draining-POST", *both, **post)[0] == 200
            assert first_answer("draining-readyz", *both, path="/readyz")[0] == 503
            assert first_answer("draining-healthz", *both, path="/healthz")[0] == 200
            status, headers, _ = first_answer("alone", leaving.port)
            assert (status, headers["Content-Type"]) == (503, "application/problem+json")
            assert headers["Retry-After"]
        leaving.stop(signal.SIGKILL)
        assert first_answer("gone-GET", *both)[0] == 200
        assert first_answer("gone-POST", *both, **post)[0] == 200
