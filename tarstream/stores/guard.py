"""Only allowed origins: each source, each redirect and each address finally connected to.

Ids are never URLs, yet a catalog may be written by somebody who must not reach our network.
"""

import errno
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from ipaddress import ip_address
from types import TracebackType
from typing import NamedTuple
from urllib.parse import unquote, urljoin, urlsplit
from weakref import WeakSet

from aiohttp.connector import AddrInfoType
from yarl import URL

from tarstream.errors import Forbidden, OriginError
from tarstream.layout import Source
from tarstream.stores.addresses import Address, may_connect
from tarstream.stores.base import (
    AddressRefused,
    Body,
    Elsewhere,
    ObjectMeta,
    Redirected,
    Store,
    origin_of,
)
from tarstream.stores.file import file_path

MAX_REDIRECTS = 5

# Nothing that two parsers could read in two ways: no userinfo, no backslash, no blank, no control.
_AUTHORITY = re.compile(
    r"(https?)://([A-Za-z0-9.:\[\]_~\-\u0080-\U0010ffff]+)(?=[/?#]|\Z)[^\s\\\x00-\x1f\x7f]*\Z",
    re.IGNORECASE,
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Rule(NamedTuple):
    """One entry of `[upstream] allow`."""

    scheme: str
    host: str
    """Lower case; of a wildcard what follows `*.`; "" for files."""
    port: int | None
    wildcard: bool
    path: str
    """A directory, for files."""


class Policy:
    """What `[upstream] allow` says. Raises ValueError for an entry that says nothing."""

    def __init__(self, allow: Sequence[str]) -> None:
        self.rules = tuple(_rule(entry) for entry in allow)
        self.literals = frozenset(
            literal for rule in self.rules if (literal := _literal(rule.host)) is not None
        )
        # 100,000 members mostly have a handful of origins.
        self._network_rule = lru_cache(maxsize=1024)(self._find_network_rule)

    def rule(self, source: str) -> Rule:
        """The rule that allows a source, an exact one before a wildcard; raises Forbidden."""
        match = _AUTHORITY.match(source)
        found = self._network_rule(match[1].lower(), match[2]) if match else self._file_rule(source)
        if found is None:
            raise Forbidden("a source that [upstream] allow does not list")
        return found

    def _find_network_rule(self, scheme: str, authority: str) -> Rule | None:
        try:
            url = URL(f"{scheme}://{authority}/")
            host, port = (url.raw_host or "").lower(), url.port
        except ValueError:
            return None
        exact = wildcard = None
        for rule in self.rules:
            if (rule.scheme, rule.port) != (scheme, port) or not host:
                continue
            if not rule.wildcard and rule.host == host:
                exact = rule
            elif rule.wildcard and host.endswith("." + rule.host):
                wildcard = rule
        return exact or wildcard

    def _file_rule(self, source: str) -> Rule | None:
        if not source.startswith("file:///"):
            return None
        path = file_path(source)
        for rule in self.rules:
            if rule.scheme == "file" and path.startswith(rule.path.rstrip("/") + "/"):
                return rule
        return None


class Guarded:
    """Sends each source to the store of the rule that allows it, and follows redirects so.

    `stores` are found by the rule's scheme and whether it is a wildcard; `literal` opens bytes.
    """

    def __init__(
        self, policy: Policy, stores: Mapping[tuple[str, bool], Store], literal: Store
    ) -> None:
        self._policy = policy
        self._stores = stores
        self._literal = literal

    def check(self, source: Source) -> None:
        """Raise Forbidden for a source that no rule allows. Connects to nothing."""
        if isinstance(source, str):
            self._policy.rule(source)

    async def head(self, source: Source) -> ObjectMeta:
        """Ask what the object is, wherever allowed redirects lead."""
        for _ in range(MAX_REDIRECTS + 1):
            try:
                return await self._store(source).head(source)
            except Redirected as redirected:
                source = _joined(source, redirected.location)
            except AddressRefused:
                raise Forbidden("its origin is at an address that is not allowed") from None
        raise OriginError("it is redirected too often")

    def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AbstractAsyncContextManager[Body]:
        """Open the object, wherever allowed redirects lead."""

        def at(source: Source) -> AbstractAsyncContextManager[Body]:
            return self._store(source).open(source, start, stop, size, validator)

        return _Guided(source, at)

    def _store(self, source: Source) -> Store:
        if isinstance(source, bytes):
            return self._literal
        assert isinstance(source, str)
        rule = self._policy.rule(source)
        return self._stores[rule.scheme, rule.wildcard]


class _Guided(AbstractAsyncContextManager[Body]):
    """An object that is opened where redirects from a source lead to, `at` each in turn."""

    def __init__(
        self, source: Source, at: Callable[[Source], AbstractAsyncContextManager[Body]]
    ) -> None:
        self._source = source
        self._at = at

    async def __aenter__(self) -> Body:
        source = self._source
        for _ in range(MAX_REDIRECTS + 1):
            self._opened = self._at(source)
            try:
                return await self._opened.__aenter__()
            except Redirected as redirected:
                source = _joined(source, redirected.location)
            except AddressRefused:
                raise Forbidden("its origin is at an address that is not allowed") from None
        raise OriginError("it is redirected too often")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._opened.__aexit__(kind, error, traceback)


def socket_factory(
    policy: Policy, made: WeakSet[socket.socket], *, only_global: bool
) -> Callable[[AddrInfoType], socket.socket]:
    """Makes sockets for allowed addresses only; it sees each address that is connected to.

    They are put into `made`, closed or not, as long as somebody has them.
    """
    # A literal that `allow` holds is a way for itself, not for whatever a wildcard resolves to.
    literals = frozenset() if only_global else policy.literals

    def make(info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        host = str(address[0])
        if not may_connect(host, only_global=only_global, literals=literals):
            # Equal errors for all addresses of a host, so that they arrive as this one.
            raise AddressRefused(errno.EACCES, "address not allowed")
        new = socket.socket(family, kind, protocol)
        made.add(new)
        return new

    return make


def _joined(source: Source, location: str) -> str:
    assert isinstance(source, str)
    try:
        joined = urljoin(source, location).partition("#")[0]
    except ValueError:
        raise OriginError("it is redirected to something that is not a URL") from None
    if not _AUTHORITY.match(joined):
        # Least of all to a file of this machine: only a catalog may name those.
        raise Forbidden("it is redirected to something that is not plain HTTP")
    # Once it has left the origin that a catalog named, it comes back as a stranger too.
    left = isinstance(source, Elsewhere) or origin_of(joined) != origin_of(source)
    return Elsewhere(joined) if left else joined


def _rule(entry: str) -> Rule:
    parts = urlsplit(entry)
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment:
            raise ValueError(f"{entry!r} must look like 'file:///srv/data'")
        path = unquote(parts.path, errors="surrogateescape")
        return Rule("file", "", None, wildcard=False, path=path)
    expected = f"{entry!r} must look like 'https://files.example.com' or 'https://*.example.com'"
    if parts.scheme not in _DEFAULT_PORTS or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(expected)
    wildcard = parts.netloc.startswith("*.")
    match = _AUTHORITY.match(f"{parts.scheme}://{parts.netloc.removeprefix('*.')}")
    if not match:
        raise ValueError(expected)
    url = URL(f"{parts.scheme}://{match[2]}/")
    host = (url.raw_host or "").lower()
    if not host or (wildcard and _literal(host) is not None):
        raise ValueError(expected)
    return Rule(parts.scheme, host, url.port, wildcard=wildcard, path="")


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
