"""What a campaign runs against: one origin, gateways as processes, nginx before them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from answer import Answer
from gateway import ROOT, Process, archive_path, write_catalog
from nginx import RECOMMENDED, STOCK, held_port, nginx
from origin import Origin, Request

from campaign import oracle
from campaign.cases import DEFAULTS, DIRECT, FRESH, OURS, PATIENT, REMEMBERING, WARM, Case, path_of
from campaign.judge import CANARY

CONFIG = """
[catalog]
kind = "file"
path = "{catalog}"
[upstream]
allow = [{allow}]
connect_timeout = 1
read_timeout = {read_timeout}
min_rate = "1 KiB"
patience = {patience}
attempts = 3
remember = {remember}
"""

IMPATIENT = {"read_timeout": 0.5, "patience": 4, "remember": 0}
SETTINGS = {
    FRESH: IMPATIENT,
    REMEMBERING: IMPATIENT | {"remember": 10},
    # Whoever leaves it must be noticed: it waits for origins longer than the campaign does.
    PATIENT: {"read_timeout": 20, "patience": 30, "remember": 0},
}


class CampaignOrigin(Origin):
    """An origin that remembers what each case asked, and forgets it with the case."""

    def __init__(self) -> None:
        super().__init__(send_buffer=256 * 1024)
        self.seen: defaultdict[str, list[Request]] = defaultdict(list)
        self.busy: Counter[str] = Counter()  # answers under way, by case

    @contextmanager
    def answering(self, request: Request) -> Iterator[Answer]:
        """Count and record by case."""
        name = request.path.split("/")[1]
        self.busy[name] += 1
        try:
            with super().answering(request) as answer:
                self.seen[name].append(request)
                yield answer
        finally:
            self.busy[name] -= 1
            self.requests.clear()

    def forget(self, name: str) -> None:
        """Forget a case."""
        self.seen.pop(name, None)
        self.busy.pop(name, None)
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

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._starts += 1
        path = self._directory / "config.toml"
        path.write_text(self._config)
        log = self._directory / f"{self._starts}.log"
        script = [str(ROOT / "server.py")]
        if self._guard is not None:
            script = [str(Path(__file__).parent / "sabotage.py"), self._guard]
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, *script, "--config", path, "--port", str(self.port)],
                stdout=output,
                stderr=output,
                cwd=self._directory,
            )
        try:
            self.process = Process(popen, log)
        except BaseException:
            popen.kill()
            popen.wait()
            raise

    def end(self) -> None:
        """End it, however it is."""
        if self.process.popen.poll() is None:
            self.process.popen.kill()
        self.process.popen.wait()

    @property
    def log(self) -> str:
        """All that it has logged, in all its lives."""
        return "".join(
            path.read_text(errors="replace") for path in sorted(self._directory.glob("*.log"))
        )


class Lane:
    """Two gateways behind one nginx, for what befalls gateways; one case at a time."""

    def __init__(self, gateways: list[Gateway], proxy: int) -> None:
        self.gateways = gateways
        self.proxy = proxy
        self.lock = asyncio.Lock()

    async def mend(self) -> None:
        """Start what has ended."""
        for gateway in self.gateways:
            if gateway.process.popen.poll() is not None:
                await asyncio.to_thread(gateway.start)


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
        self.lane: Lane | None = None

    def origin(self, case: Case) -> CampaignOrigin:
        """Where its members lie: those that spoil connections have an origin for themselves."""
        return self.origins[case.kind.rude]

    def path(self, case: Case, **parameters: str) -> str:
        """Path and query of a case's archive."""
        return archive_path(case.ids, **parameters)

    def port(self, case: Case) -> int:
        """Where its client goes."""
        gateway = REMEMBERING if case.gateway == WARM else case.gateway
        if case.path == DIRECT:
            return self.gateways[gateway].port
        return self.proxies[gateway, case.path]

    def everything(self) -> list[Gateway]:
        """All gateways."""
        return [*self.gateways.values(), *(self.lane.gateways if self.lane else ())]


def _entries(origin: Origin, case: Case, via: str) -> Iterator[dict[str, object]]:
    """What the catalog says of a case's members."""
    for number, member in enumerate(case.members):
        entry: dict[str, object] = {
            "id": case.ids[number],
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
        yield entry


def source_of(origin: Origin, case: Case, number: int, via: str = "") -> str:
    """The URL of a member, with what no client may ever see."""
    return f"{origin.root}{path_of(case, number)}?key={CANARY}{via}"


@asynccontextmanager
async def house(cases: Iterable[Case], guard: str | None = None) -> AsyncIterator[House]:
    """Run everything that these cases need, with one guard of the gateways off if given."""
    cases = list(cases)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-")))
        origin, rude = [await stack.enter_async_context(CampaignOrigin()) for _ in range(2)]
        dead = stack.enter_context(held_port())
        it = House(directory, origin, rude, dead)
        inner = stack.enter_context(ExitStack())

        def gateway(name: str, via: str, settings: dict[str, float]) -> Gateway:
            place = directory / name
            place.mkdir()
            entries = (e for case in cases for e in _entries(it.origin(case), case, via))
            catalog = write_catalog(place / "catalog.jsonl", entries)
            allow = f'"{origin.root}", "{rude.root}", "{it.dead[:-1]}"'
            config = CONFIG.format(catalog=catalog, allow=allow, **settings)
            gateway = Gateway(place, config, inner.enter_context(held_port()), guard)
            gateway.start()
            inner.callback(gateway.end)
            return gateway

        def start() -> None:
            for name in (FRESH, REMEMBERING, PATIENT):
                it.gateways[name] = gateway(name, "", SETTINGS[name])
                for path, conf in ((OURS, RECOMMENDED), (DEFAULTS, STOCK)):
                    place = directory / f"{name} {path}".replace(" ", "-").replace(",", "")
                    proxy = nginx(place, conf, it.gateways[name].port)
                    it.proxies[name, path] = inner.enter_context(proxy).port
            if any(case.kind.signal for case in cases):
                pair = [gateway(f"lane-{n}", f"&via={n}", IMPATIENT) for n in (0, 1)]
                proxy = nginx(directory / "lane", RECOMMENDED, *(each.port for each in pair))
                it.lane = Lane(pair, inner.enter_context(proxy).port)

        await asyncio.to_thread(start)
        yield it
