"""Which addresses may be connected to, whatever they are written as."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tarstream.stores.addresses import may_connect

GLOBAL = [
    "8.8.8.8",
    "1.1.1.1",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2a00:1450:4001:80b::200e",
    "::ffff:8.8.8.8",  # mapped
    "64:ff9b::808:808",  # NAT64 to 8.8.8.8
    "2002:808:808::1",  # 6to4 of 8.8.8.8
]

# Of somebody's own network: for a host that stands in the configuration, not for a wildcard.
PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",  # shared by a provider's customers
    "100.100.100.200",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "240.0.0.1",
    "::1",
    "::1%lo",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",  # site-local: deprecated, and routed where it is still in use
    "100::1",
    "2001:db8::1",
    "2001::1",  # Teredo
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "5f00::1",
    "4000::1",
    "::ffff:127.0.0.1",  # mapped
    "::ffff:10.0.0.1",
    "::127.0.0.1",  # IPv4-compatible
    "::10.0.0.1",
    "64:ff9b::7f00:1",  # NAT64 to 127.0.0.1
    "64:ff9b::a00:1",
    "64:ff9b:1::7f00:1",
    "64:ff9b:1::808:808",  # to a network of one's own, whatever it looks like
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:a00:1::1",
    "2002:c0a8:101::1",
    "::ffff:0:7f00:1",  # translated
]

# Never meant by the name of a host.
SPECIAL = [
    "0.0.0.0",
    "0.0.0.1",
    "0.255.255.255",
    "169.254.0.1",
    "169.254.169.254",  # what clouds tell their machines, credentials included
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "::",
    "::2",
    "fe80::1",
    "fe80::1%lo",
    "fe80::a9fe:a9fe%eth0",
    "febf::1",
    "ff02::1",
    "ff0e::1",
    "::ffff:0.0.0.0",  # mapped
    "::ffff:169.254.169.254",
    "::ffff:224.0.0.1",
    "::ffff:255.255.255.255",
    "::169.254.169.254",  # IPv4-compatible
    "::224.0.0.1",
    "64:ff9b::a9fe:a9fe",  # NAT64 to 169.254.169.254
    "64:ff9b::",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::",  # 6to4 of 169.254.169.254
    "2002::1",
    "2002:e000:1::",
    "::ffff:0:a9fe:a9fe",  # translated
]

NOTHING = frozenset()


@pytest.mark.parametrize("address", GLOBAL)
def test_a_global_address_is_for_everybody(address):
    assert may_connect(address, only_global=True, literals=NOTHING)
    assert may_connect(address, only_global=False, literals=NOTHING)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_for_hosts_that_are_named(address):
    assert not may_connect(address, only_global=True, literals=NOTHING)
    assert may_connect(address, only_global=False, literals=NOTHING)


@pytest.mark.parametrize("address", SPECIAL)
def test_a_special_address_is_for_its_literal_alone(address):
    assert not may_connect(address, only_global=True, literals=NOTHING)
    assert not may_connect(address, only_global=False, literals=NOTHING)
    others = frozenset(map(ip_address, set(SPECIAL) - {address}))
    assert not may_connect(address, only_global=False, literals=others)
    assert may_connect(address, only_global=False, literals=frozenset([ip_address(address)]))


@given(st.ip_addresses(v=4))
@example(IPv4Address("169.254.169.254"))
def test_no_ipv6_disguise_of_an_address_is_allowed_more_than_the_address(inner):
    number = int(inner)
    disguises = [
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(0xFFFF << 48 | number),
        IPv6Address(0x64FF9B << 96 | number),
        IPv6Address(0x64FF9B0001 << 80 | number),
        IPv6Address(0x2002 << 112 | number << 80 | 1),
    ]
    if number > 1:
        disguises.append(IPv6Address(number))
    for only_global in (True, False):
        plain = may_connect(str(inner), only_global=only_global, literals=NOTHING)
        for disguise in disguises:
            assert plain or not may_connect(
                str(disguise), only_global=only_global, literals=NOTHING
            ), disguise


@given(st.ip_addresses())
@example(IPv6Address("2002:100::"))
def test_what_a_wildcard_may_reach_is_global_to_python_too(address):
    """Python's `is_global` says yes too often, and is never overruled when it says no."""
    if may_connect(str(address), only_global=True, literals=NOTHING):
        assert may_connect(str(address), only_global=False, literals=NOTHING)
        inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
        assert (inner or address).is_global


def test_what_is_no_address_is_refused_loudly():
    for text in ("localhost", "0x7f000001", "127.1", ""):
        with pytest.raises(ValueError, match="does not appear to be"):
            may_connect(text, only_global=False, literals=NOTHING)
