"""Tokens, signatures and the files that hold them: whatever comes, it is let in or refused."""

import hashlib
import hmac

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from tarstream.auth import Auth, Authorizer, NotAllowed, Unauthorized
from tarstream.watched import Unusable

FUZZ = settings(deadline=None, max_examples=200)  # however fast the machine is

NOW = 2_000_000_000
CANARY = "canary-5ecret-0f-tests"
TOKENS = [CANARY, "another-token~+/.-_=="]
SECRETS = {"k1": CANARY, "k.2": "another/secret:0f!tests"}
KEYS = [f"{id_} {secret}" for id_, secret in SECRETS.items()]


def authorizer(kind):
    settings = {"kind": kind}
    if kind != "signed":
        settings["tokens"] = TOKENS
    if kind != "bearer":
        settings["keys"] = KEYS
    return Authorizer(Auth(**settings), clock=lambda: NOW)


AUTHORIZERS = {kind: authorizer(kind) for kind in ("bearer", "signed", "either")}


# The rules, a second time (docs/auth.md)


def by_token(values):
    """401, or None where the token counts."""
    found = []
    for value in values:
        scheme, _, rest = value.partition(" ")
        if scheme.lower() == "bearer" and rest.strip(" "):
            found.append(rest.lstrip(" "))
    return None if len(values) == 1 and found and found[0] in TOKENS else 401


def by_signature(target):
    """None where the signature counts, 403 where it does not, 401 where there is none."""
    query = target.partition("?")[2].split("&")
    names = [field.partition("=")[0] for field in query]
    if "sig" not in names:
        return 401
    if any(names.count(name) != 1 for name in ("exp", "key", "sig")) or names[-1] != "sig":
        return 403
    values = dict(field.partition("=")[::2] for field in query if "=" in field)
    signed, _, sig = target.rpartition("&sig=")
    exp, secret = values.get("exp", ""), SECRETS.get(values.get("key"))
    if secret is None or not set(exp) <= set("0123456789") or not 1 <= len(exp) <= 12:
        return 403
    right = hmac.new(secret.encode(), signed.encode(errors="surrogateescape"), hashlib.sha256)
    if not signed or sig != right.hexdigest() or exp.startswith("0") or int(exp) <= NOW:
        return 403
    return None


def expected(kind, method, target, values):
    if kind == "bearer":
        return by_token(values)
    signed = by_signature(target) if method in ("GET", "HEAD") else 401
    if signed == 401 and kind == "either":
        return by_token(values)
    return 403 if method not in ("GET", "HEAD") else signed


def outcome(kind, method, target, values):
    headers = CIMultiDict(("Authorization", value) for value in values)
    try:
        AUTHORIZERS[kind].check(method, target, headers)
    except (Unauthorized, NotAllowed) as refusal:
        texts = [refusal.detail, getattr(refusal, "challenge", "")]
        assert all(text.isprintable() for text in texts)
        assert not any(secret in text for secret in (CANARY, *TOKENS) for text in texts)
        return refusal.status
    return None


SCHEMES = st.sampled_from(
    ["Bearer ", "bearer ", "BEARER   ", "Bearer", "Bearer\t", "Basic ", "", " Bearer "]
)
CREDENTIALS = st.sampled_from([*TOKENS, CANARY[:-1], CANARY + "=", f"{CANARY} ", f"{CANARY},x", ""])
AUTHORIZATIONS = st.lists(
    st.builds("{}{}".format, SCHEMES, CREDENTIALS | st.text(max_size=8)), max_size=2
)


def sign(target, key, secret, exp):
    text = f"{target}{'&' if '?' in target else '?'}exp={exp}&key={key}"
    sig = hmac.new(secret.encode(), text.encode(errors="surrogateescape"), hashlib.sha256)
    return f"{text}&sig={sig.hexdigest()}"


TARGETS = st.builds(
    "{}{}".format,
    st.sampled_from(["/archive", "/plan", "/", "", "/ä", "http://h/archive"]),
    st.sampled_from(
        ["", "?", "?ids=a", "?ids=a&name=%41", "?exp=1", "?key=k1", "?sig=x", "?ids=\udcff"]
    ),
)
EXPIRIES = st.sampled_from(
    [
        NOW + 1,
        NOW,
        NOW - 1,
        f"0{NOW + 9}",
        "٣" * 10,
        0,
        "",
        "01",
        f"+{NOW + 9}",
        "9" * 12,
        "9" * 13,
        "٣",
    ]
)
SIGNED = st.builds(
    sign,
    TARGETS,
    st.sampled_from([*SECRETS, "k3", ""]),
    st.sampled_from([*SECRETS.values(), "x"]),
    EXPIRIES | st.just(NOW + 1),
)


@st.composite
def targets(draw):
    """Targets, signed ones, and those with something changed, added, left out or moved."""
    target = draw(st.one_of(TARGETS, SIGNED, SIGNED))
    change = draw(st.integers(0, 5))
    if change == 1:
        fields = target.split("&")
        target = "&".join(draw(st.permutations(fields)))
    elif change == 2:
        place = draw(st.integers(0, len(target)))
        target = (
            target[:place]
            + draw(st.sampled_from(["&", "=", "x", "%26", "&sig=", "A"]))
            + target[place:]
        )
    elif change == 3:
        place = draw(st.integers(0, max(len(target) - 1, 0)))
        target = target[:place] + target[place + 1 :]
    elif change == 4:
        target = target.upper() if draw(st.booleans()) else target + "&x=1"
    return target


@FUZZ
@given(
    st.sampled_from([*AUTHORIZERS]),
    st.sampled_from(["GET", "HEAD", "POST", "get", "OPTIONS"]),
    targets(),
    AUTHORIZATIONS,
)
@example("either", "GET", "/archive?ids=a&sig=", [f"Bearer {CANARY}"])
@example("signed", "GET", sign("/archive?ids=a", "k1", CANARY, NOW + 1), [])
@example("signed", "GET", sign("/archive?ids=a", "k1", CANARY, NOW), [])
@example("signed", "GET", sign("/archive?ids=a", "k1", CANARY, f"0{NOW + 9}"), [])
@example("signed", "GET", sign("/archive?ids=a", "k1", CANARY, "٣" * 10), [])
def test_who_is_let_in_is_as_the_documents_say(kind, method, target, values):
    assert outcome(kind, method, target, values) == expected(kind, method, target, values)


@FUZZ
@given(
    st.sampled_from([*AUTHORIZERS]),
    st.text(max_size=30),
    st.lists(st.text(max_size=20), max_size=2),
)
def test_nobody_is_let_in_by_chance(kind, target, values):
    assert outcome(kind, "GET", target, values) in {401, 403}


# Files

PIECES = st.sampled_from(
    [
        b"\n",
        b"\r\n",
        b"\r",
        b"#",
        b" ",
        b"\t",
        b"\0",
        b"\xff",
        b"\xe9",
        b"k1 ",
        b"k2 ",
        CANARY.encode(),
        b"x" * 15,
    ]
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "secrets"


@FUZZ
@given(
    st.sampled_from(["tokens_file", "keys_file"]),
    st.lists(PIECES | st.binary(max_size=3), max_size=10).map(b"".join),
)
def test_a_file_of_any_bytes_holds_secrets_or_is_an_error_that_shows_none(path, key, data):
    path.write_bytes(data)
    kind = "bearer" if key == "tokens_file" else "signed"
    try:
        known = Authorizer(Auth(kind=kind, **{key: str(path)}), clock=lambda: NOW)
    except Unusable as error:
        said = str(error)
        assert said.startswith(f"{path}:")
        assert said.isprintable()
        assert CANARY not in said
        return
    # Then every line that is neither blank nor a comment is a secret, and each lets in.
    given_ = [line.strip(b" \t").decode("latin-1") for line in data.splitlines()]
    given_ = [line for line in given_ if line and not line.startswith("#")]
    assert given_
    for line in given_:
        if kind == "bearer":
            known.check("GET", "/", CIMultiDict(Authorization=f"Bearer {line}"))
        else:
            id_, secret = line.split()
            known.check("GET", sign("/archive?ids=a", id_, secret, NOW + 1), CIMultiDict())
