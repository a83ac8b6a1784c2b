"""A file that may change while we run: when a new version of it can be read, and what it says."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

POLL = 2.0
"""Seconds between two looks at a file: works on every file system, mounted ones included."""

SETTLE = 10
"""Looks, at most, that a file which changes from one to the next is waited for."""


T = TypeVar("T")


class Unusable(Exception):
    """What a file says cannot be used; the message says where and why, for operators."""


class WatchedFile:
    """The file at a path, as it is when this is made: to be made before it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = _version(path)

    async def changed(self) -> None:
        """Wait until there is another version than the last one, and until that was written."""
        # Who writes in place empties the file first, and half of it may be a good one.
        seen, looks = self._version, 0
        while True:
            await asyncio.sleep(POLL)
            version = await asyncio.to_thread(_version, self._path)
            if version == self._version:
                looks = 0
            elif version != seen and looks < SETTLE:
                seen, looks = version, looks + 1
            else:
                self._version = version
                return


def _version(path: Path) -> tuple[int, ...] | None:
    """What changes when the file does; None while it is not there."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # a path that holds NUL
        return None
    # Some tools set st_mtime to what it was; nobody can set st_ctime.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


class Reloaded(Generic[T]):
    """What a file says. Of a version that cannot be used nothing is taken: the last one stays.

    `load` turns its bytes into a value, and raises ValueError: what follows the path in the
    message. At first Unusable is raised. `what` stands in the log, and nothing that is read does.
    """

    def __init__(self, path: str, load: Callable[[bytes], T], what: str) -> None:
        self._path = path
        self._parse = load
        self._what = what
        # Looked at before it is read, so that no change is missed.
        self._file = WatchedFile(Path(path))
        self.value = self._load()

    async def watch(self) -> None:
        """Take over new versions until cancelled."""
        while True:
            await self._file.changed()
            try:
                self.value = await asyncio.to_thread(self._load)
            except Unusable as error:
                logger.error("%s rejected, the previous ones stay in force: %s", self._what, error)
            else:
                logger.info("%s loaded, of %s", self._what, self._path)

    def _load(self) -> T:
        try:
            return self._parse(Path(self._path).read_bytes())
        except OSError as error:
            reason = (error.strerror or "cannot be read").lower()
            raise Unusable(f"{self._path}: {reason}") from None
        except ValueError as error:
            if "\0" in self._path:
                raise Unusable(f"{self._path!r}: is not a path") from None
            raise Unusable(f"{self._path}:{error}") from None
