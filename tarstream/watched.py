"""A file that may change while we run, and when a new version of it can be read."""

import asyncio
from pathlib import Path

POLL = 2.0
"""Seconds between two looks at a file: works on every file system, mounted ones included."""

SETTLE = 10
"""Looks, at most, that a file which changes from one to the next is waited for."""


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
