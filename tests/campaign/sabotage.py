"""Guards of the gateway, and how to run it without one of them.

A guard is some lines of its source, and what stands there instead. The product knows nothing of
this: `python tests/campaign/sabotage.py GUARD --config …` edits modules while they are imported,
then runs server.py. A guard that is not where it was is an error, never a gateway that is whole.
"""

import importlib.machinery
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Edit(NamedTuple):
    """In this module, these lines become others."""

    module: str
    old: str
    new: str


class Guard(NamedTuple):
    """What it guards against, the edits that switch it off, and the cells that then turn red.

    A cell is given as `kind / position`. Where only some clients or some validators of the struck
    object can show it, these are named.
    """

    against: str
    edits: tuple[Edit, ...]
    cells: tuple[str, ...]
    clients: tuple[str, ...] = ()
    validators: tuple[str, ...] = ()


GUARDS = {
    "validator": Guard(
        "another object is continued where the first one broke off",
        (
            Edit(
                "tarstream.stores.validators",
                "    if validator is None:\n        return False\n    if not is_strong",
                "    return False\n    if not is_strong",
            ),
        ),
        ("replaced, conditions ignored / repair", "ETag changed / repair", "no validator / repair"),
    ),
    "length": Guard(
        "a body that ends early counts as one that ended",
        (
            Edit(
                "tarstream.stores.http",
                'raise OriginBroken("its origin ends it early")',
                "return",
            ),
            Edit(
                "tarstream.transfer",
                "if self.position != self._owed_until:\n                raise",
                "if False:\n                raise",
            ),
        ),
        ("FIN, until close / middle", "FIN, until close / last byte"),
    ),
    "surplus": Guard(
        "what comes after the planned end is cut off instead of being noticed",
        (
            Edit(
                "tarstream.stores.http",
                "if len(chunk) > self._left or await self._read(sink):",
                "if False:",
            ),
        ),
        ("longer, chunked / first byte", "longer, until close / first byte"),
    ),
    "planned-size": Guard(
        "an answer of another length than was planned is taken",
        (
            Edit(
                "tarstream.stores.http",
                "if length and int(length) != size:",
                "if False:",
            ),
        ),
        ("Content-Length + 5 / first byte", "Content-Length - 1 / first byte"),
    ),
    "owed-header": Guard(
        "an archive is cut between two members, where it looks complete",
        (
            # So little that a header is still gathered when the contents before it have gone.
            Edit("tarstream.transfer", "GATHER = 64 * 1024", "GATHER = 2048"),
            Edit(
                "tarstream.transfer",
                "if self._gathered and self.position != self._owed_until:",
                "if self._gathered:",
            ),
            Edit(
                "tarstream.transfer",
                "return gathered if surplus < 0 else gathered",
                'return b"" and gathered',
            ),
        ),
        ("404 / first byte", "410 / first byte", "403 / first byte", "503, 60 s / first byte"),
    ),
    "repair-offset": Guard(
        "what broke off is begun again at another byte",
        (
            Edit(
                "tarstream.stores.retry",
                "self._opening = self._open(sink.position - base)",
                "self._opening = self._open(self._start)",
            ),
        ),
        ("FIN / middle", "RST / last byte", "stalls / middle"),
    ),
    "repair": Guard(
        "nothing is tried again",
        (Edit("tarstream.stores.retry", "if self._failed >= self._attempts or", "if True or"),),
        ("FIN / middle", "503 / HEAD", "hangs up / first byte"),
    ),
    "proof": Guard(
        "what has no strong validator is continued where it broke off",
        (
            Edit(
                "tarstream.stores.retry",
                "continuable=is_strong(validator)",
                "continuable=True",
            ),
        ),
        ("FIN / middle", "RST / middle", "stalls / middle"),
        validators=("weak", "none"),
    ),
    "progress": Guard(
        "an origin that gives next to nothing is asked for ever",
        (
            Edit(
                "tarstream.stores.retry",
                "self._failed = 0 if brought >= PROGRESS else",
                "self._failed = 0 if brought > 0 else",
            ),
        ),
        ("1,000 bytes a time / first byte",),
    ),
    "min-rate": Guard(
        "an origin that gives a byte now and then is waited for",
        (
            Edit(
                "tarstream.stores.retry",
                "if self._came < self._pace.min_rate * self._waited:",
                "if False:",
            ),
        ),
        ("trickles / first byte",),
    ),
    "cancellation": Guard(
        "an origin's connection stays taken when the client has left",
        (Edit("tarstream.app", "handler_cancellation=True", "handler_cancellation=False"),),
        (
            "stalls before headers / HEAD",
            "stalls before headers / first byte",
            "stalls / first byte",
        ),
        ("Python, gone",),
    ),
    "content-encoding": Guard(
        "coded bytes are taken for the object's",
        (
            Edit(
                "tarstream.stores.http",
                'if any(coding.strip() not in {"identity", ""} for coding in codings):',
                "if False:",
            ),
        ),
        ("coded, as long / first byte", "coded, as long / repair"),
    ),
    "content-range": Guard(
        "another part is taken than was asked for",
        (
            Edit(
                "tarstream.stores.http",
                "if (int(match[1]), int(match[2]) + 1) != (start, stop):",
                "if False:",
            ),
        ),
        ("another part / repair", "wrong start / repair"),
    ),
    "range-ignored": Guard(
        "the beginning of an answer that is whole is taken for the part asked for",
        (
            Edit(
                "tarstream.stores.http",
                'raise ObjectChanged(f"it has {length} bytes instead of {size}")\n    return start',
                'raise ObjectChanged(f"it has {length} bytes instead of {size}")\n    return 0',
            ),
        ),
        ("Range ignored / repair",),
    ),
    "hold-back": Guard(
        "the last chunk of a body without a length is passed on before its end is proven",
        (
            Edit(
                "tarstream.stores.http",
                "if self._unbounded and len(chunk) >= self._left:",
                "if False:",
            ),
        ),
        ("no last chunk / last byte", "longer, chunked / first byte"),
    ),
    "digest": Guard(
        "contents are taken that are not what the catalog states",
        (Edit("tarstream.transfer", "digest.verify()", "pass"),),
        ("a wrong byte / middle", "a wrong byte / last byte"),
    ),
    "second-answer": Guard(
        "an error is written into an archive that has begun",
        (
            Edit(
                "tarstream.response",
                'raise ConnectionResetError("the body ends short")',
                "await self.write(b'{\"status\": 502}')",
            ),
        ),
        ("404 / first byte", "FIN / middle"),
    ),
    "version": Guard(
        "a pinned download goes on with another version",
        (
            Edit("tarstream.app", "if asked.version in {None, archive.tag}:", "if True:"),
        ),
        ("replaced / repair", "replaced, conditions ignored / repair"),
        ("curl -C -", "wget -c"),
    ),
    "if-range": Guard(
        "a part is given of another version than If-Range names",
        (
            Edit(
                "tarstream.conditional",
                'if _field_value(headers, "If-Range") not in {None, strong}:',
                "if False:",
            ),
        ),
        ("replaced / repair", "replaced, conditions ignored / repair"),
        ("Python, If-Range",),
    ),
    "drain": Guard(
        "SIGTERM cuts downloads that are under way",
        (Edit("tarstream.admission", "await self._idle.wait()", "pass"),),
        ("SIGTERM / middle",),
    ),
}  # fmt: skip


def edited(module: str, source: str, edits: Sequence[Edit]) -> str:
    """A module's source without a guard. Raises LookupError when it is not there exactly once."""
    for edit in edits:
        if edit.module != module:
            continue
        if source.count(edit.old) != 1:
            raise LookupError(f"{module}: the guard is not where it was: {edit.old!r}")
        source = source.replace(edit.old, edit.new)
    return source


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str):
        # Not from the cache, and not into it.
        source = self.get_data(self.path).decode()
        return compile(edited(fullname, source, self._edits), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, edits: Sequence[Edit]) -> None:
        self._edits = edits
        self._modules = {edit.module for edit in edits}

    def find_spec(self, fullname: str, path=None, target=None):
        if fullname not in self._modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        spec.loader = _Loader(fullname, spec.origin, self._edits)
        return spec


def main() -> None:
    """Run server.py without a guard."""
    guard = GUARDS[sys.argv[1]]
    sys.path[0] = str(ROOT)
    sys.meta_path.insert(0, _Finder(guard.edits))
    sys.argv[:2] = [str(ROOT / "server.py")]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
