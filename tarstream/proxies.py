"""Who a client is when proxies stand before us. Pure."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Networks = Sequence[IPv4Network | IPv6Network]


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Networks) -> str:
    """The nearest address that is not a trusted proxy's.

    `forwarded_for` holds the values of X-Forwarded-For, each a list to which every proxy appended
    whom it was asked by. Read from the right, and only as far as the proxies can be trusted:
    whatever stands before that was written by the client.
    """
    address = _parsed(peer)
    if address is None:  # a Unix socket's
        return peer
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    while hops and any(address in network for network in trusted):
        hop = _parsed(hops.pop())
        if hop is None:
            break
        address = hop
    return str(address)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """The address, an IPv4 one as such even where a socket for both families maps it."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
