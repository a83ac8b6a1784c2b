"""Which addresses may be connected to. Pure; the guard asks for each final address.

Python's `is_global` alone does not answer this: it is True for NAT64 and 6to4 addresses that lead
to loopback, for IPv4-compatible ones, for `fec0::/10`, and for multicast.
"""

from collections.abc import Container
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_THIS_NETWORK = IPv4Network("0.0.0.0/8")  # Linux connects 0.0.0.0 to itself
_BROADCAST = IPv4Address("255.255.255.255")
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA has given out
_TEREDO = IPv6Network("2001::/32")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")  # RFC 8215; its last 32 bits where it is cut to /96
_EMBEDDING = (
    IPv6Network("64:ff9b::/96"),  # RFC 6052
    IPv6Network("::/96"),  # RFC 4291 2.5.5.1
    IPv6Network("::ffff:0:0:0/96"),  # RFC 2765
    _LOCAL_NAT64,
)


def may_connect(address: str, *, only_global: bool, literals: Container[Address]) -> bool:
    """Whether a connection to `address` is allowed.

    Link-local, multicast and unspecified addresses only when they stand in `literals`;
    `only_global` refuses private and loopback ones too.
    """
    outer = ip_address(address)
    if outer in literals:
        return True
    inner = _embedded(outer)
    if _special(inner):
        return False
    # Whoever translates there may do it to addresses of their own.
    return not only_global or (_is_global(inner) and outer not in _LOCAL_NAT64)


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address is translated or mapped to, else itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if int(address) > 1 and any(address in network for network in _EMBEDDING):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _special(address: Address) -> bool:
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return True
    return isinstance(address, IPv4Address) and (address in _THIS_NETWORK or address == _BROADCAST)


def _is_global(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (address not in _GLOBAL_UNICAST or address in _TEREDO):
        return False
    return address.is_global
