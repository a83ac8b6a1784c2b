"""Does memory stay flat? Archives of every kind, one after the other, for as long as one likes.

python -m benchmarks.soak [--archives N] [--at-once N] [--on DIR]

Prints resident memory and descriptors of the gateway after each tenth; the exit status is 1 when an
answer was not whole. Linux, nginx.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from benchmarks.__main__ import MEMORY
from benchmarks.cases import KIB, MIB
from benchmarks.origin import ROOT, made, origin
from benchmarks.processes import Process, free_port, started

SIZES = {"small": (64, 16 * KIB), "large": (4, 3 * MIB)}
"""How many there are, and bytes of each: those that are read and written, and those spliced."""

CONFIG = """
[catalog]
kind = "file"
path = "{catalog}"
[upstream]
allow = ["http://127.0.0.1:{origin}"]
"""

ASKED = (
    ("?ids={small}", {}),
    ("?ids={large}", {}),
    (".zip?ids={small}", {}),
    (".zip?ids={large}", {}),
    (".tar.gz?ids={small}", {}),
    (".tar.zst?ids={small}", {}),
    ("?ids={small}&checksums=sha256", {}),
    ("?ids={large},nobody&missing=skip", {}),
    ("?ids={large}", {"Range": "bytes=100000-2000000"}),
    ("?ids=nobody", {}),
)
"""Paths behind `/archive`, with headers. Every third client leaves in the middle."""


async def _client(numbers: "asyncio.Queue[int]", root: str) -> int:
    """Ask until there is nothing left to ask for; how many answers were not as they had to be."""
    wrong = 0
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        while not numbers.empty():
            number = numbers.get_nowait()
            path, headers = ASKED[number % len(ASKED)]
            ids = {
                kind: ",".join(f"{kind}-{(number + n) % count}" for n in range(min(count, 8)))
                for kind, (count, _) in SIZES.items()
            }
            async with http.get(root + path.format(**ids), headers=headers) as answer:
                wrong += answer.status != (404 if "=nobody" in path else 206 if headers else 200)
                if number % 3:
                    body = await answer.read()  # raises when it is not whole
                    length = answer.headers.get("Content-Length")
                    wrong += length is not None and int(length) != len(body)
                else:
                    await answer.content.readany()
                    answer.close()
    return wrong


async def _soak(gateway: Process, root: str, archives: int, at_once: int) -> int:
    wrong = 0
    for tenth in range(10):
        numbers: asyncio.Queue[int] = asyncio.Queue()
        for number in range(archives * tenth // 10, archives * (tenth + 1) // 10):
            numbers.put_nowait(number)
        wrong += sum(await asyncio.gather(*(_client(numbers, root) for _ in range(at_once))))
        await asyncio.sleep(0.5)  # what clients have left is tidied up
        print(
            f"{archives * (tenth + 1) // 10:>8,} archives: {gateway.resident() / MIB:6.1f} MiB, "
            f"{_descriptors(gateway.pid)} descriptors, {wrong} wrong",
            flush=True,
        )
    return wrong


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--archives", type=int, default=20_000, metavar="N")
    parser.add_argument("--at-once", type=int, default=8, metavar="N")
    parser.add_argument("--on", type=Path, default=MEMORY, metavar="DIR", help="a tmpfs")
    arguments = parser.parse_args()
    with (
        TemporaryDirectory(dir=arguments.on, prefix="tarstream-soak-") as name,
        origin(directory := Path(name)) as running,
    ):
        catalog, config = directory / "catalog.jsonl", directory / "config.toml"
        with catalog.open("w") as lines:
            for kind, (count, size) in SIZES.items():
                for number in range(count):
                    file = made(running.root, f"{kind}/{number}", size)
                    url = f"http://127.0.0.1:{running.port_at(0)}/{file.path}"
                    lines.write(json.dumps({"id": f"{kind}-{number}", "url": url}) + "\n")
        config.write_text(CONFIG.format(catalog=catalog, origin=running.port_at(0)))
        port = free_port()
        command = [sys.executable, str(ROOT / "server.py"), "--config", str(config)]
        with started([*command, "--port", str(port)], directory / "output") as gateway:
            gateway.wait_for_port(port)
            root = f"http://127.0.0.1:{port}/archive"
            return int(asyncio.run(_soak(gateway, root, arguments.archives, arguments.at_once)) > 0)


if __name__ == "__main__":
    sys.exit(main())
