"""slowhttptest: a thousand slow connections, and a client that downloads meanwhile.

The attacker comes from 127.0.0.1 and the client from 127.0.0.2, as they would from two addresses.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway import Process, archive_path, process, write_catalog
from made import Made
from nginx import RECOMMENDED, nginx

from judges.verdict import Verdict

CONNECTIONS, RATE = 1000, 500
SECONDS = 20  # of each attack
PATIENCE = 30  # seconds that the other client gives a download: it shares the machine

CONFIG = """
[server]
trusted_proxies = ["127.0.0.1"]
[catalog]
kind = "file"
path = "{catalog}"
[upstream]
allow = ["file://{files}"]
"""

SMALL, LARGE = 1024**2, 64 * 1024**2


@dataclass(frozen=True)
class Attack:
    """What slowhttptest does, and on which member."""

    name: str
    options: str
    member: str = "small"

    def command(self, port: int) -> list[str]:
        """The command line."""
        url = f"http://127.0.0.1:{port}{archive_path([self.member])}"
        how = f"-c {CONNECTIONS} -r {RATE} -l {SECONDS} -p 5 -u {url}"
        return ["slowhttptest", *self.options.split(), *how.split()]


ATTACKS = [
    Attack("slow headers", "-H -i 5 -x 24 -t GET"),
    Attack("slow body", "-B -i 5 -s 8192 -x 10 -t POST -f application/json"),
    Attack("slow read", "-X -w 512 -y 1024 -n 2 -z 32 -k 1", "large"),
    Attack("many ranges", "-R -t GET -a 10 -b 3000"),
]


def judge(directory: Path) -> Iterator[Verdict]:
    """Attack through nginx, where the service must stay available; and directly, to see."""
    files = directory / "files"
    files.mkdir()
    for name, size in (("small", SMALL), ("large", LARGE)):
        (files / name).write_bytes(Made(size).read())
    entries = [{"id": name, "url": f"file://{files}/{name}"} for name in ("small", "large")]
    catalog = write_catalog(directory / "catalog.jsonl", entries)
    config = CONFIG.format(catalog=catalog, files=files)
    for attack in ATTACKS:
        # Each begins with a gateway that has not suffered yet.
        place = directory / attack.name.replace(" ", "-")
        place.mkdir()
        with (
            process(place, config) as gateway,
            nginx(place / "nginx", RECOMMENDED, gateway.port) as proxy,
        ):
            yield _attacked(attack, gateway, proxy.port, f"{attack.name}, through nginx")
        place = place.with_name(f"{place.name}-direct")
        place.mkdir()
        with process(place, config) as gateway:
            verdict = _attacked(attack, gateway, gateway.port, f"{attack.name}, without nginx")
            verdict.remarks += [f"not available: {fault}" for fault in verdict.faults]
            verdict.faults.clear()
            verdict.promised = False
            yield verdict


def _attacked(attack: Attack, gateway: Process, port: int, what: str) -> Verdict:
    """Download all the time while an attack runs, and look after it."""
    verdict = Verdict("slowhttptest", what)
    right = _download(port)[0]
    outcomes: Counter[str] = Counter()
    longest = 0.0
    attacker = subprocess.Popen(
        attack.command(port), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        while attacker.poll() is None:
            began = time.monotonic()
            digest, said = _download(port)
            outcomes["right" if digest == right else said] += 1
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.1)
        said = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", attacker.communicate()[0])
    finally:
        attacker.kill()
        attacker.wait()
    verdict.remarks.append(f"{outcomes['right']} downloads, the longest {longest:.1f} s")
    verdict.remarks.append(_attackers_view(said))
    verdict.faults += [f"{count} x {said}" for said, count in outcomes.items() if said != "right"]
    if not outcomes["right"]:
        verdict.faults.append("no download at all")
    if _download(port)[0] != right:
        verdict.faults.append("not available after the attack")
    if "Traceback" in gateway.log:
        verdict.faults.append("a traceback in the gateway's log")
    verdict.remarks.append(f"gateway at most {gateway.peak_memory() / 1024**2:.0f} MiB")
    return verdict


def _attackers_view(said: str) -> str:
    """Its last count of its connections."""
    counts = dict(re.findall(r"^(connected|closed|error):\s+(\d+)", said, re.MULTILINE))
    return f"{counts.get('connected', '?')} of its connections open at the end"


def _download(port: int) -> tuple[str, str]:
    """Download the small archive from another address: the digest, and what curl said."""
    done = subprocess.run(
        ["curl", "-sS", "-f", "--interface", "127.0.0.2", "-m", str(PATIENCE),
         f"http://127.0.0.1:{port}{archive_path(['small'])}"],
        capture_output=True,
        check=False,
    )  # fmt: skip
    return hashlib.sha256(done.stdout).hexdigest(), done.stderr.decode().strip()
