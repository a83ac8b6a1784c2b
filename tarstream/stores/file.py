"""Files below configured directories, for origins that are mounted rather than served.

A source is a `file:///` URL. Symbolic links work as long as they stay inside the directory.
"""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

from tarstream.errors import Forbidden, ObjectChanged, ObjectMissing, OriginBroken, OriginError
from tarstream.layout import Source
from tarstream.stores.base import Body, ObjectMeta, Sink

CHUNK = 256 * 1024
"""Bytes read at once: large enough that the thread it is read in does not matter."""

_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}


class FileStore:
    """Files below `roots`, never outside of them."""

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = tuple(os.path.realpath(root) for root in roots)

    async def head(self, source: Source) -> ObjectMeta:
        """Size, modification time, and an entity-tag made of both."""
        fd = await asyncio.to_thread(self._open, _path(source))
        try:
            return _meta(os.fstat(fd))
        finally:
            os.close(fd)

    @asynccontextmanager
    async def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AsyncIterator[Body]:
        """Open the file and see that it is the one that was planned."""
        fd = await asyncio.to_thread(self._open, _path(source))
        try:
            planned = ObjectMeta(size, None, validator)
            _check(fd, planned)
            yield _FileBody(fd, start, stop, planned)
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        """A descriptor for reading; raises in words for clients. Runs in a thread."""
        try:
            resolved = os.path.realpath(path, strict=True)
            root = next((r for r in self._roots if resolved.startswith(r.rstrip("/") + "/")), None)
            if root is None:
                raise Forbidden("a file outside the directories that [upstream] allow lists")
            fd = _open_beneath(root, resolved)
        except ValueError:
            raise ObjectMissing("its path cannot be a file's") from None
        except OSError as error:
            raise _translate(error) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ObjectMissing("it is not a regular file")
        return fd


class _FileBody:
    def __init__(self, fd: int, start: int, stop: int, planned: ObjectMeta) -> None:
        self._fd = fd
        self._offset = start
        self._stop = stop
        self._planned = planned

    async def ready(self) -> None:
        """Opened is ready."""

    async def copy_to(self, sink: Sink) -> None:
        while self._offset < self._stop:
            await sink.flush()
            wanted = min(CHUNK, self._stop - self._offset)
            try:
                chunk = await asyncio.to_thread(os.pread, self._fd, wanted, self._offset)
            except OSError as error:
                raise _translate(error) from error
            # Asked before each chunk is passed on: what was read may be of another version.
            _check(self._fd, self._planned)
            if not chunk:
                raise ObjectChanged("it ends early")
            self._offset += len(chunk)
            await sink.write(chunk)


def _path(source: Source) -> str:
    """The path of a `file:///` URL, decoded segment by segment."""
    assert isinstance(source, str)  # noqa: S101 - the guard sends URLs here
    segments = [unquote(segment) for segment in source.removeprefix("file://").split("/")]
    if any(segment in {".", ".."} or "/" in segment for segment in segments):
        raise Forbidden("a path that leaves its directory")
    return "/".join(segments)


def _open_beneath(root: str, resolved: str) -> int:
    """Open a path that holds no link, without following any that was put there since."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    names = Path(resolved).relative_to(root).parts
    for depth, name in enumerate(names, 1):
        kind = os.O_NONBLOCK if depth == len(names) else os.O_DIRECTORY
        try:
            inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _meta(status: os.stat_result) -> ObjectMeta:
    tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
    return ObjectMeta(status.st_size, max(int(status.st_mtime), 0), tag)


def _check(fd: int, planned: ObjectMeta) -> None:
    found = _meta(os.fstat(fd))
    if found.size != planned.size or planned.validator not in {None, found.validator}:
        raise ObjectChanged("it is no longer the file that was planned")


def _translate(error: OSError) -> OriginError:
    if error.errno in _MISSING:
        return ObjectMissing(f"it cannot be opened: {os.strerror(error.errno or 0).lower()}")
    return OriginBroken(f"it cannot be read: {os.strerror(error.errno or errno.EIO).lower()}")
