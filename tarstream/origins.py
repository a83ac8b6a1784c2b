"""Where the members of a program's archives may come from, and how they are read."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from math import inf
from time import monotonic
from typing import NamedTuple, Self

from tarstream.digests import DigestKey
from tarstream.memory import LocalMemory
from tarstream.observer import Observer
from tarstream.stores import STORES, Upstream
from tarstream.stores.base import Store
from tarstream.stores.credentials import Credentials, Value
from tarstream.stores.guard import Policy
from tarstream.stores.limit import Limited, Slots
from tarstream.stores.named import NamedPolicy, NamedStore, scheme_of
from tarstream.stores.retry import Pace, Retrying
from tarstream.transfer import Reach, Supply

_AHEAD_TOTAL = 64 * 1024 * 1024  # bytes that members opened ahead may hold, of all archives
_DIGESTS = 100_000  # remembered; about 30 MiB
_WEB = ("http", "https")


class Learnt(LocalMemory[DigestKey, str]):
    """Digests of objects that have URLs or paths, computed as they passed. Threads may share it."""

    def __init__(self) -> None:
        super().__init__(inf, limit=_DIGESTS, clock=monotonic)
        self._locks: dict[int, threading.Lock] = {}

    def __contains__(self, key: DigestKey) -> bool:
        return key in self._items

    async def put_many(self, items: Mapping[DigestKey, str]) -> None:
        """Remember."""
        # One of this process: whoever held that of another one, when it forked, is not here.
        with self._locks.setdefault(os.getpid(), threading.Lock()):  # nothing in it waits
            await super().put_many(items)


class _Opened(NamedTuple):
    loop: asyncio.AbstractEventLoop
    stores: Mapping[tuple[str, bool], Store]
    slots: Slots


class Origins:
    """What archives may read, and how; a program may have one for all of them.

    `allow` are the origins that may be read, as `https://files.example.com`,
    `https://*.example.com` or `file:///srv/data`. Without it every URL that a member names is
    connected to, private and loopback addresses too, but for link-local ones; where that redirects
    to must have been named as well, or be public.

    `credentials` are header fields by origin, which are sent to no other: a value, or a function
    that gives it for each request. Raises ValueError, which shows no value, for what cannot be.

    `stores` open the URLs of other schemes, or of these, each by its scheme; see `Store`.
    Times are seconds, sizes bytes; what they mean stands in docs/library.md.

    As an asynchronous context manager it keeps connections open from one archive to the next, for
    the event loop in which it was entered. Otherwise each transfer has connections of its own.
    """

    def __init__(  # noqa: PLR0913 - settings, each by its name
        self,
        allow: Sequence[str] | None = None,
        *,
        credentials: Mapping[str, Mapping[str, Value]] | None = None,
        stores: Mapping[str, Store] | None = None,
        connect_timeout: float = 5,
        read_timeout: float = 30,
        patience: float = 45,
        attempts: int = 5,
        min_rate: float = 0,
        connections: int = 100,
        ahead: int = 8,
        ahead_bytes: int = 4 * 1024 * 1024,
        plan_timeout: float = 60,
        reread_bytes: int = 256 * 1024 * 1024,
        observer: Observer | None = None,
    ) -> None:
        self.plan_timeout = plan_timeout
        self.reread_bytes = reread_bytes
        self.learnt = Learnt()
        self._policy = None if allow is None else Policy(allow)
        given = Credentials.given(credentials or {}, self._policy)
        self._own = {scheme.lower(): store for scheme, store in (stores or {}).items()}
        self._upstream: Callable[[Policy], Upstream] = lambda policy: Upstream(
            policy, connect_timeout, read_timeout, patience, attempts, min_rate, given
        )
        self._pace = Pace(min_rate, read_timeout)
        self._attempts = attempts
        self._patience = patience
        self._connections = connections
        self._reach = Reach(ahead, ahead_bytes)
        self._observer = observer or Observer()
        self._stack = AsyncExitStack()
        self._opened: _Opened | None = None

    def policy(self, named: Mapping[str, str]) -> Policy:
        """What may be read for an archive of these origins, each with a member that is there.

        Raises ValueError, which names the member, for what is no origin.
        """
        if self._policy is not None:
            return self._policy
        origins = [origin for origin in named if scheme_of(origin) not in self._own]
        for origin in origins:
            try:
                NamedPolicy([origin])
            except ValueError:  # which shows it, and it may hold a password
                raise ValueError(
                    f"source of {named[origin]!r} must be a URL of http or https, without a user, "
                    "or of a scheme that `stores` has"
                ) from None
        return NamedPolicy(origins)

    def guard(self, policy: Policy) -> NamedStore:
        """What tells whether a source may be read; it opens nothing."""
        return NamedStore(policy, {}, self._own)

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise RuntimeError("these origins are open already")
        self._opened = self._open(self._stack)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._opened = None
        await self._stack.aclose()

    @asynccontextmanager
    async def supply(self, policy: Policy) -> AsyncIterator[Supply]:
        """Stores for one archive, closed afterwards unless all origins are open."""
        async with AsyncExitStack() as stack:
            opened = self._opened
            if opened is None or opened.loop is not asyncio.get_running_loop():
                opened = self._open(stack)
            else:
                stack.enter_context(self._still(opened))
            named = NamedStore(policy, opened.stores, self._own)
            retrying = Retrying(
                named, attempts=self._attempts, patience=self._patience, pace=self._pace
            )
            limited = Limited(retrying, opened.slots)
            yield Supply(limited, opened.slots, self._reach, self._observer)

    @contextmanager
    def _still(self, opened: _Opened) -> Iterator[None]:
        """Raises ValueError for what fails because they were closed meanwhile."""
        try:
            yield
        except Exception as error:
            if self._opened is opened:
                raise
            raise ValueError("the origins were closed before the stream came to its end") from error

    def _open(self, stack: AsyncExitStack) -> _Opened:
        upstream = self._upstream(self._policy or Policy(()))
        kinds = [(scheme, wildcard) for scheme in _WEB for wildcard in (False, True)]
        stores = {
            (scheme, wildcard): STORES[scheme](upstream, stack, wildcard=wildcard)
            for scheme, wildcard in [*kinds, ("file", False)]
        }
        slots = Slots(self._connections, _AHEAD_TOTAL)
        return _Opened(asyncio.get_running_loop(), stores, slots)
