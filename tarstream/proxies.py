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
    address = peer
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    while _is_trusted(address, trusted) and hops:
        hop = hops.pop()
        if _parsed(hop) is None:
            break
        address = hop
    return address


def _is_trusted(address: str, trusted: Networks) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in trusted)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None
