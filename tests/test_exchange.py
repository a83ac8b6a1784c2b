"""Requests on connections that are kept, and which of them are fit to be used again."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from test_stores import any_address, until

from tarstream.stores.credentials import Credentials
from tarstream.stores.exchange import Exchanges
from tarstream.stores.http import session

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """An origin that says what it is told to, request by request: `None` closes."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.connections = 0
        self.requests = []

    async def serve(self, reader, writer):
        self.connections += 1
        self.writer = writer
        try:
            while self.answers:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                answer = self.answers.pop(0)
                if answer is None:
                    return
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def asking(*answers):
    """What asks, an origin that gives these answers in turn, and its URL."""
    peer = Peer(*answers)
    async with (
        await asyncio.start_server(peer.serve, "127.0.0.1") as server,
        session(5, 30, any_address) as http,
    ):
        port = server.sockets[0].getsockname()[1]
        yield Exchanges(http, Credentials()), peer, f"http://127.0.0.1:{port}/object"


async def read(exchanges, url):
    with await exchanges.ask("GET", url, {}) as answer:
        return answer.status, await answer.content.read()


async def test_a_connection_whose_answer_was_read_is_used_again():
    async with asking(OK, OK, OK) as (exchanges, peer, url):
        for _ in range(3):
            assert await read(exchanges, url) == (200, b"ok")
        assert peer.connections == 1


async def test_a_connection_on_which_contents_are_left_is_closed():
    long = OK.replace(b": 2", b": 1000000")
    async with asking(long, OK) as (exchanges, peer, url):
        with await exchanges.ask("GET", url, {}) as answer:
            assert answer.status == 200
        assert answer.connection is None
        assert await read(exchanges, url) == (200, b"ok")
        assert peer.connections == 2


async def test_bytes_behind_an_answer_are_not_taken_for_the_next():
    async with asking(OK + OK.replace(b"ok", b"no"), OK) as (exchanges, peer, url):
        assert await read(exchanges, url) == (200, b"ok")
        assert await read(exchanges, url) == (200, b"ok")
        assert peer.connections == 2


async def test_bytes_that_come_while_it_is_kept_are_not_taken_for_an_answer():
    content = b"x" * 500_000  # more than is read at once
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    async with asking(whole, OK) as (exchanges, peer, url):
        with await exchanges.ask("GET", url, {}) as answer:
            protocol = answer.connection.protocol
            assert await answer.content.read() == content
        assert answer.connection is None
        assert not protocol.should_close
        peer.writer.write(OK.replace(b"ok", b"no"))
        await until(lambda: protocol.should_close)
        assert await read(exchanges, url) == (200, b"ok")
        assert peer.connections == 2


async def test_a_kept_connection_that_is_closed_as_it_is_used_is_replaced():
    """RFC 9112 9.3.1: nobody did anything wrong."""
    async with asking(OK, None, OK) as (exchanges, peer, url):
        assert await read(exchanges, url) == (200, b"ok")
        assert await read(exchanges, url) == (200, b"ok")
        assert peer.connections == 2
        assert len(peer.requests) == 3


async def test_an_origin_that_only_hangs_up_is_asked_twice():
    async with asking(None, None, None) as (exchanges, peer, url):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await exchanges.ask("GET", url, {})
        assert len(peer.requests) == 2


async def test_interim_answers_are_not_the_answer():
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    async with asking(early + early + OK) as (exchanges, _, url):
        assert await read(exchanges, url) == (200, b"ok")


async def test_a_connection_that_changed_its_protocol_is_not_used_again():
    switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    async with asking(switching, OK) as (exchanges, peer, url):
        with await exchanges.ask("GET", url, {}) as answer:
            assert answer.status == 101
        assert await read(exchanges, url) == (200, b"ok")
        assert peer.connections == 2


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nX: y", "a\rX", "a\0"])
async def test_what_would_break_out_of_a_header_is_not_sent(value):
    async with asking(OK) as (exchanges, peer, url):
        with pytest.raises(ValueError, match="line break"):
            await exchanges.ask("GET", url, {"If-Match": value})
        assert peer.connections == 0


@pytest.mark.parametrize(
    ("suffix", "target"),
    [("", "/"), ("?a=b", "/?a=b"), ("/a%2Fb?c#d", "/a%2Fb?c"), ("//x/../y", "//x/../y")],
)
async def test_the_target_is_all_behind_the_origin_but_the_fragment(suffix, target):
    async with asking(OK) as (exchanges, peer, url):
        await read(exchanges, url.removesuffix("/object") + suffix)
        request, host, *_ = peer.requests[0].decode().split("\r\n")
        assert request == f"GET {target} HTTP/1.1"
        assert host == f"Host: {url.split('/')[2]}"


@pytest.mark.parametrize("url", ["", "/object", "ftp://host/object", "http:///object", "http://"])
async def test_what_is_no_url_of_http_is_a_value_error(url):
    async with asking() as (exchanges, _, _url):
        with pytest.raises(ValueError):  # noqa: PT011 - of several libraries
            await exchanges.ask("GET", url, {})


async def test_credentials_stand_in_place_of_what_all_requests_carry():
    """A field that is there twice is refused by many."""
    async with asking(OK) as (_, peer, url), session(5, 30, any_address) as http:
        own = {"User-Agent": "mine", "accept": "a/b", "X-Key": "k"}
        exchanges = Exchanges(http, Credentials.given({url.removesuffix("/object"): own}))
        assert await read(exchanges, url) == (200, b"ok")
    names = [line.partition(b":")[0].lower() for line in peer.requests[0].splitlines()[1:-1]]
    assert sorted(names) == sorted(set(names))
    assert {b"user-agent", b"accept-encoding", b"x-key"} <= set(names)
    assert b"User-Agent: mine\r\n" in peer.requests[0]
