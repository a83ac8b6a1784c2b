"""The gateway lets in who may ask, and nobody else, before it does anything."""

import asyncio
import hashlib
import hmac
import http.client
import io
import json
import re
import subprocess
import sys
import tarfile
import time
from contextlib import closing

import pytest
import yarl
from gateway import ROOT, archive_path, process, raw
from nginx import RECOMMENDED, STOCK, nginx
from origin import Made, Origin

from tarstream.query import MAX_URL
from tarstream.signing import sign

CANARY = "canary-5ecret-0f-tests"
BEARER = {"Authorization": f"Bearer {CANARY}"}
LATER = int(time.time()) + 3600
KINDS = {
    "bearer": {"kind": "bearer", "tokens": [CANARY]},
    "signed": {"kind": "signed", "keys": [f"k1 {CANARY}"]},
    "either": {"kind": "either", "tokens": [CANARY], "keys": [f"k1 {CANARY}"]},
}
PATH = "/archive?ids=a,b"
OBJECTS = {"a": Made(100_000, seed=1), "b": Made(5)}


def signed(target=PATH, exp=LATER):
    return sign(target, "k1", CANARY.encode(), exp)


def by_hand(target):
    """The target, signed without any of our code."""
    target += f"&exp={LATER}&key=k1"
    sig = hmac.new(CANARY.encode(), target.encode(), hashlib.sha256).hexdigest()
    return f"{target}&sig={sig}"


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
async def guarded(origin, start, kind):
    for path, content in OBJECTS.items():
        origin.add(f"/{path}", content)
    return await start(origin, auth=KINDS[kind])


async def asked(gateway, client, target, method="GET", **how):
    url = yarl.URL(f"http://127.0.0.1:{gateway.port}{target}", encoded=True)
    async with client.request(method, url, **how) as answer:
        return answer.status, answer.headers, await answer.read()


# Nobody else


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
@pytest.mark.parametrize("path", [PATH, "/plan?ids=a", "/archive", "/unknown", "/%61rchive?ids=a"])
async def test_who_is_not_let_in_learns_and_moves_nothing(
    origin, guarded, client, kind, method, path
):
    status, headers, body = await asked(guarded, client, path, method)
    if kind == "signed" and method in {"POST", "DELETE"}:
        assert status == 403
    else:
        assert status == 401
        scheme = "Signed-URL" if kind == "signed" else "Bearer"
        assert headers["WWW-Authenticate"] == f'{scheme} realm="tarstream"'
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    if method != "HEAD":
        assert json.loads(body)["request_id"] == headers["X-Request-Id"]
    assert origin.requests == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_is_told_to_everybody(guarded, client, path):
    assert (await asked(guarded, client, path))[0] == 200


async def test_a_body_is_not_waited_for(guarded):
    head = "POST /archive HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", guarded.port)
    with closing(writer):
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode())
        async with asyncio.timeout(30):
            assert re.match(rb"HTTP/1\.1 40[13] ", await reader.readline())


@pytest.mark.parametrize("kind", ["bearer", "either"], indirect=True)
async def test_a_wrong_token_is_told_so(origin, guarded, client):
    headers = {"Authorization": f"Bearer {CANARY}x"}
    status, headers, body = await asked(guarded, client, PATH, headers=headers)
    assert status == 401
    assert headers["WWW-Authenticate"] == 'Bearer realm="tarstream", error="invalid_token"'
    assert CANARY.encode() not in body
    assert origin.requests == []


@pytest.mark.parametrize("kind", ["signed", "either"], indirect=True)
@pytest.mark.parametrize(
    "target",
    [
        signed().replace("ids=a,b", "ids=a"),
        signed() + "&version=x",
        signed().replace("/archive", "/plan"),
        signed(exp=int(time.time()) - 1),
        signed()[:-1],
        "http://127.0.0.1" + signed(),
    ],
)
async def test_a_wrong_signature_is_403(origin, guarded, target):
    request = f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    answer = await raw(guarded.port, request.encode())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert target[-64:].encode() not in answer
    assert origin.requests == []


# Who may


@pytest.mark.parametrize("kind", ["bearer", "either"], indirect=True)
async def test_a_token_opens_everything(guarded, client):
    status, _, whole = await asked(guarded, client, PATH, headers=BEARER)
    assert status == 200
    status, _, body = await asked(guarded, client, PATH, "HEAD", headers=BEARER)
    assert (status, body) == (200, b"")
    ranged = BEARER | {"Range": "bytes=600-699"}
    status, _, body = await asked(guarded, client, PATH, headers=ranged)
    assert (status, body) == (206, whole[600:700])
    ids = {"ids": ["a", "b"]}
    status, _, body = await asked(guarded, client, "/archive", "POST", json=ids, headers=BEARER)
    assert (status, body) == (200, whole)


@pytest.mark.parametrize("kind", ["signed", "either"], indirect=True)
async def test_a_signature_opens_its_archive(guarded, client):
    status, headers, whole = await asked(guarded, client, signed())
    assert status == 200
    assert (await asked(guarded, client, signed(), "HEAD"))[1]["ETag"] == headers["ETag"]
    status, _, part = await asked(guarded, client, signed(), headers={"Range": "bytes=600-699"})
    assert (status, part) == (206, whole[600:700])


@pytest.mark.parametrize("kind", ["signed"], indirect=True)
async def test_each_range_is_judged_anew(origin, guarded, client, monkeypatch):
    target = signed()
    for _ in range(2):
        assert (await asked(guarded, client, target, headers={"Range": "bytes=600-"}))[0] == 206
    origin.requests.clear()
    monkeypatch.setattr(guarded.gateway._authorizer, "_clock", lambda: LATER)
    status, _, body = await asked(guarded, client, target, headers={"Range": "bytes=600-"})
    assert (status, json.loads(body)["detail"]) == (403, "the signed URL expired 0 seconds ago")
    assert origin.requests == []


@pytest.mark.parametrize("kind", ["signed"], indirect=True)
@pytest.mark.parametrize(
    "query",
    [
        "ids=a%2cb",
        "ids=a,b&x=%41+%2B;/\\|'\"<>{}^`[]",
        "id=a&&id=%62",
        "x=?&ids=a%2Cb",
        "ids=a&x=%",
    ],
)
async def test_bytes_count_as_they_are_sent(guarded, query):
    """Signed by somebody else, who may write them in any way."""
    target = by_hand(f"/archive?{query}")
    for sent, status in ((target, "200"), (target.replace("?", "?&"), "403")):
        request = f"GET {sent} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        answer = await raw(guarded.port, request.encode())
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())


async def test_origins_see_no_token(origin, start, client):
    origin.add("/a", OBJECTS["a"])
    gateway = await start(origin, auth=KINDS["bearer"])
    assert (await asked(gateway, client, "/archive?ids=a", headers=BEARER))[0] == 200
    assert origin.requests
    assert CANARY not in str([request.headers for request in origin.requests])


# The URL of a plan


async def planned(gateway, client, target, lines=False, **headers):
    if lines:
        headers["Accept"] = "application/x-ndjson"
    status, answered, body = await asked(gateway, client, target, headers=headers)
    assert status == 200
    if lines:
        link = answered.get("Link")
        return link and re.fullmatch('<(.*)>; rel="canonical"', link)[1]
    return json.loads(body)["url"]


@pytest.mark.parametrize("kind", ["signed", "either"], indirect=True)
@pytest.mark.parametrize("lines", [False, True])
async def test_the_url_of_a_plan_is_signed_anew_with_the_same_expiry(guarded, client, lines):
    url = await planned(guarded, client, signed("/plan?ids=a,b"), lines)
    unsigned = re.fullmatch(r"(/archive\?ids=a,b&version=[^&]+)&exp=.*", url)[1]
    assert url == signed(unsigned)
    status, headers, body = await asked(guarded, client, url)
    assert (status, headers["Cache-Control"].split(",")[0]) == (200, "private")
    assert body == (await asked(guarded, client, signed()))[2]
    assert (await asked(guarded, client, unsigned))[0] == 401


@pytest.mark.parametrize("kind", ["bearer", "either"], indirect=True)
async def test_the_url_of_a_plan_for_a_token_is_not_signed(guarded, client):
    url = await planned(guarded, client, "/plan?ids=a", **BEARER)
    assert "sig=" not in url
    assert (await asked(guarded, client, url, headers=BEARER))[0] == 200


async def test_a_url_that_would_be_too_long_once_signed_is_none(origin, start, client):
    gateway = await start(origin, auth=KINDS["signed"])
    last = None
    for length in (5, 160):  # without a signature both would be given out
        ids = [f"{index:04}{'x' * 200}" for index in range(145)]
        bare = len(archive_path([]) + ",".join(ids)) + len("ids=,&version=") + 64
        ids.append("y" * (MAX_URL - bare - length))
        for id_ in ids:
            origin.add(f"/{id_}", Made(1))
        last = await planned(gateway, client, signed("/plan?ids=" + ",".join(ids)))
        assert last is None or len(last) <= MAX_URL
        if length == 5:
            assert last is None
    assert last is not None


@pytest.mark.parametrize(
    "id_", ["it's", "a&sig=x", "q?exp=1&key=2", "é ü", "100%", "a+b;c", "[{|^`}]"]
)
async def test_the_url_of_a_plan_survives_a_browser(origin, start, client, id_):
    """fetch parses URLs as browsers do, and writes some characters differently (WHATWG URL)."""
    origin.add(f"/{id_}", b"contents")
    gateway = await start(origin, auth=KINDS["signed"])
    url = await planned(gateway, client, signed(archive_path([id_], "/plan")))
    fetch = "fetch(process.argv[1]).then(async a => console.log(a.status, (await a.blob()).size))"
    done = await asyncio.to_thread(
        subprocess.run,
        ["node", "-e", fetch, f"http://127.0.0.1:{gateway.port}{url}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    _, headers, _ = await asked(gateway, client, url, "HEAD")
    assert done.stdout.split() == ["200", headers["Content-Length"]]


async def test_below_a_path_the_clients_path_is_signed(origin, start, client):
    origin.add("/a", b"a")
    gateway = await start(origin, auth=KINDS["signed"], server={"base_path": "/files"})
    url = await planned(gateway, client, signed("/files/plan?ids=a").removeprefix("/files"))
    assert url.startswith("/files/archive?ids=a&version=")
    assert (await asked(gateway, client, url.removeprefix("/files")))[0] == 200
    assert (await asked(gateway, client, signed("/archive?ids=a")))[0] == 403


# As a process, and through nginx


CONFIG = """
[auth]
kind = "either"
tokens_file = "tokens"
keys_file = "keys"
[log]
level = "debug"
[catalog]
kind = "template"
url = "{root}/{{id}}"
[upstream]
allow = ["{root}"]
"""


@pytest.fixture(scope="module")
def files():
    with Origin().in_thread() as origin:
        for path, content in OBJECTS.items():
            origin.add(f"/{path}", content)
        yield origin


@pytest.fixture
def place(tmp_path):
    (tmp_path / "tokens").write_text(f"{CANARY}\n")
    (tmp_path / "keys").write_text(f"k1 {CANARY}\n")
    return tmp_path


def ask(port, target=PATH, **headers):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_a_process_takes_over_new_secrets_and_shows_none(files, place):
    config = CONFIG.format(root=files.root)
    new = "new-canary-of-tests"
    with process(place, config) as gateway:
        answers = [ask(gateway.port, signed()), ask(gateway.port, **BEARER)]
        assert [status for status, _ in answers] == [200, 200]
        fresh = place / "fresh"
        fresh.write_text(f"{new}\n")
        fresh.rename(place / "tokens")
        (place / "keys").write_text(f"k1 {CANARY} {CANARY}\n")
        gateway.wait_for_log("secrets loaded, of tokens")
        gateway.wait_for_log("secrets rejected, the previous ones stay in force: keys:1: ")
        told = [
            ask(gateway.port, **BEARER),
            ask(gateway.port, signed() + "0"),
            ask(gateway.port, signed().replace("k1", "k2")),
            ask(gateway.port, f"/archive?ids={CANARY}", Authorization="Basic " + CANARY),
        ]
        assert [status for status, _ in told] == [401, 403, 403, 401]
        assert ask(gateway.port, signed())[0] == 200
        assert ask(gateway.port, Authorization=f"Bearer {new}")[0] == 200
        assert gateway.stop() == 0
        shown = gateway.log + str(told)
    for secret in (CANARY, new, signed()[-64:]):
        assert secret not in shown


@pytest.mark.parametrize("check", [["--check"], []], ids=["check", "serve"])
@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("tokens", None, "tokens: no such file or directory"),
        ("tokens", "", "tokens: holds nothing but blank lines and comments"),
        ("tokens", f"# {CANARY}\n{CANARY[:9]}\n", "tokens:2: a token has at least 16 characters"),
        ("keys", f"k1 {CANARY}\nk1 {CANARY}x", "keys:2: the key 'k1' has another secret already"),
    ],
)
def test_bad_secrets_are_one_line_and_status_2(place, name, text, line, check):
    (place / "config.toml").write_text(CONFIG.format(root="http://127.0.0.1:1"))
    if text is None:
        (place / name).unlink()
    else:
        (place / name).write_text(text)
    done = subprocess.run(
        [sys.executable, str(ROOT / "server.py"), "--config", "config.toml", "--port=0", *check],
        check=False,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{line}\n")


BELOW_A_PATH = RECOMMENDED.replace("location / {", "location /files/ {").replace(
    "proxy_pass http://gateway;", "proxy_pass http://gateway/;", 1
)
UNTOUCHED = "&x=%41%2f+%20'\"\\|;,:@!$()*~?/.."


@pytest.mark.parametrize("conf", [RECOMMENDED, STOCK], ids=["recommended", "stock"])
def test_nginx_leaves_signed_urls_as_they_are(files, place, conf):
    request = f"GET {by_hand(PATH + UNTOUCHED)} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    with (
        process(place, CONFIG.format(root=files.root)) as gateway,
        nginx(place / "nginx", conf, gateway.port) as proxy,
    ):
        for port in (gateway.port, proxy.port):
            assert asyncio.run(raw(port, request.encode())).startswith(b"HTTP/1.1 200 ")
        assert ask(proxy.port)[0] == 401
        assert ask(proxy.port, **BEARER)[0] == 200


def test_behind_a_path_of_nginx_signed_urls_are_let_in(files, place):
    config = CONFIG.format(root=files.root) + '[server]\nbase_path = "/files"\n'
    with (
        process(place, config) as gateway,
        nginx(place / "nginx", BELOW_A_PATH, gateway.port) as proxy,
    ):
        plan = json.loads(ask(proxy.port, signed("/files/plan?ids=a,b"))[1])
        status, body = ask(proxy.port, plan["url"])
        assert status == 200
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            assert archive.getnames() == ["a", "b"]


@pytest.mark.parametrize("tool", [["curl", "-sS", "-C", "-", "-o"], ["wget", "-q", "-c", "-O"]])
def test_a_signed_download_is_resumed(files, place, tool):
    with process(place, CONFIG.format(root=files.root)) as gateway:
        url = json.loads(ask(gateway.port, signed("/plan?ids=a,b"))[1])["url"]
        whole = ask(gateway.port, url)[1]
        partial = place / "archive.tar"
        partial.write_bytes(whole[:50_000])
        command = [*tool, str(partial), f"http://127.0.0.1:{gateway.port}{url}"]
        assert subprocess.run(command, check=False, timeout=30).returncode == 0
        assert partial.read_bytes() == whole
