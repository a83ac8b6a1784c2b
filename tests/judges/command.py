"""The judges as a command: what they say, as a table."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from judges import attacks, scripts
from judges.verdict import Verdict

PACKAGES = {"curl": "curl", "nginx": "nginx-light", "slowhttptest": "slowhttptest",
            "tar": "tar", "varnishtest": "varnish"}  # fmt: skip
"""Programs that are needed, and the Debian packages that have them."""

JUDGES = ("lint", "varnishtest", "slowhttptest")


def main() -> int:
    """Run from the command line; the exit status."""
    arguments = _arguments()
    missing = [tool for tool in PACKAGES if shutil.which(tool) is None]
    for tool in missing:
        _say(f"{tool} is missing: apt-get install {PACKAGES[tool]}")
    if missing:
        return 2
    _say(", ".join(_versions()))
    wrong = total = 0
    with tempfile.TemporaryDirectory(prefix="judges-") as directory:
        for name in arguments.judge or JUDGES:
            place = Path(directory) / name
            place.mkdir()
            for verdict in _judge(name, place):
                _say(verdict.line())
                wrong += bool(verdict.faults)
                total += 1
    _say(f"{wrong} of {total} are wrong")
    return 1 if wrong else 0


def _judge(name: str, directory: Path) -> Iterator[Verdict]:
    if name == "lint":
        # Only here: their libraries are not wanted for the rest.
        from judges import answers, lint  # noqa: PLC0415

        with answers.gateways(directory) as places:
            yield from lint.judge(places)
    elif name == "varnishtest":
        yield from _play(directory)
    else:
        yield from attacks.judge(directory)


def _play(directory: Path) -> Iterator[Verdict]:
    with scripts.stage(directory) as stage:
        for script in scripts.SCRIPTS:
            yield _verdict(script.stem, stage.run(script))
        facts = stage.facts(directory / "facts.vtc")
        yield _verdict("facts of Range and conditions", stage.run(facts))
        for name, port in stage.proxies.items():
            said = stage.run(facts, gateway=f"127.0.0.1 {port}")
            yield _verdict(f"facts, through nginx, {name}", said)


def _verdict(what: str, said: str) -> Verdict:
    """What matters of varnishtest's log: its lines of the gravest kind."""
    faults = re.findall(r"(?m)^---- +(.*)$", said)
    return Verdict("varnishtest", what, faults or said.splitlines()[-1:])


def _versions() -> Iterator[str]:
    for library in ("httplint", "redbot"):
        yield f"{library} {version(library)}"
    for command in ("varnishd -V", "slowhttptest -h", "nginx -v", "curl -V"):
        done = subprocess.run(
            command.split(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        found = re.search(r"\d+\.\d+[\d.]*", done.stdout)
        yield f"{command.split()[0]} {found[0] if found else '?'}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="judges", description="Judges that others wrote.")
    parser.add_argument("--judge", action="append", choices=JUDGES, help="only this one")
    return parser.parse_args()
