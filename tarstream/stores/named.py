"""Sources that a program names itself: its URLs, its files, its bytes, and what it opens.

Whoever writes a program may connect to what it names. Where that redirects to was named by
somebody else.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from tarstream.errors import Forbidden
from tarstream.layout import Opener, Source
from tarstream.stores.base import Body, ObjectMeta, Store, origin_of
from tarstream.stores.file import FileStore
from tarstream.stores.guard import Guarded, Policy, Rule
from tarstream.stores.literal import LiteralStore
from tarstream.stores.opener import OpenerStore

_PUBLIC = {scheme: Rule(scheme, "", None, wildcard=True, path="") for scheme in ("http", "https")}


class NamedPolicy(Policy):
    """Origins that were named, and the public addresses of all others, for redirects.

    No literal opens a way to link-local addresses. Raises ValueError for what is no origin.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        super().__init__(sorted({origin_of(url) for url in urls}))
        self.literals = frozenset()

    def rule(self, source: str) -> Rule:
        """The rule for a source; raises Forbidden for one that is not plain HTTP."""
        try:
            return super().rule(source)
        except Forbidden:
            origin = origin_of(source)
            try:
                scheme = Policy([origin]).rule(source).scheme
            except ValueError:
                scheme = ""
            if scheme not in _PUBLIC:
                raise
            return _PUBLIC[scheme]


class NamedStore(Guarded):
    """Sends each source to the store of its kind; `own` are stores of other schemes."""

    def __init__(
        self,
        policy: Policy,
        stores: Mapping[tuple[str, bool], Store],
        own: Mapping[str, Store],
    ) -> None:
        super().__init__(policy, stores, LiteralStore())
        self._own = own
        self._paths = PathStore()
        self._openers = OpenerStore()

    def check(self, source: Source) -> None:
        """Raise Forbidden for a source that may not be read."""
        if scheme_of(source) not in self._own:
            super().check(source)

    def _store(self, source: Source) -> Store:
        if isinstance(source, Path):
            return self._paths
        if isinstance(source, Opener):
            return self._openers
        return self._own.get(scheme_of(source)) or super()._store(source)


class PathStore:
    """Files of this machine, wherever links lead: whoever names a path means it."""

    def __init__(self) -> None:
        self._files = FileStore(["/"])

    async def head(self, source: Source) -> ObjectMeta:
        """As of a `file:///` URL."""
        return await self._files.head(_url(source))

    def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AbstractAsyncContextManager[Body]:
        """As of a `file:///` URL."""
        return self._files.open(_url(source), start, stop, size, validator)


def scheme_of(source: Source) -> str:
    """The scheme of a URL in lower case; "" for what is no URL."""
    return source.partition(":")[0].lower() if isinstance(source, str) else ""


def _url(source: Source) -> str:
    assert isinstance(source, Path)
    # What `..` leads to depends on links.
    return (source.resolve() if ".." in source.parts else source.absolute()).as_uri()
