"""Slices of an archive on their way to one client: in order, the next members opened early.

What has been passed on never ends at a boundary between two members, where a cut archive would
look complete to tar: the last chunk of a member leaves together with its padding and the header
that follows.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import NamedTuple

from tarstream.checksums import ListingBody
from tarstream.digests import Digest, Digests, Unsent
from tarstream.errors import ObjectChanged, OriginBroken, TarstreamError
from tarstream.layout import Content, Late, Listing, Member, Piece
from tarstream.observer import Observer
from tarstream.portion import Portion
from tarstream.splice import Pipe, Splice
from tarstream.stores.base import Body, Store
from tarstream.stores.limit import Ahead, Slots
from tarstream.width import Width

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
    """At most; see `Width`."""
    distance: int
    """Bytes from what is being sent to where a member's contents begin."""


class Supply(NamedTuple):
    """Where contents come from, and who is told: the same for all transfers of a process."""

    store: Store
    """Entering what it opens waits for nobody, and cannot fail: as that of `Retrying`."""
    slots: Slots
    reach: Reach
    observer: Observer
    zero_copy: bool = True
    """Whether the kernel may move contents by itself."""


class MemberFailed(Exception):
    """A member that was given up; nothing that follows it can be sent."""

    def __init__(self, member: Member, cause: TarstreamError) -> None:
        super().__init__(cause.detail)
        self.member = member
        self.cause = cause


class Transfer:
    """Moves pieces of a layout to a client. It is the sink that bodies move themselves into."""

    def __init__(self, pieces: Iterator[Piece], digests: Digests, supply: Supply) -> None:
        self.position = 0
        self.portion = Portion()
        self.repairs = 0
        self.client_splice: Callable[[], Splice | None] = lambda: None
        """As `Sink.splice`; to be set by `begin`."""
        self._pieces = pieces
        self._store = supply.store
        self._slots = supply.slots
        self._reach = supply.reach
        self._width = Width(supply.reach.members)
        self._observer = supply.observer
        self._zero_copy = supply.zero_copy
        self._queue: deque[bytes | Late | _Opening] = deque()
        self._pulled = 0  # position at which the next piece to be pulled begins
        self._next: _Opening | None = None  # pulled, but not within reach when last looked at
        self._look_at = 0
        # Opened before their turn, with what slots gave for that; the first needs none.
        self._ahead: dict[_Opening, Ahead | None] = {}
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._owed_until = -1  # position at which the contents being sent end
        self._known = digests
        self._digests: list[Digest] = []

    async def run(self, begin: Callable[[], Awaitable[Write]]) -> None:
        """Open the first member that is needed, then call `begin`, then move everything.

        Raises MemberFailed, or what `begin` or writing raises. When it raises after `begin`,
        `abort` says what of that may still be written.
        """
        try:
            await self._read_unsent()
            await self._ready()
            self._write = await begin()
            for number in itertools.count():
                piece = await self._pull()
                if piece is None:
                    break
                if isinstance(piece, Late):
                    piece = self._known.render(piece)
                if isinstance(piece, bytes):
                    # Gathered with the contents that follow, however much is held already:
                    # padding must not leave without the next header.
                    self._take(piece)
                    run = self.position - self._owed_until
                    if min(run, self._gathered_size) >= MOST_GATHERED:
                        await self._flush()
                else:
                    await self._move(piece)
                if number % BREATH == 0:
                    await asyncio.sleep(0)
            await self._pass_on()
        finally:
            async with AsyncExitStack() as stack:
                for opening in list(self._ahead):
                    self._its_turn(opening)
                    stack.push_async_exit(opening.context)

    def abort(self) -> bytes:
        """What is gathered and may still be written, so that the cut is inside contents."""
        gathered = b"".join(self._gathered)
        self._gathered.clear()
        self._gathered_size = 0
        # Where nothing is owed, the last bytes of the member before are still here: nothing parts
        # with them but the contents that follow.
        surplus = self.position - self._owed_until
        return gathered if surplus < 0 else gathered[: max(len(gathered) - surplus - 1, 0)]

    def splice(self) -> Splice | None:
        """Takes contents in a pipe, where the client can and no digest has to see them."""
        client = self.client_splice() if self._zero_copy and not self._digests else None
        if client is None:
            return None

        async def take(pipe: Pipe) -> None:
            held = pipe.held
            if self.position + held >= self._owed_until:
                raise RuntimeError("the end of a member would leave without what follows it")
            await self._flush()
            try:
                await client(pipe)
            finally:
                spliced = held - pipe.held
                self._observer.sent(spliced)
                self._observer.spliced(spliced)
                self.position += spliced
            if self.position >= self._look_at:
                await self._look_ahead()

        return take

    async def write(self, chunk: bytes) -> None:
        """Take a chunk of the contents being sent."""
        for digest in self._digests:
            digest.update(chunk)
        self._take(chunk)
        if self.position >= self._look_at:
            await self._look_ahead()
        if self._gathered_size >= GATHER:
            await self._flush()

    async def flush(self) -> None:
        """Write what is gathered, for an origin is waited for; and have others get ready."""
        if self._width.waited():
            await self._look_ahead()
        await self._flush()

    async def _flush(self) -> None:
        """Write what is gathered, unless it ends at a boundary."""
        if self._gathered and self.position != self._owed_until:
            await self._pass_on()

    def repaired(self, cause: OriginBroken) -> None:
        """Count."""
        self.repairs += 1
        self._observer.repaired(cause)

    def _take(self, chunk: bytes) -> None:
        self._gathered.append(chunk)
        self._gathered_size += len(chunk)
        self.position += len(chunk)

    async def _pass_on(self) -> None:
        gathered = self._gathered
        data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        gathered.clear()
        self._gathered_size = 0
        if data:
            await self._write(data)
            self._observer.sent(len(data))

    async def _ready(self) -> None:
        """Open the first member that is needed, so that a dead origin is an honest answer."""
        for piece in self._pieces:
            self._append(piece)
            opening = self._queue[-1]
            if isinstance(opening, _Opening):
                self._next = None
                body = await self._start(opening, None)
                with _Blame(opening.content.member):
                    await body.ready()
                return

    async def _read_unsent(self) -> None:
        """Read members that are not sent, for their digests; the next ones are opened meanwhile."""
        unread = {key._replace(algorithm=""): each for key, each in self._known.unread.items()}
        openings = [_Opening(Content(member, 0, member.size), 0) for member in unread.values()]
        for number, opening in enumerate(openings):
            body = opening.body or await self._start(opening, None)
            for following in openings[number + 1 : number + 1 + self._reach.members]:
                if following.body is None:
                    content = following.content
                    ahead = self._slots.take_ahead(content.member.source, content.stop, self)
                    if ahead is None:
                        break
                    await self._start(following, ahead)
            await self._read(opening, body)

    async def _read(self, opening: "_Opening", body: Body) -> None:
        """Read a member for its digests."""
        member = opening.content.member
        unsent = Unsent(self._known.wanted(member))
        self._its_turn(opening)
        with _Blame(member):
            try:
                await body.copy_to(unsent)
            finally:
                await opening.context.__aexit__(None, None, None)
            await self._known.learn(member, unsent.digests)

    def _open(self, content: Content) -> AbstractAsyncContextManager[Body]:
        member, start, stop = content
        if isinstance(member.source, Listing):
            return nullcontext(ListingBody(member.source, start, stop, self._known))
        return self._store.open(member.source, start, stop, member.size, member.validator)

    async def _pull(self) -> "bytes | Late | _Opening | None":
        if len(self._ahead) < self._width.members:
            await self._look_ahead()
        if not self._queue:
            pulled = next(self._pieces, None)
            if pulled is None:
                return None
            self._append(pulled)
        piece = self._queue.popleft()
        if piece is self._next:
            self._next = None
        return piece

    def _append(self, piece: Piece) -> None:
        if isinstance(piece, Content):
            self._next = _Opening(piece, self._pulled)
            self._queue.append(self._next)
        else:
            self._queue.append(piece)
        self._pulled += len(piece) if isinstance(piece, bytes) else piece.stop - piece.start

    async def _look_ahead(self) -> None:
        """Open members that begin within reach, as long as there is room for them."""
        horizon = self.position + self._reach.distance
        self._look_at = self.position + LOOK
        for _ in range(BREATH):
            if len(self._ahead) >= self._width.members:
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
            size = content.stop - content.start
            ahead = self._slots.take_ahead(content.member.source, size, self)
            if ahead is None:
                return
            await self._start(self._next, ahead)
            self._next = None

    async def _start(self, opening: "_Opening", ahead: Ahead | None) -> Body:
        """Begin to open a member, which waits for nobody: whether it works shows at its turn."""
        opening.context = self._open(opening.content)
        opening.body = await opening.context.__aenter__()
        self._ahead[opening] = ahead
        return opening.body

    def _its_turn(self, opening: "_Opening") -> None:
        """It is no longer ahead: what slow clients are being sent must not hold up others."""
        ahead = self._ahead.pop(opening)
        if ahead is not None:
            self._slots.give_ahead(ahead)

    async def _move(self, opening: "_Opening") -> None:
        """Move the contents of a member, whose header has been taken."""
        content = opening.content
        body = opening.body or await self._start(opening, None)
        self._its_turn(opening)
        begins = self.position
        self._owed_until = begins + content.stop - content.start
        if (content.start, content.stop) == (0, content.member.size):
            self._digests = self._known.wanted(content.member)
        with _Blame(content.member):
            try:
                await self._look_ahead()  # there is room for another one
                if self._gathered_size >= GATHER:
                    await self._flush()
                await body.copy_to(self)
            finally:
                await opening.context.__aexit__(None, None, None)
            if self.position != self._owed_until:
                raise ObjectChanged(f"it gave {self.position - begins} bytes")
            await self._known.learn(content.member, self._digests)
        self._digests = []
        self._width.sent()
        self._observer.member_sent()


class _Opening:
    """A member's contents, from being within reach until they are sent."""

    context: AbstractAsyncContextManager[Body]

    def __init__(self, content: Content, begins: int) -> None:
        self.content = content
        self.begins = begins
        self.body: Body | None = None
        """Being opened, or open."""


class _Blame:
    """Says whose failure it is."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, TarstreamError):
            raise MemberFailed(self._member, error) from error
