"""Objects of origins: a class is a store, a line in `STORES` makes its scheme known."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from socket import socket
from weakref import WeakSet

from tarstream.observer import Observer
from tarstream.stores.base import Store
from tarstream.stores.credentials import Credentials
from tarstream.stores.file import FileStore
from tarstream.stores.guard import Guarded, Policy, socket_factory
from tarstream.stores.http import HttpStore, session
from tarstream.stores.limit import Limited, Slots
from tarstream.stores.literal import LiteralStore
from tarstream.stores.retry import Pace, Retrying


@dataclass(frozen=True, slots=True)
class Upstream:
    """What stores need to know: seconds, counts, bytes; see `[upstream]`."""

    policy: Policy
    connect_timeout: float
    read_timeout: float
    patience: float
    attempts: int
    min_rate: float = 0
    credentials: Credentials = field(default_factory=Credentials)
    observer: Observer = field(default_factory=Observer)
    sockets: WeakSet[socket] = field(default_factory=WeakSet)
    """Those to origins, of which some may be closed."""
    sendfile: bool = False


def _http(upstream: Upstream, stack: AsyncExitStack, *, wildcard: bool) -> Store:
    factory = socket_factory(upstream.policy, upstream.sockets, only_global=wildcard)
    # A single wait must not outlast the patience for all of them.
    read_timeout = min(upstream.read_timeout, upstream.patience)
    http = session(upstream.connect_timeout, read_timeout, factory)
    stack.push_async_callback(http.close)
    return HttpStore(http, upstream.credentials, upstream.observer)


def _file(upstream: Upstream, stack: AsyncExitStack, *, wildcard: bool) -> Store:  # noqa: ARG001
    roots = [rule.path for rule in upstream.policy.rules if rule.scheme == "file"]
    return FileStore(roots, sendfile=upstream.sendfile)


STORES: Mapping[str, Callable[..., Store]] = {"http": _http, "https": _http, "file": _file}
"""By the scheme of a source: makes a store for origins that `allow` names, or for wildcards."""


def open_stores(upstream: Upstream, slots: Slots, stack: AsyncExitStack) -> tuple[Guarded, Store]:
    """The guard, and the store that everybody uses: guarded, repairing, limited.

    What they hold open is closed with `stack`.
    """
    kinds = {(rule.scheme, rule.wildcard) for rule in upstream.policy.rules}
    stores = {
        (scheme, wildcard): STORES[scheme](upstream, stack, wildcard=wildcard)
        for scheme, wildcard in sorted(kinds)
    }
    guarded = Guarded(upstream.policy, stores, LiteralStore())
    retrying = Retrying(
        guarded,
        attempts=upstream.attempts,
        patience=upstream.patience,
        pace=Pace(upstream.min_rate, upstream.read_timeout),
    )
    # Outside, so that a wait for our own connections does not use up patience with an origin.
    return guarded, Limited(retrying, slots)
