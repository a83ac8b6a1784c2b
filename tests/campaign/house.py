"""What a campaign runs against: one origin, gateways as processes, nginx before them."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import subprocess
import sys
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from answer import Answer
from gateway import ROOT, Process, archive_path, write_catalog
from nginx import RECOMMENDED, STOCK, Nginx, held_port, nginx
from origin import Made, Object, Origin, Request

from campaign import knock, oracle
from campaign.canaries import (
    BEARER,
    CREDENTIALS,
    ENVIRONMENT,
    HEADERS,
    IN_A_LOG,
    QUERY,
    signed,
)
from campaign.cases import (
    ALL,
    CLEAN,
    DEFAULTS,
    DIRECT,
    DIRECTORY,
    FRESH,
    OURS,
    PATIENT,
    REMEMBERING,
    TEXT,
    THRIFTY,
    WARM,
    Case,
    path_of,
)

CONFIG = """
[server]
workers = {workers}
zero_copy = {zero_copy}
[catalog]
kind = "file"
path = "{catalog}"
[auth]
kind = "either"
[upstream]
allow = [{allow}]
connect_timeout = 2
read_timeout = {read_timeout}
min_rate = "1 KiB"
patience = {patience}
attempts = 4
remember = {remember}
[zip]
reread_bytes = {reread_bytes}
[[upstream.credentials]]
origin = "{origin}"
header = "X-Origin-Key"
env = "CAMPAIGN_CREDENTIAL"
[[upstream.credentials]]
origin = "{rude}"
header = "Authorization"
file = "{credential}"
"""

# An origin that answers within these seconds is never given up. The campaign's own answer within
# milliseconds, so that only a machine that is a hundred times too slow could change a verdict.
IMPATIENT = {"read_timeout": 2, "patience": 6, "remember": 0}
SETTINGS = {
    FRESH: IMPATIENT,
    REMEMBERING: IMPATIENT | {"remember": 10},
    # Whoever leaves it must be noticed: it waits for origins longer than the campaign does. It has
    # two workers.
    PATIENT: {"read_timeout": 20, "patience": 30, "remember": 0},
}


_SPLICED = re.compile(rb"^tarstream_spliced_bytes_total (\S+)", re.MULTILINE)

STARTS = 8  # times that a gateway is waited for, 15 seconds each
LANES = 2  # pairs of gateways for what befalls gateways


class CampaignOrigin(Origin):
    """An origin that remembers what each case asked, and forgets it with the case."""

    def __init__(self, header: str, credential: str) -> None:
        super().__init__(send_buffer=256 * 1024)
        self._header = header.lower()
        self._credential = credential
        self.guests: set[str] = set()  # cases that only a redirect of the other origin leads here
        self.wrong: set[str] = set()  # of what it was told
        self.seen: defaultdict[str, list[Request]] = defaultdict(list)
        self.busy: Counter[str] = Counter()  # answers under way, by case

    @contextmanager
    def answering(self, request: Request) -> Iterator[Answer]:
        """Count and record by case."""
        self._look_at(request)
        name = request.path.split("/")[1]
        self.busy[name] += 1
        try:
            with super().answering(request) as answer:
                self.seen[name].append(request)
                yield answer
        finally:
            self.busy[name] -= 1
            self.requests.clear()

    def _look_at(self, request: Request) -> None:
        """Whether it holds the secret of this origin, and no other; a guest's holds none."""
        fields = dict(request.headers)
        told = fields.pop(self._header, None)
        if request.path.split("/")[1] in self.guests:
            if told is not None:
                self.wrong.add(f"secret: a redirect was followed with a credential: {request}")
        elif told != self._credential:
            self.wrong.add(f"an origin was not told its credential: {request.method}")
        query = request.target.replace(QUERY, "")
        if IN_A_LOG.search(f"{query} {fields}"):
            self.wrong.add(f"secret: an origin was told one of somebody else: {request}")

    def forget(self, name: str) -> None:
        """Forget a case."""
        self.seen.pop(name, None)
        self.busy.pop(name, None)
        self.guests.discard(name)
        for path in [path for path in self.objects if path.split("/")[1] == name]:
            del self.objects[path]
        for fired in [fired for fired in self.fired if fired.startswith(name)]:
            del self.fired[fired]


class Gateway:
    """A gateway as a process on a port that it keeps when it is started again."""

    def __init__(self, directory: Path, config: str, port: int, guard: str | None) -> None:
        self._directory = directory
        self._config = config
        self._guard = guard
        self._starts = 0
        self.port = port
        self.process: Process
        self._log: Path
        self._popen: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.launch()
        self.listen()

    def launch(self) -> None:
        """Start it."""
        self._starts += 1
        path = self._directory / "config.toml"
        path.write_text(self._config)
        self._log = self._directory / f"{self._starts}.log"
        script = [str(ROOT / "server.py")]
        if self._guard is not None:
            script = [str(Path(__file__).parent / "sabotage.py"), self._guard]
        with self._log.open("wb") as output:
            self._popen = subprocess.Popen(
                [sys.executable, *script, "--config", path, "--port", str(self.port)],
                stdout=output,
                stderr=output,
                env={**os.environ, **ENVIRONMENT},
                cwd=self._directory,
            )

    def listen(self) -> None:
        """Wait until it listens."""
        for left in reversed(range(STARTS)):
            try:
                self.process = Process(self._popen, self._log)
                return
            except AssertionError:
                if not left or self._popen.poll() is not None:
                    raise

    def end(self) -> None:
        """End it, however it is."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()

    @property
    def log(self) -> str:
        """All that it has logged, in all its lives."""
        return "".join(
            path.read_text(errors="replace") for path in sorted(self._directory.glob("*.log"))
        )


class Lane:
    """Two gateways behind one nginx, for what befalls gateways; one case at a time."""

    def __init__(self, gateways: list[Gateway], proxy: Nginx) -> None:
        self.gateways = gateways
        self.proxy = proxy

    async def mend(self) -> None:
        """Start what has ended, and let it be forgotten: else nginx refuses once both have."""
        ended = [each for each in self.gateways if each.process.popen.poll() is not None]
        for gateway in ended:
            await asyncio.to_thread(gateway.start)
        if ended:
            await asyncio.to_thread(self.proxy.forget)


class House:
    """All that runs during a campaign."""

    def __init__(
        self, directory: Path, origin: CampaignOrigin, rude: CampaignOrigin, dead: int
    ) -> None:
        self.directory = directory
        self.origins = (origin, rude)
        self.dead = f"http://127.0.0.1:{dead}/"
        self.gateways: dict[str, Gateway] = {}
        self.proxies: dict[tuple[str, str], int] = {}
        self.lanes: list[Lane] = []
        self.spliced: Counter[str] = Counter()  # bytes that the kernel has moved, by gateway
        self._free: asyncio.Queue[Lane] = asyncio.Queue()

    def origin(self, case: Case) -> CampaignOrigin:
        """Where its members lie: those that spoil connections have an origin for themselves."""
        return self.origins[case.kind.rude]

    def abroad(self, case: Case) -> CampaignOrigin:
        """The other origin: a redirect may lead there, and no secret of the first."""
        return self.origins[not case.kind.rude]

    def path(self, case: Case, **parameters: str) -> str:
        """Path and query of a case's archive, signed where that is how its client is let in."""
        path = archive_path(case.ids, **case.form.parameters, **parameters)
        return signed(path) if _signs(case) else path

    def fields(self, case: Case) -> tuple[str, ...]:
        """Header lines by which its client is let in."""
        return () if _signs(case) else (BEARER,)

    def port(self, case: Case) -> int:
        """Where its client goes."""
        gateway = _gateway_of(case)
        if case.path == DIRECT:
            return self.gateways[gateway].port
        return self.proxies[gateway, case.path]

    def everything(self) -> list[Gateway]:
        """All gateways."""
        return [*self.gateways.values(), *(each for lane in self.lanes for each in lane.gateways)]

    def add(self, lane: Lane) -> None:
        """Have a lane."""
        self.lanes.append(lane)
        self._free.put_nowait(lane)

    @asynccontextmanager
    async def lane(self) -> AsyncIterator[Lane]:
        """A lane for oneself, whole at the beginning."""
        lane = await self._free.get()
        try:
            await lane.mend()
            yield lane
        finally:
            self._free.put_nowait(lane)

    async def count_spliced(self, name: str) -> None:
        """Add what the kernel has moved for a gateway since it was started."""
        metrics = await oracle.get(self.gateways[name].port, "/metrics", fields=(BEARER,))
        found = _SPLICED.search(metrics[2])
        self.spliced[name] += int(float(found[1])) if found else 0

    async def forget(self, case: Case) -> None:
        """Let a gateway that has learnt something begin anew, when nobody else uses it."""
        name = _gateway_of(case)
        if name == REMEMBERING or case.form.follows:
            gateway = self.gateways[name]
            await self.count_spliced(name)
            gateway.end()
            await asyncio.to_thread(gateway.start)
        if case.kind.signal is not None:
            for lane in self.lanes:
                for gateway in lane.gateways:
                    gateway.end()  # whoever has the lane next starts it


def _gateway_of(case: Case) -> str:
    return REMEMBERING if case.gateway == WARM else case.gateway


def _signs(case: Case) -> bool:
    """Whether its client has a signed URL; else it has a token."""
    return case.kind.signal is None and _gateway_of(case) == REMEMBERING


def _entries(origin: Origin, case: Case, via: str) -> Iterator[dict[str, object]]:
    """What the catalog says of a case's members."""
    for id_, numbers in case.groups:
        members = [_entry(origin, case, number, via) for number in numbers]
        if not id_.endswith(ALL):
            yield {"id": id_, **members[0]}
            continue
        for member in members:
            member["name"] = str(member["name"]).removeprefix(f"{ALL}/")
        yield {"id": id_, "members": members, "prefix": ALL}


def _entry(origin: Origin, case: Case, number: int, via: str) -> dict[str, object]:
    member = case.members[number]
    if member.source == TEXT:
        return {"name": member.name, "text": member.text}
    if member.source == DIRECTORY:
        return {"name": member.name}
    entry: dict[str, object] = {
        "url": source_of(origin, case, number, via),
        "name": member.name,
    }
    if member.stated:
        thing = member.object()
        entry |= {"size": member.size, "mtime": int(thing.last_modified), "etag": thing.etag}
    if member.digest == "sha256":
        entry["sha256"] = oracle.sha256(member.content)
    elif member.digest == "crc32":
        entry["crc32"] = f"{zlib.crc32(member.content.read()):08x}"
    return entry


def _clean_entries(origin: Origin, case: Case) -> Iterator[dict[str, object]]:
    """The same once more, under other ids and at other URLs, so that nothing is learnt of them."""
    if case.secluded:
        for entry in _entries(origin, case, f"&{CLEAN}"):
            yield {**entry, "id": f"{CLEAN}/{entry['id']}"}


def source_of(origin: Origin, case: Case, number: int, via: str = "") -> str:
    """The URL of a member, with what no client may ever see."""
    return f"{origin.root}{path_of(case, number)}?{QUERY}{via}"


@asynccontextmanager
async def house(cases: Iterable[Case], guard: str | None = None) -> AsyncIterator[House]:
    """Run everything that these cases need, with one guard of the gateways off if given."""
    cases = list(cases)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-")))
        origin, rude = [
            await stack.enter_async_context(CampaignOrigin(*each))
            for each in zip(HEADERS, CREDENTIALS, strict=True)
        ]
        credential = directory / "credential"
        credential.write_text(CREDENTIALS[1])
        dead = stack.enter_context(held_port())
        it = House(directory, origin, rude, dead)
        inner = stack.enter_context(ExitStack())

        def gateway(name: str, via: str, settings: Mapping[str, float]) -> Gateway:
            place = directory / name
            place.mkdir()
            entries = itertools.chain(
                knock.entries(origin.root),
                *(_entries(it.origin(case), case, via) for case in cases),
                *(_clean_entries(it.origin(case), case) for case in cases),
            )
            catalog = write_catalog(place / "catalog.jsonl", entries)
            allow = f'"{origin.root}", "{rude.root}", "{it.dead[:-1]}"'
            config = CONFIG.format(
                catalog=catalog,
                allow=allow,
                origin=origin.root,
                rude=rude.root,
                credential=credential,
                workers=2 if name == PATIENT else 1,
                zero_copy="false" if name in THRIFTY else "true",
                reread_bytes=0 if name in THRIFTY else 256 * 1024**2,
                **settings,
            )
            gateway = Gateway(place, config, inner.enter_context(held_port()), guard)
            gateway.launch()
            inner.callback(gateway.end)
            return gateway

        def start() -> None:
            # FRESH also gives the clean downloads.
            for name in {FRESH, *map(_gateway_of, cases)}:
                it.gateways[name] = gateway(name, "", SETTINGS[name])
            for name, path in {(_gateway_of(case), case.path) for case in cases}:
                if path != DIRECT:
                    place = directory / f"{name} {path}".replace(" ", "-").replace(",", "")
                    conf = {OURS: RECOMMENDED, DEFAULTS: STOCK}[path]
                    proxy = nginx(place, conf, it.gateways[name].port)
                    it.proxies[name, path] = inner.enter_context(proxy).port
            befallen = sum(case.kind.signal is not None for case in cases)
            for number in range(min(befallen, LANES)):
                pair = [
                    gateway(f"lane-{number}-{n}", f"&via={number}-{n}", IMPATIENT) for n in (0, 1)
                ]
                ports = [each.port for each in pair]
                proxy = nginx(directory / f"lane-{number}", RECOMMENDED, *ports)
                it.add(Lane(pair, inner.enter_context(proxy)))
            for each in it.everything():
                each.listen()

        origin.objects[f"/{knock.HONEST}"] = Object(Made(5000, 1))
        await asyncio.to_thread(start)
        yield it
