"""Signed URLs: an HMAC over a path and a query as they are sent. Pure.

    target = path ["?" query] "&exp=" seconds "&key=" key-id
    signed = target "&sig=" hex(HMAC-SHA256(secret, target))

Bytes are signed, not what they mean: nobody has to agree on how a URL is taken apart.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass, field

KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What needs no encoding in a query."""

MIN_SECRET = 16
"""Characters. A shorter one can be guessed; a signing secret even without asking us."""

_KEY = re.compile(rf"(?P<id>{KEY_ID.pattern})[ \t]+(?P<secret>[!-~]+)")
_EXP = re.compile(r"[1-9][0-9]{0,11}")  # Unix seconds; twelve digits are 30,000 years
_SIG = re.compile(r"[0-9a-f]{64}")

# RFC 3986 3.4: query = *( pchar / "/" / "?" )
#          3.3: pchar = unreserved / pct-encoded / sub-delims / ":" / "@"
#
# Less what some clients write differently before they send it: an apostrophe (browsers), hex digits
# in small letters, and what needs no encoding but has one (both: requests).
_SENT_AS_IT_IS = re.compile(
    r"/(?:[A-Za-z0-9._~!$&()*+,;=:@/?-]"
    r"|%(?!2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])[0-9A-F]{2})*"
)


class SignatureError(ValueError):
    """A URL that holds no signature, or a wrong one, or cannot be signed; says why."""


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and the id that URLs name it by."""

    id: str
    secret: bytes = field(repr=False)


def parse_key(line: str) -> tuple[str, Key]:
    """A key for signed URLs, by its id: `id secret`. The secret is the bytes that stand there."""
    found = _KEY.fullmatch(line)
    if not found:
        raise ValueError(
            "a key is an id (1 to 64 letters, digits and '._-'), a blank, and a secret without any"
        )
    if len(found["secret"]) < MIN_SECRET:
        raise ValueError(f"the secret of a key has at least {MIN_SECRET} characters")
    return found["id"], Key(found["id"], found["secret"].encode())


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signed target says of itself: nothing of it is certain until it `fits` a secret."""

    key_id: str
    exp: int
    """Unix seconds from which on it counts no longer."""
    _target: str = field(repr=False)
    _sig: str = field(repr=False)

    def fits(self, secret: bytes) -> bool:
        """Whether the target was signed with this secret; takes as long either way."""
        return hmac.compare_digest(_hmac(self._target, secret), self._sig)


def sign(target: str, key_id: str, secret: bytes, exp: int) -> str:
    """The target (path and query) with an expiry, a key id and a signature.

    Raises SignatureError where it has one, or holds what clients would not send as it is.
    """
    if not _SENT_AS_IT_IS.fullmatch(target):
        raise SignatureError(
            "only a path and a query can be signed, percent-encoded as clients send them: "
            f"{_first_wrong(target)!r} is not"
        )
    if not KEY_ID.fullmatch(key_id):
        raise SignatureError("a key id is 1 to 64 letters, digits, '.', '_' and '-'")
    if type(exp) is not int or not 0 < exp < 10**12:  # time.time() is a float
        raise SignatureError("an expiry is whole Unix seconds, of twelve digits at most")
    if taken := {name for name, _ in _fields(target)} & {"exp", "key", "sig"}:
        raise SignatureError(f"the URL has a parameter {min(taken)!r} already")
    return signed_as_it_is(target, Key(key_id, secret), exp)


def signed_as_it_is(target: str, key: Key, exp: int) -> str:
    """Do what `sign` does with a target of our own making, which needs no check."""
    target += f"{'&' if '?' in target else '?'}exp={exp}&key={key.id}"
    return f"{target}&sig={_hmac(target, key.secret)}"


def read_signature(target: str) -> Signature | None:
    """The signature of a target as it was sent; None without any. Raises SignatureError.

    Bytes beyond ASCII may have become surrogates (PEP 383).
    """
    fields = _fields(target)
    found = {name: [v for n, v in fields if n == name] for name in ("exp", "key", "sig")}
    if not found["sig"]:
        return None
    for name, values in found.items():
        if len(values) != 1:
            raise SignatureError(f"{name} must be given{' once only' if values else ''}")
    (exp,), (key_id,), (sig,) = found.values()
    if fields[-1][0] != "sig":
        raise SignatureError("sig must come last")
    if not _EXP.fullmatch(exp):
        raise SignatureError("exp must be Unix seconds")
    if not KEY_ID.fullmatch(key_id):
        raise SignatureError("key must be a key's id")
    if not _SIG.fullmatch(sig):
        raise SignatureError("sig must be 64 hex digits, in small letters")
    return Signature(key_id, int(exp), target.removesuffix(f"&sig={sig}"), sig)


def _fields(target: str) -> list[tuple[str, str]]:
    """Names and values of its query, nothing of them decoded."""
    query = target.partition("?")[2]
    return [(name, value) for name, _, value in (f.partition("=") for f in query.split("&"))]


def _hmac(target: str, secret: bytes) -> str:
    return hmac.new(secret, target.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()


def _first_wrong(target: str) -> str:
    """What it is that cannot be sent as it is."""
    stop = _SENT_AS_IT_IS.match(target)
    rest = target[stop.end() if stop else 0 :]
    return rest[: 3 if rest.startswith("%") else 1]
