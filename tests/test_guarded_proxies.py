"""Of nginx in front, what no other test would miss: see `guards/proxies.py`."""

from contextlib import contextmanager

import faults
from gateway import archive_path, process
from nginx import RECOMMENDED, nginx
from origin import Made, Origin
from test_nginx import CONFIG, MIB, paused, settled

BIG = Made(160 * MIB, seed=1)  # what sockets hold between an origin and a client is some 30 MiB


@contextmanager
def behind(directory, conf):
    """An origin, and an nginx that does not hear the gateway's own wish not to be buffered."""
    deaf = conf.replace("server {", "server { proxy_ignore_headers X-Accel-Buffering;", 1)
    with (
        Origin(send_buffer=256 * 1024).in_thread() as origin,
        process(directory, CONFIG.format(root=origin.root)) as gateway,
        nginx(directory / "nginx", deaf, gateway.port) as proxy,
    ):
        yield origin, proxy


def take(client, size):
    """Read so many bytes."""
    client.settimeout(10)
    while size:
        chunk = client.recv(size)
        assert chunk, f"{size} bytes are missing"
        size -= len(chunk)


def test_nothing_is_stored_should_buffering_come_back(tmp_path):
    """Somebody may need it for other locations, and turn it on for all."""
    assert RECOMMENDED.count("proxy_buffering") == 1
    conf = RECOMMENDED.replace("proxy_buffering off;", "proxy_buffering on;")
    with behind(tmp_path, conf) as (origin, proxy):
        origin.add("/big", BIG)
        with paused(proxy.port, archive_path(["big"])):
            assert settled(origin, origin.asked("/big")[-1]) < 64 * MIB
        assert not proxy.stored


def test_what_comes_is_passed_on_at_once(tmp_path):
    """A client that hears nothing for a minute may leave."""
    with behind(tmp_path, RECOMMENDED) as (origin, proxy):
        origin.add("/slow", Made(100_000), faults.stall(at=1000))
        with paused(proxy.port, archive_path(["slow"])) as client:
            take(client, 512 + 1000)
            origin.wait(lambda: origin.stalled)


def test_a_client_that_leaves_with_all_there_was_frees_the_origin(tmp_path):
    """Nobody has anything left to write to it, and learns so that it has left."""
    with behind(tmp_path, RECOMMENDED) as (origin, proxy):
        origin.add("/slow", Made(100_000), faults.stall(at=1000))
        with paused(proxy.port, archive_path(["slow"])) as client:
            take(client, 512 + 1000)
            origin.wait(lambda: origin.stalled)
        origin.wait(lambda: origin.in_flight == 0)
