"""Slices of an archive on their way to one client: in order, the next members opened early.

What has been passed on never ends at a boundary between two members, where a cut archive would
look complete to tar: the last chunk of a member leaves together with its padding and the header
that follows.
"""

import asyncio
import hashlib
import itertools
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, Protocol

from tarstream.errors import ObjectChanged, TarstreamError
from tarstream.layout import Content, Member
from tarstream.stores.base import Body, Store
from tarstream.stores.limit import Slots

GATHER = 64 * 1024
"""Bytes that are gathered before they are written."""

MOST_GATHERED = 1024 * 1024
"""Bytes at which headers alone are written: those of a run of empty members."""

LOOK = 64 * 1024
"""Bytes between two looks at whether another member may be opened ahead."""

BREATH = 64
"""Pieces between two chances for other downloads to run: empty members wait for nobody."""

Write = Callable[[bytes], Awaitable[None]]


class Reach(NamedTuple):
    """How far ahead members are opened."""

    members: int
    distance: int
    """Bytes from what is being sent to where a member's contents begin."""


class MemberFailed(Exception):
    """A member that was given up; nothing that follows it can be sent."""

    def __init__(self, member: Member, cause: TarstreamError) -> None:
        super().__init__(cause.detail)
        self.member = member
        self.cause = cause


class Transfer:
    """Moves pieces of a layout to a client. It is the sink that bodies move themselves into."""

    def __init__(
        self, pieces: Iterator[bytes | Content], store: Store, slots: Slots, reach: Reach
    ) -> None:
        self.position = 0
        self.repairs = 0
        self._pieces = pieces
        self._store = store
        self._slots = slots
        self._reach = reach
        self._queue: deque[bytes | _Opening] = deque()
        self._pulled = 0  # position at which the next piece to be pulled begins
        self._next: _Opening | None = None  # pulled, but not within reach when last looked at
        self._look_at = 0
        self._ahead: dict[_Opening, int] = {}  # what slots gave for members opened ahead
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._owed_until = -1  # position at which the contents being sent end
        self._digests: list[_Digest] = []

    async def run(self, begin: Callable[[], Awaitable[Write]]) -> None:
        """Open the first member that is needed, then call `begin`, then move everything.

        Raises MemberFailed, or what `begin` or writing raises. When it raises after `begin`,
        `abort` says what of that may still be written.
        """
        try:
            async with asyncio.TaskGroup() as self._group:
                await self._ready()
                self._write = await begin()
                for number in itertools.count():
                    piece = self._pull()
                    if piece is None:
                        break
                    if isinstance(piece, bytes):
                        # Gathered with the contents that follow, however much is held already:
                        # padding must not leave without the next header.
                        self._take(piece)
                        run = self.position - self._owed_until
                        if min(run, self._gathered_size) >= MOST_GATHERED:
                            await self.flush()
                    else:
                        await self._move(piece)
                    if number % BREATH == 0:
                        await asyncio.sleep(0)
                await self._pass_on()
        except* Exception as group:  # noqa: BLE001 - passed on, as itself
            raise _first(group) from None
        finally:
            # Not by the tasks: one that is cancelled before it ran has no chance to.
            for opening in list(self._ahead):
                self._its_turn(opening)

    def abort(self) -> bytes:
        """What is gathered and may still be written, so that the cut is inside contents."""
        gathered = b"".join(self._gathered)
        self._gathered.clear()
        self._gathered_size = 0
        # Where nothing is owed, the last bytes of the member before are still here: nothing parts
        # with them but the contents that follow.
        surplus = self.position - self._owed_until
        return gathered if surplus < 0 else gathered[: max(len(gathered) - surplus - 1, 0)]

    async def write(self, chunk: bytes) -> None:
        """Take a chunk of the contents being sent."""
        for digest in self._digests:
            digest.update(chunk)
        self._take(chunk)
        if self._gathered_size >= GATHER:
            await self.flush()

    async def flush(self) -> None:
        """Write what is gathered, unless it ends at a boundary."""
        if self._gathered and self.position != self._owed_until:
            await self._pass_on()

    def repaired(self, cause: Exception) -> None:
        """Count."""
        self.repairs += 1

    def _take(self, chunk: bytes) -> None:
        self.position += len(chunk)
        self._gathered.append(chunk)
        self._gathered_size += len(chunk)
        if self.position >= self._look_at:
            self._look_ahead()

    async def _pass_on(self) -> None:
        gathered = self._gathered
        data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        gathered.clear()
        self._gathered_size = 0
        if data:
            await self._write(data)

    async def _ready(self) -> None:
        """Open the first member that is needed, so that a dead origin is an honest answer."""
        for piece in self._pieces:
            self._append(piece)
            opening = self._queue[-1]
            if isinstance(opening, _Opening):
                self._next = None
                self._start(opening)
                with opening.blamed():
                    await (await opening.body).ready()
                return

    def _pull(self) -> "bytes | _Opening | None":
        self._look_ahead()
        if not self._queue:
            pulled = next(self._pieces, None)
            if pulled is None:
                return None
            self._append(pulled)
        piece = self._queue.popleft()
        if piece is self._next:
            self._next = None
        return piece

    def _append(self, piece: bytes | Content) -> None:
        if isinstance(piece, bytes):
            self._queue.append(piece)
            self._pulled += len(piece)
        else:
            self._next = _Opening(piece, self._pulled)
            self._queue.append(self._next)
            self._pulled += piece.stop - piece.start

    def _look_ahead(self) -> None:
        """Open members that begin within reach, as long as there is room for them."""
        horizon = self.position + self._reach.distance
        self._look_at = self.position + LOOK
        for _ in range(BREATH):
            if len(self._ahead) >= self._reach.members:
                return
            if self._next is None:
                piece = next(self._pieces, None) if self._pulled < horizon else None
                if piece is None:
                    return
                self._append(piece)
                continue
            content = self._next.content
            if self._next.begins >= horizon:
                return
            cost = self._slots.take_ahead(content.member.source, content.stop - content.start)
            if cost is None:
                return
            self._ahead[self._next] = cost
            self._start(self._next)
            self._next = None

    def _start(self, opening: "_Opening") -> None:
        opening.started = True
        self._group.create_task(self._hold(opening))

    async def _hold(self, opening: "_Opening") -> None:
        """Hold a member open from before its turn until it has been sent."""
        content = opening.content
        member = content.member
        try:
            async with self._store.open(
                member.source, content.start, content.stop, member.size, member.validator
            ) as body:
                opening.body.set_result(body)
                await opening.sent.wait()
        except TarstreamError as error:
            if opening.body.done():
                raise
            opening.body.set_exception(error)

    def _its_turn(self, opening: "_Opening") -> None:
        """It is no longer ahead: what slow clients are being sent must not hold up others."""
        cost = self._ahead.pop(opening, None)
        if cost is not None:
            self._slots.give_ahead(opening.content.member.source, cost)

    async def _move(self, opening: "_Opening") -> None:
        """Move the contents of a member, whose header has been taken."""
        content = opening.content
        if opening.started:
            self._its_turn(opening)
        else:
            self._start(opening)
        begins = self.position
        self._owed_until = begins + content.stop - content.start
        if (content.start, content.stop) == (0, content.member.size):
            self._digests = [_Digest(*stated) for stated in content.member.digests]
        with opening.blamed():
            if self._gathered_size >= GATHER or not opening.body.done():
                await self.flush()
            await (await opening.body).copy_to(self)
            if self.position != self._owed_until:
                raise ObjectChanged(f"it gave {self.position - begins} bytes")
            for digest in self._digests:
                digest.verify()
        self._digests = []
        opening.sent.set()


class _Opening:
    """A member's contents, from being within reach until they are sent."""

    def __init__(self, content: Content, begins: int) -> None:
        self.content = content
        self.begins = begins
        self.started = False
        self.body: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        # Its failure is for its turn, which may never come.
        self.body.add_done_callback(lambda body: body.cancelled() or body.exception())
        self.sent = asyncio.Event()

    def blamed(self) -> "_Blame":
        return _Blame(self.content.member)


class _Blame:
    """Says whose failure it is."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, TarstreamError):
            raise MemberFailed(self._member, error) from error


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


_HASHES: dict[str, Callable[[], _Hash]] = {"sha256": hashlib.sha256, "crc32": _Crc32}


class _Digest:
    """A digest that the contents must have."""

    def __init__(self, algorithm: str, stated: str) -> None:
        self._algorithm = algorithm
        self._stated = stated
        self._hash = _HASHES[algorithm]()
        self.update = self._hash.update

    def verify(self) -> None:
        if self._hash.hexdigest() != self._stated:
            raise ObjectChanged(f"it does not have the {self._algorithm} that the catalog states")


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
