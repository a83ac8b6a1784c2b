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


JUDGED = ("curl", "Python", "Python, paused")  # whose first answer tells all


class Edit(NamedTuple):
    """In this module, these lines become others."""

    module: str
    old: str
    new: str


class Guard(NamedTuple):
    """What it guards against, the edits that switch it off, and the cases that then turn red.

    A cell is given as `kind / position`. Where not each of its cases can show it, what they have
    in common is named too.
    """

    against: str
    edits: tuple[Edit, ...]
    cells: tuple[str, ...]
    shows: str  # a pattern: what the campaign then says
    clients: tuple[str, ...] = JUDGED
    validators: tuple[str, ...] = ("tag", "date")
    gateway: str = "fresh"
    lasting: bool | None = None  # whether the fault is, where that matters
    begun: bool | None = None  # whether something has been sent before the fault strikes
    stated: bool | None = None  # whether the catalog states what the struck member is
    cases: int = 4  # that show it; more where chance decides
    cut: int = 0  # bytes of it, at least, that have come before it is struck while repairing
    sizes: tuple[int, int] = (0, 70_000)  # least and most bytes of the struck member
    forms: tuple[str, ...] = ("tar",)  # what is asked for
    instead: str | None = None  # what comes before a part or in its place: "read" or "whole"
    behind: int = 0  # bytes, at least, of the member before the struck one


MIB = 1024**2
SPLICED = (2 * MIB, 16 * MIB)  # bytes of members that the kernel moves


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
        shows="promise|healed where loud",
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
        shows="promise [123]",
        sizes=(512, 70_000),
    ),
    "spliced-length": Guard(
        "what the kernel moves and ends early counts as what ended",
        (
            Edit(
                "tarstream.stores.bypass",
                'raise OriginBroken("its origin ends it early")',
                'return left, b""',
            ),
            Edit(
                "tarstream.transfer",
                "if self.position != self._owed_until:\n                raise",
                "if False:\n                raise",
            ),
        ),
        ("FIN / middle",),
        shows="promise [123]",
        sizes=SPLICED,
    ),
    "spliced-tail": Guard(
        "what the kernel moves ends where a member does, and nothing tells that more was to come",
        (
            Edit("tarstream.stores.bypass", "if between and left > TAIL:", "if between:"),
            Edit("tarstream.stores.bypass", "left - TAIL), b", "left), b"),
            Edit(
                "tarstream.transfer",
                "if self.position + held >= self._owed_until:",
                "if False:",
            ),
            Edit(
                "tarstream.transfer",
                "return gathered if surplus < 0 else gathered",
                'return b"" if surplus < 0 else gathered',
            ),
        ),
        ("404 / first byte", "410 / first byte", "403 / first byte"),
        shows="promise 3",
        begun=True,
        lasting=True,
        cases=12,
        behind=SPLICED[0],
    ),
    "zero-copy": Guard(
        "the kernel moves contents where the configuration forbids it",
        (
            Edit(
                "tarstream.transfer",
                "self._zero_copy = supply.zero_copy",
                "self._zero_copy = True",
            ),
        ),
        ("FIN / middle", "stalls / middle", "drips / middle"),
        shows="where it must not",
        gateway="remembering",
        sizes=SPLICED,
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
        shows="promise",
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
        ("Content-Length + 5 / first byte",),
        shows="where loud|where refused",
        lasting=True,
    ),
    "owed-header": Guard(
        "an archive is cut between two members, where it looks complete",
        (
            Edit(
                "tarstream.transfer",
                "if self._gathered_size >= GATHER:\n                    await self._flush()\n",
                "pass\n",
            ),
            Edit(
                "tarstream.stores.retry",
                "if not self._opening.done():\n                        await watched.flush()",
                "if False:\n                        await watched.flush()",
            ),
            Edit(
                "tarstream.transfer",
                "return gathered if surplus < 0 else gathered",
                "return gathered[:-512] if surplus < 0 else gathered",
            ),
        ),
        ("404 / first byte", "410 / first byte", "403 / first byte"),
        shows="promise 3",
        begun=True,
    ),
    "repair-offset": Guard(
        "what broke off is begun again at another byte",
        (
            Edit(
                "tarstream.stores.retry",
                "self._open(sink.position - base)",
                "self._open(self._start)",
            ),
        ),
        ("stalls / middle", "stalls / last byte"),
        shows="promise",
        sizes=(512, 70_000),
    ),
    "repair": Guard(
        "nothing is tried again",
        (Edit("tarstream.stores.retry", "if self._failed >= self._attempts or", "if True or"),),
        ("FIN / middle", "503 / HEAD", "hangs up / first byte"),
        shows="where healed",
        lasting=False,
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
        ("stalls / middle",),
        shows="was continued",
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
        sizes=(5000, 6000),
        shows="healed where loud",
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
        sizes=(5000, 6000),
        lasting=True,
        shows="healed where loud",
    ),
    "cancellation": Guard(
        "an origin's connection stays taken when the client has left",
        (Edit("tarstream.app", "handler_cancellation=True", "handler_cancellation=False"),),
        (
            "stalls before headers / HEAD",
            "stalls before headers / first byte",
            "stalls / first byte",
        ),
        shows="still taken",
        clients=("Python, gone",),
        gateway="patient",
    ),
    "content-encoding": Guard(
        "coded bytes are taken for the object's",
        (
            Edit(
                "tarstream.stores.http",
                r'if codings and not set(re.split(r"[\s,]+", ",".join(codings).lower())) <= '
                '{"identity", ""}:',
                "if False:",
            ),
        ),
        ("coded, as long / first byte", "coded, as long / repair"),
        shows="promise",
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
        shows="promise|where",
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
        shows="promise",
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
        shows="promise|where",
    ),
    "digest": Guard(
        "contents are taken that are not what the catalog states",
        (Edit("tarstream.digests", "if self.stated not in {None, value}:", "if False:"),),
        ("a wrong byte / middle", "a wrong byte / last byte"),
        shows="promise 1",
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
        shows="promise",
        clients=("Python", "Python, paused"),
        begun=True, lasting=True,
    ),
    "version": Guard(
        "a pinned download goes on with another version",
        (
            Edit("tarstream.app", "if asked.version in {None, archive.tag}:", "if True:"),
        ),
        ("replaced / repair", "replaced, conditions ignored / repair"),
        shows="promise 1",
        stated=False,
        sizes=(512, 70_000),
        cut=100,
        clients=("curl -C -", "wget -c"),
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
        shows="promise 1",
        stated=False,
        sizes=(512, 70_000),
        cut=100,
        clients=("Python, If-Range",),
    ),
    "drain": Guard(
        "SIGTERM cuts downloads that are under way",
        (Edit("tarstream.admission", "await self._idle.wait()", "pass"),),
        ("SIGTERM / middle",),
        shows="where healed",
        cases=2,
    ),
    "second-plan": Guard(
        "what was learnt of sources and turned out stale is refused instead of learnt anew",
        (Edit("tarstream.app", "if not _may_be_stale(failed, asked, archive):", "if True:"),),
        ("ETag changed / first byte", "grown / first byte", "wrong total / part"),
        shows="refused 502 where healed",
        clients=(*JUDGED, "Python, Range"),
        lasting=False,
        begun=False,
        stated=False,
    ),
    "forget": Guard(
        "what an origin has contradicted is remembered all the same",
        (Edit("tarstream.download", "await self._archives.forget(failed.member)", "pass"),),
        ("replaced / first byte", "grown / first byte", "shrunk / first byte"),
        shows="refused 503 where healed",
        gateway="warm",
        begun=False,
        stated=False,
    ),
    "first-member": Guard(
        "an archive begins before its first member is there",
        (
            Edit(
                "tarstream.transfer",
                "await self._ready()\n",
                "pass\n",
            ),
        ),
        ("500 / first byte", "404 / first byte", "hangs up / first byte"),
        shows="loud where refused 502",
        lasting=True,
        begun=False,
    ),
    "allow": Guard(
        "redirects lead to origins that nobody has allowed",
        (
            Edit(
                "tarstream.stores.guard",
                "return exact or wildcard",
                "return exact or wildcard or self.rules[0]",
            ),
        ),
        ("redirected elsewhere / first byte", "redirected elsewhere / HEAD"),
        shows="where refused 403",
        begun=False,
    ),
    "secret-log": Guard(
        "a log holds the URL of a member",
        (
            Edit(
                "tarstream.download",
                '"origin": origin_of(failed.member.source)',
                '"origin": failed.member.source',
            ),
        ),
        ("FIN / middle", "404 / first byte"),
        shows="in a log",
        lasting=True,
        begun=True,
    ),
    "secret-answer": Guard(
        "an answer holds the URL of a member",
        (
            Edit(
                "tarstream.app",
                'failed.cause.about(failed.member.id or "")',
                "failed.cause.about(failed.member.source)",
            ),
        ),
        ("500 / first byte", "404 / first byte"),
        shows="secret",
        lasting=True,
        begun=False,
    ),
    "credential": Guard(
        "the credential of an origin is sent to each of them",
        (
            Edit(
                "tarstream.stores.credentials",
                "fields = self._of.get(_origin(url)) if self._of else None",
                "fields = {name: of[name] for of in self._of.values() for name in of}",
            ),
        ),
        ("redirected abroad / first byte", "redirected abroad / HEAD"),
        shows="secret: an origin was told",
    ),
    "stranger": Guard(
        "an origin's redirect has what is private at another one read with our credential",
        (
            Edit(
                "tarstream.stores.exchange",
                "stranger = isinstance(source, Elsewhere)",
                "stranger = False",
            ),
        ),
        ("redirected abroad / first byte", "redirected abroad / HEAD"),
        shows="secret: a redirect",
    ),
    "compressed-end": Guard(
        "a compressed archive that breaks off is given its end",
        (
            Edit(
                "tarstream.download",
                "await response.send(transfer.abort())\n",
                "await response.send(transfer.abort())\n"
                "            if response.content_length is None: await response.finish()\n",
            ),
        ),
        ("FIN / middle", "404 / first byte"),
        shows="promise 1",
        lasting=True,
        begun=True,
        forms=("tar.gz", "tar.zst"),
    ),
    "last-chunk": Guard(
        "HTTP says that a compressed archive is whole which breaks off",
        (
            Edit(
                "tarstream.response",
                "if self.prepared and not self.whole:",
                "if self.prepared and not self.whole and self.content_length is not None:",
            ),
        ),
        ("FIN / middle", "404 / first byte"),
        shows="promise 2: HTTP says that it is whole",
        lasting=True,
        begun=True,
        forms=("tar.gz", "tar.zst"),
    ),
    "unread": Guard(
        "a part of a zip states CRC-32s of contents that nobody has read",
        (
            Edit(
                "tarstream.transfer",
                "for key, each in self._known.unread.items()}",
                "for key, each in ()}",
            ),
            Edit(
                "tarstream.digests",
                "return self._known[key]",
                'return self._known.get(key, "00000000")',
            ),
        ),
        ("chunked / first byte", "drips / middle", "redirected / first byte"),
        shows="promise 1",
        clients=("Python, Range",),
        forms=("zip",),
        instead="read",
    ),
    "reread-bytes": Guard(
        "more of a zip is read than may be, for a part of it",
        (Edit("tarstream.digests", "or size > budget:", "or False:"),),
        ("chunked / first byte", "drips / middle", "redirected / first byte"),
        shows="206 where 200",
        clients=("Python, Range",),
        gateway="remembering",
        forms=("zip",),
        instead="whole",
    ),
    "listing": Guard(
        "members are read that nobody has asked for, to list their digests",
        (Edit("tarstream.digests", "if key.algorithm != deferred or size", "if size"),),
        (
            "chunked / first byte",
            "drips / middle",
            "drips / last byte",
            "extra bytes / first byte",
            "FIN / middle",
            "redirected / first byte",
            "until close / first byte",
        ),
        shows="206 where 200",
        clients=("Python, Range",),
        forms=("tar, SHA256SUMS", "zip, SHA256SUMS"),
        lasting=False,
        instead="whole",
    ),
    "token": Guard(
        "any token lets in",
        (Edit("tarstream.auth", "if len(values) > 1 or not any(known):", "if False:"),),
        ("nothing / first byte",),
        shows="200 instead of 401",
    ),
    "signature": Guard(
        "any signature lets in",
        (
            Edit(
                "tarstream.signing",
                "return hmac.compare_digest(_hmac(self._target, secret), self._sig)",
                "return True",
            ),
        ),
        ("nothing / first byte",),
        shows="instead of 403",
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
