"""What operators do by hand: python -m tarstream sign --key-id K --expires 1h URL."""

import argparse
import os
import re
import sys
import time
from pathlib import Path

from tarstream.signing import Key, parse_key, sign

SECRET = "TARSTREAM_SIGN_SECRET"  # nosec B105 # noqa: S105 - the name of a variable

_DURATION = re.compile(r"(?P<number>[1-9][0-9]{0,9})(?P<unit>[smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_ROOT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]+")


def main() -> int:
    """Do what the command line says; the exit status."""
    arguments = _arguments()
    exp = int(time.time()) + arguments.expires
    found = _ROOT.match(arguments.url)
    root = found[0] if found else ""
    try:
        key = _key(arguments.key_id, arguments.secret_file)
        signed = sign(arguments.url.removeprefix(root), key.id, key.secret, exp)
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError):
            reason = f"{error.filename}: {(error.strerror or 'cannot be read').lower()}"
        sys.stderr.write(f"cannot sign: {reason}\n")
        return 2
    sys.stdout.write(f"{root}{signed}\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tarstream", description="Tools of tarstream.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "sign",
        help="print a signed URL",
        description="Print a signed URL. See docs/auth.md.",
        allow_abbrev=False,  # --secret is no short form of --secret-file
    )
    command.add_argument("--key-id", required=True, metavar="K", help="of [auth] keys_file")
    command.add_argument(
        "--expires", required=True, type=_duration, metavar="T", help="from now, like 90s, 30m, 1h"
    )
    command.add_argument(
        "--secret-file",
        type=Path,
        metavar="FILE",
        help=f"holds the key's secret and nothing else; else it is in {SECRET}",
    )
    command.add_argument("url", metavar="URL", help="as clients see it, or only path and query")
    return parser.parse_args()


def _duration(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError("must be like 90s, 30m, 1h or 7d")
    return int(found["number"]) * _SECONDS[found["unit"]]


def _key(id_: str, path: Path | None) -> Key:
    """The key; its secret never stands in the command line, which everybody can read."""
    secret = os.environ.get(SECRET, "") if path is None else path.read_text("latin-1").strip()
    if not secret:
        raise ValueError(f"there is no secret in {path or SECRET}")
    return parse_key(f"{id_} {secret}")[1]


if __name__ == "__main__":
    sys.exit(main())
