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
from tarstream.splice import LARGE, PIPE, TAIL, Pipe, Splice
from tarstream.stores.base import Body, ObjectMeta, Sink

CHUNK = 256 * 1024
"""Bytes read at once: large enough that the thread it is read in does not matter."""

_MISSING = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENXIO,  # a socket, or a device that is not there
    errno.ENODEV,
}

# A directory on the way need not be readable, only searchable; O_RDONLY is 0.
_THROUGH = getattr(os, "O_PATH", os.O_RDONLY)


class FileStore:
    """Files below `roots`, never outside of them.

    `sendfile` lets the kernel send the pages of large ones, for files that nobody writes to in
    place: what is written before a client has taken them would arrive in their stead.
    """

    def __init__(self, roots: Sequence[str], *, sendfile: bool = False) -> None:
        self._roots = tuple(roots)
        self._sendfile = sendfile

    async def head(self, source: Source) -> ObjectMeta:
        """Size, modification time, and an entity-tag made of both."""
        return await asyncio.to_thread(self._stat, file_path(source))

    @asynccontextmanager
    async def open(
        self, source: Source, start: int, stop: int, size: int, validator: str | None
    ) -> AsyncIterator[Body]:
        """Open the file and see that it is the one that was planned."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._open, file_path(source)))
        try:
            await asyncio.wait((opening,))  # is not cancelled with who waits
        except asyncio.CancelledError:
            # A thread cannot be cancelled: what it opens is closed when it is done.
            opening.add_done_callback(_close_opened)
            raise
        fd, found = opening.result()
        try:
            if found.size != size or validator not in {None, found.validator}:
                raise ObjectChanged("it is no longer the file that was planned")
            yield _FileBody(fd, start, stop, found, sendfile=self._sendfile)
        finally:
            os.close(fd)

    # What follows runs in threads: a mounted file system may take its time for each call.

    def _stat(self, path: str) -> ObjectMeta:
        fd, found = self._open(path)
        os.close(fd)
        return found

    def _open(self, path: str) -> tuple[int, ObjectMeta]:
        """A descriptor for reading, and what it is of; raises in words for clients."""
        try:
            resolved = os.path.realpath(path, strict=True)
            # Resolved each time: a directory may be a link that is switched to the next release.
            roots = (os.path.realpath(root) for root in self._roots)
            root = next((r for r in roots if resolved.startswith(r.rstrip("/") + "/")), None)
            if root is None:
                raise Forbidden("a file outside the directories that [upstream] allow lists")
            fd = _open_beneath(root, resolved)
        except ValueError:
            raise ObjectMissing("its path cannot be a file's") from None
        except OSError as error:
            raise _translate(error) from error
        try:
            status = os.fstat(fd)
        except OSError as error:
            os.close(fd)
            raise _translate(error) from error
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise ObjectMissing("it is not a regular file")
        return fd, _meta(status)


class _FileBody:
    def __init__(
        self, fd: int, start: int, stop: int, opened: ObjectMeta, *, sendfile: bool
    ) -> None:
        self._fd = fd
        self._offset = start
        self._stop = stop
        self._opened = opened
        self._sendfile = sendfile

    async def ready(self) -> None:
        """Opened is ready."""

    async def copy_to(self, sink: Sink) -> None:
        large = self._stop - self._offset >= LARGE
        splice = sink.splice() if self._sendfile and large else None
        if splice is not None:
            await self._send(sink, splice)
        while self._offset < self._stop:
            await sink.flush()
            wanted = min(CHUNK, self._stop - self._offset)
            chunk = await asyncio.to_thread(self._read, wanted)
            self._offset += len(chunk)
            await sink.write(chunk)

    async def _send(self, sink: Sink, splice: Splice) -> None:
        """Have the kernel send pages, as far as it does; the last ones are to be read."""
        try:
            between = Pipe()
        except OSError:  # there are too many of them
            return
        filling: asyncio.Future[int] | None = None
        try:
            while self._offset < self._stop - TAIL:
                await sink.flush()
                filling = asyncio.ensure_future(asyncio.to_thread(self._fill, between))
                await asyncio.wait((filling,))  # is not cancelled with who waits
                came = filling.result()
                if not came:
                    return  # to read says why
                self._offset += came
                await splice(between)
        finally:
            # A thread cannot be cancelled, and what it fills must not become somebody else's.
            if filling is None:
                between.close()
            else:
                filling.add_done_callback(lambda _: between.close())

    def _fill(self, between: Pipe) -> int:
        """Put what follows into a pipe; how many bytes, 0 where that cannot be."""
        try:
            most = min(PIPE, self._stop - TAIL - self._offset)
            came = between.fill(self._fd, most, self._offset)
            unchanged = _meta(os.fstat(self._fd)) == self._opened
        except OSError:
            return 0
        return came if unchanged else 0

    def _read(self, wanted: int) -> bytes:
        try:
            chunk = os.pread(self._fd, wanted, self._offset)
            # Asked before each chunk is passed on: what was read may be of another version.
            found = _meta(os.fstat(self._fd))
        except OSError as error:
            raise _translate(error) from error
        if found != self._opened or not chunk:
            raise ObjectChanged("it changes while it is read")
        return chunk


def file_path(source: Source) -> str:
    """The path of a `file:///` URL, decoded segment by segment; bytes that are not UTF-8 too.

    Raises Forbidden for one that leaves its directory.
    """
    assert isinstance(source, str)
    escaped = source.removeprefix("file://").split("/")
    segments = [unquote(segment, errors="surrogateescape") for segment in escaped]
    if any(segment in {".", ".."} or "/" in segment for segment in segments):
        raise Forbidden("a path that leaves its directory")
    return "/".join(segments)


def _open_beneath(root: str, resolved: str) -> int:
    """Open a path that holds no link, without following any that was put there since."""
    fd = os.open(root, os.O_DIRECTORY | os.O_CLOEXEC | _THROUGH)
    names = Path(resolved).relative_to(root).parts
    for depth, name in enumerate(names, 1):
        kind = os.O_NONBLOCK if depth == len(names) else os.O_DIRECTORY | _THROUGH
        try:
            inner = os.open(name, os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _close_opened(opening: asyncio.Task[tuple[int, ObjectMeta]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result()[0])


def _meta(status: os.stat_result) -> ObjectMeta:
    tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
    return ObjectMeta(status.st_size, max(int(status.st_mtime), 0), tag)


def _translate(error: OSError) -> OriginError:
    if error.errno in _MISSING:
        return ObjectMissing(f"it cannot be opened: {os.strerror(error.errno or 0).lower()}")
    reason = os.strerror(error.errno or errno.EIO).lower()
    return OriginBroken(f"it cannot be read: {reason}", kind="read")
