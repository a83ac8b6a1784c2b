"""nginx that asks an application who may download (`auth_request`), as docs/auth.md shows it."""

import http.client
import re
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gateway import ROOT, archive_path, process
from nginx import RECOMMENDED, held_port, nginx
from origin import Made, Origin

from tarstream.app import MAX_LINE

DOCUMENT = (ROOT / "docs" / "auth.md").read_text()
LOCATIONS = re.search(r"(?s)```nginx\n(.*?)```", DOCUMENT)[1]

CONFIG = """
[catalog]
kind = "template"
url = "{root}/{{id}}"
[upstream]
allow = ["{root}"]
"""

PATH = archive_path(["a"])


class Application(ThreadingHTTPServer):
    """What knows who is logged in: it lets in who sends the cookie `user=ada`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked = []


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers.items())))
        user = self.headers["Cookie"]
        self.send_response({"user=ada": 204, None: 401}.get(user, 403))
        if user is None:
            self.send_header("WWW-Authenticate", 'Bearer realm="application"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def application():
    with Application() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def app():
    with application() as app:
        yield app


@pytest.fixture(scope="module")
def origin():
    with Origin().in_thread() as origin:
        origin.add("/a", Made(100_000, seed=1))
        yield origin


@pytest.fixture(scope="module")
def gateway(origin, tmp_path_factory):
    with process(tmp_path_factory.mktemp("gateway"), CONFIG.format(root=origin.root)) as gateway:
        yield gateway


def documented(application_port):
    """The recommended file with the locations of the document in place of its own."""
    given = re.search(r"(?ms)^ {8}location / \{.*?^ {8}\}\n", RECOMMENDED)[0]
    assert LOCATIONS.count("127.0.0.1:9000") == 1
    return RECOMMENDED.replace(
        given, LOCATIONS.replace("127.0.0.1:9000", f"127.0.0.1:{application_port}")
    )


@pytest.fixture(scope="module")
def proxy(app, gateway, tmp_path_factory):
    directory = tmp_path_factory.mktemp("nginx") / "asks"
    with nginx(directory, documented(app.server_port), gateway.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def nobody_asked_yet(app, origin):
    app.asked.clear()
    origin.requests.clear()


def ask(port, path=PATH, method="GET", body=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_who_may_gets_what_the_gateway_gives(gateway, proxy):
    status, headers, body = ask(proxy.port, Cookie="user=ada")
    assert (status, body) == (200, ask(gateway.port)[2])
    assert headers["ETag"]


@pytest.mark.parametrize("path", [PATH, archive_path(["a"], "/plan"), "/unknown", "/may-ask"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_does_not_say_who_he_is_is_401(proxy, origin, path, method):
    status, headers, _ = ask(proxy.port, path, method)
    if path == "/may-ask":  # is not there for clients
        assert status == 404
    else:
        assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="application"')
    assert origin.requests == []


def test_who_may_not_is_403(proxy, origin):
    assert ask(proxy.port, Cookie="user=eve")[0] == 403
    assert origin.requests == []


def test_every_range_is_asked_about(proxy, app, origin):
    for first in (0, 1000, 50_000):
        status, headers, _ = ask(proxy.port, Range=f"bytes={first}-{first + 9}", Cookie="user=ada")
        assert (status, headers["Content-Length"]) == (206, "10")
    assert len(app.asked) == 3
    origin.requests.clear()
    assert ask(proxy.port, Range="bytes=0-9", Cookie="user=eve")[0] == 403
    assert origin.requests == []


def test_the_application_is_told_what_is_asked_for(proxy, app):
    path = "/archive?ids=%61%2Cnowhere/../a&missing=skip&x=+%20'"
    ask(proxy.port, path, "HEAD", Cookie="user=ada", Host="files.example.com")
    ((asked, headers),) = app.asked
    assert asked == "/may-ask"
    assert headers["X-Original-URI"] == path
    assert headers["X-Original-Method"] == "HEAD"
    assert headers["Host"] == "files.example.com"


def test_the_application_is_told_of_a_post_and_not_sent_its_body(proxy, app):
    json = {"Content_Type": "application/json", "body": '{"ids": ["a"]}'}
    assert ask(proxy.port, "/archive", "POST", **json, Cookie="user=ada")[0] == 200
    assert ask(proxy.port, "/archive", "POST", **json, Cookie="user=eve")[0] == 403
    for asked, headers in app.asked:
        assert asked == "/may-ask"
        assert headers["X-Original-Method"] == "POST"
        assert "Content-Length" not in headers
        assert "Transfer-Encoding" not in headers


def test_the_application_sees_credentials(proxy, app):
    ask(proxy.port, Authorization="Bearer of-the-application")
    assert app.asked[0][1]["Authorization"] == "Bearer of-the-application"


def test_the_longest_request_line_is_asked_about(proxy, app):
    path = PATH + "&x="
    path += "y" * (MAX_LINE - len(f"GET {path} HTTP/1.1"))
    assert ask(proxy.port, path, Cookie="user=ada")[0] == 200
    assert app.asked[0][1]["X-Original-URI"] == path


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_told_to_everybody(proxy, app, path):
    assert ask(proxy.port, path)[0] == 200
    assert app.asked == []


def test_without_the_application_nobody_is_let_in(gateway, origin, tmp_path):
    with (
        held_port() as port,  # and nobody listens there
        nginx(tmp_path / "alone", documented(port), gateway.port) as proxy,
    ):
        assert ask(proxy.port, Cookie="user=ada")[0] == 500
    assert origin.requests == []
