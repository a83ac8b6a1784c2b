"""What proves to an origin that we may read it goes to this origin, and nowhere else."""

import pytest
from faults import fin, redirect, status
from gateway import archive_path, process, raw, write_catalog
from made import Made
from origin import Origin
from yarl import URL

from tarstream.stores.credentials import NOT_TO_BE_SET, Credential, Credentials
from tarstream.watched import Unusable

CANARY = "Bearer canary-5ecret-0f-tests"
ORIGIN = "https://files.example.com"


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("FILES", CANARY)
    return Credentials([Credential(ORIGIN, "Authorization", env="FILES")])


@pytest.mark.parametrize(
    "url",
    [
        f"{ORIGIN}/a",
        f"{ORIGIN}:443/a?b#c",
        ORIGIN,
        "https://FILES.example.COM/a",
        "HTTPS://files.example.com/a",
    ],
)
@pytest.mark.parametrize("encoded", [True, False])
def test_an_origin_gets_its_own(credentials, url, encoded):
    assert credentials.of(URL(url, encoded=encoded)) == {"Authorization": CANARY}


@pytest.mark.parametrize(
    "url",
    [
        "http://files.example.com/a",
        "http://files.example.com:443/a",
        f"{ORIGIN}:8443/a",
        f"{ORIGIN}.evil.example/a",
        "https://files.example.com.:443/a",
        "https://evil.example/files.example.com",
        "https://evil.example/?https://files.example.com",
        "https://files.example.com@evil.example/",
        "https://other.files.example.com/a",
        "https://example.com/a",
    ],
)
@pytest.mark.parametrize("encoded", [True, False])
def test_nobody_else_does(credentials, url, encoded):
    assert credentials.of(URL(url, encoded=encoded)) == {}


def test_an_origin_may_have_several(monkeypatch, tmp_path):
    monkeypatch.setenv("FILES", "a\tb c")
    (tmp_path / "key").write_text(" one two\r\n")
    given = Credentials(
        [
            Credential("http://h:8080", "X-Key", file=str(tmp_path / "key")),
            Credential("http://H:8080", "X-Other", env="FILES"),
            Credential("http://h", "X-Third", env="FILES"),
        ]
    )
    assert given.of(URL("http://h:8080/a")) == {"X-Key": "one two", "X-Other": "a\tb c"}
    assert given.of(URL("http://h/a")) == {"X-Third": "a\tb c"}


@pytest.mark.parametrize("value", ["", " \n", "a\nb", "a\r\nX-Other: b", "a\0b", "\x1b", "é"])
def test_a_value_that_is_none_is_a_mistake_and_is_not_shown(monkeypatch, tmp_path, value):
    path = tmp_path / "key"
    path.write_text(CANARY + value if value.strip() else value)
    with pytest.raises(Unusable) as caught:
        Credentials([Credential(ORIGIN, "X-Key", file=str(path))])
    assert str(caught.value) == f"{path}: must be one line of printable ASCII"
    assert "canary" not in repr(caught.value.__cause__)
    if "\0" not in value:
        monkeypatch.setenv("FILES", value)
        with pytest.raises(Unusable, match=r"^FILES: must be one line of printable ASCII$"):
            Credentials([Credential(ORIGIN, "X-Key", env="FILES")])


def test_a_value_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(Unusable, match=r"^NO_SUCH: is not set, and \[upstream\] credentials names"):
        Credentials([Credential(ORIGIN, "X-Key", env="NO_SUCH")])
    with pytest.raises(Unusable, match=r"nowhere: no such file or directory$"):
        Credentials([Credential(ORIGIN, "X-Key", file=str(tmp_path / "nowhere"))])


async def test_without_files_there_is_nothing_to_watch(credentials):
    await credentials.watch()
    await Credentials().watch()


def test_what_we_say_ourselves_cannot_be_set():
    assert {"range", "if-match", "host", "content-length", "accept-encoding"} <= NOT_TO_BE_SET


# Over HTTP.


@pytest.fixture
async def other():
    async with Origin() as origin:
        yield origin


def carried(origin):
    return {request.headers.get("x-key") for request in origin.requests}


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("KEY", CANARY)
    return {"header": "X-Key", "env": "KEY"}


async def test_each_request_to_the_origin_carries_it(origin, start, client, key):
    """HEAD, GET, a range, and a repair."""
    content = Made(300_000)
    origin.add("/a", content, fin(at=200_000, times=1))
    gateway = await start(origin, upstream={"credentials": [{"origin": origin.root, **key}]})
    async with client.get(gateway.url(["a"])) as response:
        assert content.read() in await response.read()
    async with client.get(gateway.url(["a"]), headers={"Range": "bytes=600-700"}) as response:
        assert len(await response.read()) == 101
    assert len(origin.requests) >= 4
    assert carried(origin) == {CANARY}


async def test_a_redirect_to_another_origin_loses_it(origin, other, start, client, key):
    """One within the origin does not, one back from another origin does not bring it back."""
    origin.add("/a", b"", redirect(origin.url("/b")))
    origin.add("/b", b"", redirect(other.url("/c")))
    other.add("/c", b"", redirect(origin.url("/d")))
    origin.add("/d", b"contents")
    gateway = await start(
        origin,
        allow=[origin.root, other.root],
        upstream={"credentials": [{"origin": origin.root, **key}]},
    )
    async with client.get(gateway.url(["a"])) as response:
        assert b"contents" in await response.read()
    assert len(other.requests) >= 2
    assert carried(other) == {None}
    asked = {(request.path, request.headers.get("x-key")) for request in origin.requests}
    assert asked == {("/a", CANARY), ("/b", CANARY), ("/d", None)}


async def test_no_origin_can_have_us_read_what_is_private_at_another_one(
    origin, other, start, client, key
):
    stranger = status(401, when=lambda answer: answer.request.headers.get("x-key") != CANARY)
    private = origin.add("/private", b"payroll", stranger)
    other.add("/a", b"", redirect(private))
    entries = [{"id": "a", "url": other.url("/a")}, {"id": "mine", "url": private}]
    gateway = await start(
        origin,
        entries,
        allow=[origin.root, other.root],
        upstream={"credentials": [{"origin": origin.root, **key}]},
    )
    async with client.get(gateway.url(["a"])) as response:
        assert response.status == 502
        assert b"payroll" not in await response.read()
    async with client.get(gateway.url(["mine"])) as response:
        assert b"payroll" in await response.read()


async def test_several_origins_have_their_own(origin, other, start, client, key, monkeypatch):
    monkeypatch.setenv("OTHER", "another")
    entries = [
        {"id": "a", "url": origin.add("/a", b"a")},
        {"id": "b", "url": other.add("/b", b"b")},
    ]
    credentials = [
        {"origin": origin.root, **key},
        {"origin": other.root, "header": "X-Key", "env": "OTHER"},
    ]
    gateway = await start(
        origin, entries, allow=[origin.root, other.root], upstream={"credentials": credentials}
    )
    async with client.get(gateway.url(["a", "b"])) as response:
        assert response.status == 200
        await response.read()
    assert carried(origin) == {CANARY}
    assert carried(other) == {"another"}


async def test_a_client_cannot_send_it_through_us(origin, start, client, key):
    origin.add("/a", b"a")
    gateway = await start(origin, upstream={"credentials": [{"origin": origin.root, **key}]})
    headers = {"X-Key": "mine", "Authorization": "mine", "Cookie": "mine"}
    async with client.get(gateway.url(["a"]), headers=headers) as response:
        await response.read()
    assert carried(origin) == {CANARY}
    assert not [r for r in origin.requests if "mine" in str(r.headers)]


CONFIG = """
[catalog]
kind = "file"
path = "{catalog}"
[upstream]
allow = ["{origin}"]
attempts = 2
remember = 0
[[upstream.credentials]]
origin = "{origin}"
header = "X-Key"
file = "key"
[log]
level = "debug"
"""


async def test_it_is_in_no_log_and_no_answer_and_is_rotated(origin, tmp_path):
    entries = [
        {"id": name, "url": origin.add(f"/{name}", Made(1000), *faults)}
        for name, faults in {"a": (), "b": (fin(at=0),), "c": (redirect("http://evil/"),)}.items()
    ]
    catalog = write_catalog(tmp_path / "catalog.jsonl", entries)
    key = tmp_path / "key"
    key.write_text(CANARY)
    answers = b""
    with process(tmp_path, CONFIG.format(catalog=catalog, origin=origin.root)) as gateway:

        async def ask():
            nonlocal answers
            for id_ in ("a", "b", "c", "d"):
                request = f"GET {archive_path([id_])} HTTP/1.0\r\n\r\n"
                answers += await raw(gateway.port, request.encode())

        await ask()
        assert carried(origin) == {CANARY}
        key.write_text("two\nlines")
        gateway.wait_for_log("credentials rejected, the previous ones stay in force: key: must be")
        key.write_text("rotated-canary")
        gateway.wait_for_log("credentials loaded, of key")
        await ask()
        assert carried(origin) == {CANARY, "rotated-canary"}
        assert gateway.stop() == 0
        assert "canary" not in gateway.log
    assert b"canary" not in answers
    assert answers.count(b"HTTP/1.") == 8
