"""Who a client is: the nearest address that no trusted proxy has."""

from ipaddress import ip_network

import pytest
from gateway import raw
from hypothesis import given
from hypothesis import strategies as st

from tarstream.proxies import client_address

TRUSTED = [ip_network(text) for text in ("10.0.0.0/8", "192.168.7.7", "fd00::/8", "::1")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # Nobody stands between, whatever the client writes.
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),
        ("203.0.113.5", ["10.0.0.1"], "203.0.113.5"),
        ("2001:db8::5", ["10.0.0.1"], "2001:db8::5"),
        # One proxy.
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["2001:db8::5"], "2001:db8::5"),
        ("::1", ["203.0.113.5"], "203.0.113.5"),
        ("192.168.7.7", ["203.0.113.5"], "203.0.113.5"),
        ("192.168.7.8", ["203.0.113.5"], "192.168.7.8"),
        # What stands before the nearest address was written by the client.
        ("10.0.0.1", ["198.51.100.1, 203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["10.0.0.9, 203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["nonsense, 203.0.113.5"], "203.0.113.5"),
        # Several proxies, in one line or several.
        ("10.0.0.1", ["203.0.113.5, 10.0.0.2"], "203.0.113.5"),
        ("10.0.0.1", ["203.0.113.5", "10.0.0.2"], "203.0.113.5"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.5", "fd00::2, 10.0.0.2"], "203.0.113.5"),
        ("fd00::1", ["203.0.113.5,10.0.0.2,\t::1 "], "203.0.113.5"),
        # Nobody but proxies.
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # What is no address names nobody: the last proxy that is known is all that is certain.
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5, _hidden, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.5:80"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5, \x1b[31m"], "10.0.0.1"),
        ("10.0.0.1", ["0x7f000001"], "10.0.0.1"),
        # One spelling for each address.
        ("10.0.0.1", ["2001:DB8:0::5"], "2001:db8::5"),
        # A socket for both families maps IPv4.
        ("::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["::ffff:203.0.113.5"], "203.0.113.5"),
        ("::ffff:203.0.113.5", ["198.51.100.1"], "203.0.113.5"),
        # A Unix socket has no address, and none that could be trusted.
        ("", ["203.0.113.5"], ""),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_trusted_proxy(peer, forwarded, client):
    assert client_address(peer, forwarded, TRUSTED) == client


def test_without_trusted_proxies_nobody_is_believed():
    assert client_address("10.0.0.1", ["203.0.113.5"], []) == "10.0.0.1"


ADDRESSES = st.ip_addresses().map(str)


@given(ADDRESSES, st.lists(st.lists(ADDRESSES | st.text()).map(",".join)))
def test_an_untrusted_peer_is_who_it_is_whatever_it_writes(peer, forwarded):
    trusted = [ip_network("10.0.0.0/8")]
    if not client_address(peer, [], []).startswith("10."):
        assert client_address(peer, forwarded, trusted) == client_address(peer, [], [])


@given(st.lists(ADDRESSES | st.text()))
def test_what_a_client_writes_changes_nothing_behind_a_proxy(written):
    forwarded = [",".join([*written, "203.0.113.5"])]
    assert client_address("10.0.0.1", forwarded, TRUSTED) == "203.0.113.5"


async def test_the_log_names_the_client_that_a_trusted_proxy_tells(start, origin, caplog):
    caplog.set_level("INFO")
    origin.add("/a", b"x")
    gateway = await start(origin, server={"trusted_proxies": ["127.0.0.1"]})
    told = "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 203.0.113.5\r\n"
    for route in ("/archive?ids=a", "/archive"):
        request = f"GET {route} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{told}\r\n"
        await raw(gateway.port, request.encode())
    clients = [each.fields["client"] for each in caplog.records if hasattr(each, "fields")]
    assert clients == ["203.0.113.5", "203.0.113.5"]
