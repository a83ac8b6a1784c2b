"""Who may ask: tokens, what settings and files may hold, and files that change."""

import asyncio
import hashlib
import hmac
import os
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from pydantic import ValidationError

from tarstream import watched
from tarstream.auth import (
    MIN_SECRET,
    Auth,
    Authorizer,
    Grant,
    NotAllowed,
    Unauthorized,
)
from tarstream.errors import TarstreamError
from tarstream.signing import Key, sign
from tarstream.watched import Unusable, WatchedFile

CANARY = "canary-5ecret-0f-tests"
TOKENS = (CANARY, "another-token~+/.-_==", "x" * 500)
KEY = f"k1 {CANARY}"
EXP = 4_000_000_000
TARGET = sign("/archive?ids=a", "k1", CANARY.encode(), EXP)

REALM = 'Bearer realm="tarstream"'
INVALID = f'{REALM}, error="invalid_token"'


def authorizer(**settings):
    return Authorizer(Auth(**settings), clock=lambda: EXP - 1)


def bearer(*tokens):
    return authorizer(kind="bearer", tokens=tokens or TOKENS)


def either():
    return authorizer(kind="either", tokens=TOKENS, keys=[KEY])


def sent(*values):
    """Headers with an Authorization line for each value."""
    return CIMultiDict(("Authorization", value) for value in values)


def refused(authorizer, *values, method="GET", target="/archive?ids=a"):
    """The challenge of a 401."""
    with pytest.raises(Unauthorized) as caught:
        authorizer.check(method, target, sent(*values))
    assert isinstance(caught.value, TarstreamError)
    assert caught.value.status == 401
    return caught.value.challenge


# Nobody in particular


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("values", [(), ("Bearer whatever",), ("Basic eDp5",)])
@pytest.mark.parametrize("target", ["/archive?ids=a", "/archive?ids=a&sig=x", TARGET])
def test_without_a_kind_everybody_is_let_in(method, values, target):
    assert authorizer().check(method, target, sent(*values)) == Grant()


# Tokens


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
def test_each_token_is_let_in(token, method, scheme):
    """Schemes are case-insensitive, and 1*SP stands behind them (RFC 9110 11.1, 11.4)."""
    assert bearer().check(method, "/archive?ids=a", sent(scheme + token)) == Grant()


NO_TOKEN = {
    "no header": (),
    "another scheme": ("Basic Y2FuYXJ5OnNlY3JldA==",),
    "no scheme": (CANARY,),
    "no token": ("Bearer",),
    "blanks": ("Bearer  ",),
    "nothing": ("",),
    "a tab": (f"Bearer\t{CANARY}",),
    "a longer scheme": (f"Bearer1 {CANARY}",),
    "a parameter": (f"token={CANARY}",),
}


@pytest.mark.parametrize("values", NO_TOKEN.values(), ids=NO_TOKEN)
def test_without_a_token_the_challenge_says_no_more(values):
    """RFC 6750 3.1: no error where the request holds no authentication information."""
    assert refused(bearer(), *values) == REALM


WRONG = {
    "another": ("Bearer canary-5ecret-0f-test5",),
    "shorter": (f"Bearer {CANARY[:-1]}",),
    "longer": (f"Bearer {CANARY}x",),
    "in capitals": (f"Bearer {CANARY.upper()}",),
    "two at once": (f"Bearer {CANARY} {CANARY}",),
    "two with a comma": (f"Bearer {CANARY},{TOKENS[1]}",),
    "two schemes": (f"Bearer {CANARY}, Basic eDp5",),
    "quoted": (f'Bearer "{CANARY}"',),
    "trailing blank": (f"Bearer {CANARY} ",),
    "two headers": (f"Bearer {CANARY}", f"Bearer {CANARY}"),
    "two headers of two schemes": ("Basic eDp5", f"Bearer {CANARY}"),
    "not ASCII": ("Bearer cänary-5ecret-0f-tests",),
    "no text": ("Bearer \udcff\udcfe",),
    "a line break": (f"Bearer {CANARY}\n",),
    "NUL": (f"Bearer {CANARY}\0",),
    "huge": (f"Bearer {'x' * 30_000}",),
    "its digest": ("Bearer " + hashlib.sha256(CANARY.encode()).hexdigest(),),
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_a_wrong_token_is_told_so(values):
    assert refused(bearer(), *values) == INVALID


def test_a_token_in_the_query_does_not_count():
    assert refused(bearer(), target=f"/archive?ids=a&access_token={CANARY}") == REALM


def test_a_signed_url_does_not_count_where_tokens_do():
    assert refused(bearer(), target=TARGET) == REALM


@given(st.text(max_size=40))
def test_no_other_token_is_let_in(token):
    if token not in TOKENS:
        assert refused(bearer(), f"Bearer {token}") in {REALM, INVALID}


@pytest.mark.parametrize("token", [*TOKENS, "a-wrong-token-of-tests", "?"])
def test_all_tokens_are_compared_whichever_fits(token, monkeypatch):
    """As digests, so that neither an early end nor a length shows in the time it takes."""
    compared = []
    compare = hmac.compare_digest

    def recorded(one, other):
        compared.append((len(one), len(other)))
        return compare(one, other)

    gateway = bearer()
    monkeypatch.setattr(hmac, "compare_digest", recorded)
    try:
        gateway.check("GET", "/archive", sent(f"Bearer {token}"))
    except Unauthorized:
        assert token not in TOKENS
    assert compared == [(32, 32)] * 3


# Both


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_of_both_either_is_enough(method):
    assert either().check(method, "/archive?ids=b", sent(f"Bearer {CANARY}")) == Grant()
    assert either().check(method, TARGET, sent()).exp == EXP
    assert either().check(method, TARGET, sent("Basic eDp5")).exp == EXP


def test_of_both_a_post_needs_the_token():
    assert either().check("POST", TARGET, sent(f"Bearer {CANARY}")) == Grant()
    assert refused(either(), method="POST", target=TARGET) == REALM


@pytest.mark.parametrize("values", [(), (f"Bearer {CANARY}",)])
def test_of_both_a_signature_is_judged_by_itself(values):
    with pytest.raises(NotAllowed):
        either().check("GET", TARGET.replace("ids=a", "ids=b"), sent(*values))


def test_of_both_none_is_401():
    assert refused(either()) == REALM
    assert refused(either(), "Bearer another-wrong-token") == INVALID


def test_a_token_does_not_count_where_signed_urls_do():
    signed_only = authorizer(kind="signed", keys=[KEY])
    challenge = refused(signed_only, f"Bearer {CANARY}")
    assert challenge == 'Signed-URL realm="tarstream"'


# What is signed anew


def test_what_a_signed_request_is_told_is_signed_like_it():
    gateway = authorizer(kind="signed", keys=["k0 another-5ecret-here", KEY])
    grant = gateway.check("GET", sign("/plan?ids=a", "k1", CANARY.encode(), EXP), sent())
    url = grant.signed("/archive?ids=a&version=v")
    assert url == sign("/archive?ids=a&version=v", "k1", CANARY.encode(), EXP)
    assert gateway.check("GET", url, sent()) == grant


def test_whatever_path_we_are_given_out_below_is_signed():
    """[server] base_path may hold what some clients would repair, and knows that they need not."""
    gateway = Authorizer(Auth(kind="signed", keys=[KEY]), "/it's%2f", clock=lambda: EXP - 1)
    url = Grant(Key("k1", CANARY.encode()), EXP).signed("/it's%2f/archive?ids=a")
    assert gateway.check("GET", url.removeprefix("/it's%2f"), sent()).exp == EXP


def test_what_a_request_with_a_token_is_told_is_not_signed():
    grant = either().check("GET", "/plan?ids=a", sent(f"Bearer {CANARY}"))
    assert grant.signed("/archive?ids=a") == "/archive?ids=a"


# Settings


def test_by_default_everybody_may_ask():
    assert Auth().kind == "none"


GIVEN = {
    "tokens": {"tokens": [CANARY]},
    "tokens_file": {"tokens_file": "tokens"},
    "keys": {"keys": [KEY]},
    "keys_file": {"keys_file": "keys"},
}
NEEDS = {"none": "", "bearer": "tokens", "signed": "keys", "either": "both"}


@pytest.mark.parametrize("kind", NEEDS)
@pytest.mark.parametrize("tokens", ["", "tokens", "tokens_file"])
@pytest.mark.parametrize("keys", ["", "keys", "keys_file"])
def test_a_kind_has_what_it_needs_and_nothing_else(kind, tokens, keys):
    given = {"kind": kind} | GIVEN.get(tokens, {}) | GIVEN.get(keys, {})
    wanted = {
        "tokens": kind in {"bearer", "either"},
        "keys": kind in {"signed", "either"},
    }
    if wanted == {"tokens": bool(tokens), "keys": bool(keys)}:
        assert Auth(**given).kind == kind
        return
    with pytest.raises(ValidationError) as caught:
        Auth(**given)
    (mistake,) = caught.value.errors()
    if wanted["tokens"] > bool(tokens):
        message = f"kind {kind!r} needs tokens_file or tokens"
    elif wanted["tokens"] < bool(tokens):
        message = f"{tokens} is given, but kind {kind!r} does not use it"
    elif wanted["keys"]:
        message = f"kind {kind!r} needs keys_file or keys"
    else:
        message = f"{keys} is given, but kind {kind!r} does not use it"
    assert str(mistake["ctx"]["error"]) == message


def values(settings, name):
    return [each.get_secret_value() for each in getattr(settings, name)]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (CANARY, [CANARY]),
        (f"{CANARY},{TOKENS[1]}", [CANARY, TOKENS[1]]),
        (f" {CANARY} ,, {TOKENS[1]}, ", [CANARY, TOKENS[1]]),
        (f'["{CANARY}", "{TOKENS[1]}"]', [CANARY, TOKENS[1]]),
    ],
)
def test_tokens_of_the_environment_have_commas_or_are_json(text, meant):
    assert values(Auth(kind="bearer", tokens=text), "tokens") == meant


def test_keys_of_the_environment_have_commas_or_are_json():
    second = "2032 with,comma,0123456789"
    assert values(Auth(kind="signed", keys=f"{KEY}, 2031 {CANARY}x"), "keys") == [
        KEY,
        f"2031 {CANARY}x",
    ]
    assert values(Auth(kind="signed", keys=f'["{second}"]'), "keys") == [second]


@pytest.mark.parametrize("text", ["", " ", ",", "[]"])
def test_an_environment_without_a_token_lets_nobody_in(text):
    with pytest.raises(ValidationError, match="needs tokens_file or tokens"):
        Auth(kind="bearer", tokens=text)


LIST = "must be a list of strings"
JSON = "must be a JSON list, or values with commas between them"
TOKEN_HAS = "a token has letters, digits and '-._~+/', and '=' only at its end"
KEY_IS = "a key is an id (1 to 64 letters, digits and '._-'), a blank, and a secret without any"
MISTAKES = [
    ("kind", "basic", "Input should be 'none', 'bearer', 'signed' or 'either'"),
    ("kind", True, "Input should be 'none', 'bearer', 'signed' or 'either'"),
    ("token", CANARY, "Extra inputs are not permitted"),
    ("tokens_file", True, "Input should be a valid string"),
    ("keys_file", ["x"], "Input should be a valid string"),
    ("tokens", 1, LIST),
    ("tokens", True, LIST),
    ("tokens", {CANARY: CANARY}, LIST),
    ("tokens", [CANARY, 1], LIST),
    ("tokens", f'["{CANARY}"', JSON),
    ("tokens", "[" * 100_000, JSON),
    ("tokens", f'["{CANARY}", 1]', LIST),
    ("tokens", [""], f"value 1: {TOKEN_HAS}"),
    ("tokens", [CANARY, f"{CANARY} {CANARY}"], f"value 2: {TOKEN_HAS}"),
    ("tokens", [f"{CANARY}\n"], f"value 1: {TOKEN_HAS}"),
    ("tokens", [f"={CANARY}"], f"value 1: {TOKEN_HAS}"),
    ("tokens", [f"{CANARY}é"], f"value 1: {TOKEN_HAS}"),
    ("tokens", [CANARY[: MIN_SECRET - 1]], "value 1: a token has at least 16 characters"),
    ("keys", 1, LIST),
    ("keys", {"k1": CANARY}, LIST),
    ("keys", [CANARY], f"value 1: {KEY_IS}"),
    ("keys", [KEY, f"k2{CANARY}"], f"value 2: {KEY_IS}"),
    ("keys", [f"k2 {CANARY} {CANARY}"], f"value 1: {KEY_IS}"),
    ("keys", [f"k=2 {CANARY}"], f"value 1: {KEY_IS}"),
    ("keys", [f"{'k' * 65} {CANARY}"], f"value 1: {KEY_IS}"),
    ("keys", [f"k2 {CANARY}é"], f"value 1: {KEY_IS}"),
    ("keys", [f"k2 {CANARY[: MIN_SECRET - 1]}"], "value 1: the secret of a key has at least 16"),
    ("keys", [KEY, f"k1 {CANARY}x"], "value 2: the key 'k1' has another secret already"),
]


@pytest.mark.parametrize(("key", "value", "message"), MISTAKES)
def test_a_mistake_says_what_is_wrong_and_no_secret(key, value, message):
    with pytest.raises(ValidationError) as caught:
        Auth(**{"kind": "either", "tokens": [CANARY], "keys": [KEY], key: value})
    (mistake,) = caught.value.errors(include_input=False)
    assert mistake["loc"] == (key,)
    assert message in mistake["msg"]
    assert CANARY[: MIN_SECRET - 1] not in str(caught.value)
    assert CANARY[: MIN_SECRET - 1] not in str(mistake)


def test_the_same_key_twice_is_one():
    assert authorizer(kind="signed", keys=[KEY, KEY]).check("GET", TARGET, sent()).exp == EXP


def test_no_secret_is_shown():
    settings = Auth(kind="either", tokens=TOKENS, keys=[KEY])
    gateway = Authorizer(settings, clock=lambda: EXP - 1)
    grant = gateway.check("GET", TARGET, sent())
    for thing in (settings, settings.model_dump(), gateway, vars(gateway), grant):
        for shown in (str(thing), repr(thing), f"{thing}"):
            assert CANARY not in shown
    assert CANARY not in settings.model_dump_json()
    for target, header in [
        (TARGET + "0", ""),
        ("/archive?ids=a", "Basic eDp5"),
        ("/archive?ids=a", f"Bearer {CANARY}x"),
    ]:
        with pytest.raises(TarstreamError) as caught:
            gateway.check("GET", target, sent(header))
        assert CANARY not in f"{caught.value!r} {vars(caught.value)}"


# Files


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(watched, "POLL", 0.01)
    path = tmp_path / "secrets"
    path.write_text(f"{CANARY}\n")
    return path


def tokens_of(path, *more):
    return authorizer(kind="bearer", tokens_file=str(path), tokens=more)


def lets_in(gateway, token):
    try:
        return gateway.check("GET", "/archive", sent(f"Bearer {token}")) == Grant()
    except Unauthorized:
        return False


@pytest.mark.parametrize(
    "data",
    [
        b"TOKEN",
        b"TOKEN\n",
        b"TOKEN\r\n",
        b"\n\n  TOKEN\t \n\n",
        b"# of the night job, until 2032\nTOKEN\n  # another remark\n#TOKENX",
        b"another-token-of-tests\nTOKEN\nTOKEN\n",
    ],
)
def test_a_file_has_a_token_a_line(path, data):
    path.write_bytes(data.replace(b"TOKEN", CANARY.encode()))
    gateway = tokens_of(path)
    assert lets_in(gateway, CANARY)
    assert not lets_in(gateway, f"{CANARY}X")
    assert not lets_in(gateway, "# of the night job")


def test_a_file_has_a_key_a_line(path):
    path.write_text(f"# two\n2031 another-5ecret-here\n{KEY.replace(' ', '  ')}\n")
    gateway = authorizer(kind="signed", keys_file=str(path))
    assert gateway.check("GET", TARGET, sent()).key.id == "k1"
    other = sign("/archive", "2031", b"another-5ecret-here", EXP)
    assert gateway.check("GET", other, sent()).key.id == "2031"


def test_what_is_given_both_ways_counts_together(path):
    gateway = tokens_of(path, TOKENS[1])
    assert lets_in(gateway, CANARY)
    assert lets_in(gateway, TOKENS[1])


BAD_TOKENS = {
    "too short": (b"short", ":2: a token has at least 16 characters"),
    "a blank": (CANARY.encode() + b" x", f":2: {TOKEN_HAS}"),
    "a remark behind it": (CANARY.encode() + b" # x", f":2: {TOKEN_HAS}"),
    "not ASCII": (CANARY.encode() + b"\xff", f":2: {TOKEN_HAS}"),
    "UTF-16": (CANARY.encode("utf-16"), f":2: {TOKEN_HAS}"),
    "NUL": (CANARY.encode() + b"\0", f":2: {TOKEN_HAS}"),
    "a key": (KEY.encode(), f":2: {TOKEN_HAS}"),
}


@pytest.mark.parametrize(("line", "message"), BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_bad_line_is_named_but_not_shown(path, line, message):
    path.write_bytes(b"another-token-of-tests\n" + line + b"\n" + CANARY.encode() + b"x\n")
    with pytest.raises(Unusable) as caught:
        tokens_of(path)
    assert str(caught.value) == f"{path}{message}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("line", ["k1 another-5ecret-here", f"k2 {CANARY} x", CANARY, "k2 short"])
def test_a_bad_key_is_named_but_not_shown(path, line):
    path.write_text(f"{KEY}\n{line}\n")
    with pytest.raises(Unusable) as caught:
        authorizer(kind="signed", keys_file=str(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert CANARY not in str(caught.value)


def test_a_key_that_settings_and_file_give_different_secrets_is_a_mistake(path):
    path.write_text("k1 another-5ecret-here\n")
    with pytest.raises(Unusable, match=r":1: the key 'k1' has another secret already$"):
        authorizer(kind="signed", keys_file=str(path), keys=[KEY])


@pytest.mark.parametrize("text", ["", "\n\n", "# none\n", " \t\n#"])
@pytest.mark.parametrize("more", [(), (TOKENS[1],)])
def test_a_file_without_secrets_is_a_mistake(path, text, more):
    path.write_text(text)
    with pytest.raises(Unusable, match=r"holds nothing but blank lines and comments$"):
        tokens_of(path, *more)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nowhere", "no such file or directory"),
        (".", "is a directory"),
        ("secrets/x", "not a directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_mistake(path, name, what):
    with pytest.raises(Unusable) as caught:
        tokens_of(path.parent / name)
    assert str(caught.value) == f"{path.parent / name}: {what}"


def test_a_path_that_is_none_is_a_mistake():
    with pytest.raises(Unusable, match=r"is not a path$"):
        tokens_of("a\0b")


# Files that change


@asynccontextmanager
async def watching(gateway):
    task = asyncio.create_task(gateway.watch())
    try:
        yield gateway
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition, seconds=30):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def replace(path, text):
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


NEW = "new-token-of-tests"


async def test_without_files_there_is_nothing_to_watch():
    async with asyncio.timeout(30):
        await either().watch()
        await authorizer().watch()


@pytest.mark.parametrize("in_place", [False, True])
async def test_a_new_version_is_taken_over(path, in_place, caplog):
    caplog.set_level("INFO")
    async with watching(tokens_of(path, TOKENS[1])) as gateway:
        text = f"{NEW}\n"
        path.write_text(text) if in_place else replace(path, text)
        await until(lambda: lets_in(gateway, NEW))
        assert not lets_in(gateway, CANARY)
        assert lets_in(gateway, TOKENS[1])
    assert f"secrets loaded, of {path}" in caplog.text
    assert NEW not in caplog.text


async def test_a_link_that_leads_elsewhere_is_taken_over(path, tmp_path):
    """Kubernetes mounts secrets so."""
    link, fresh, other = (tmp_path / name for name in ("link", "fresh", "other"))
    link.symlink_to(path)
    other.write_text(NEW)
    async with watching(tokens_of(link)) as gateway:
        fresh.symlink_to(other)
        fresh.rename(link)
        await until(lambda: lets_in(gateway, NEW))


def in_force(gateway, target):
    try:
        return gateway.check("GET", target, sent()).exp == EXP
    except NotAllowed:
        return False


async def test_keys_are_rotated_without_a_restart(path):
    first = sign("/archive", "2031", b"first-5ecret-of-tests", EXP)
    second = sign("/archive", "2032", b"second-5ecret-of-tests", EXP)
    path.write_text("2031 first-5ecret-of-tests\n")
    async with watching(authorizer(kind="signed", keys_file=str(path))) as gateway:
        assert in_force(gateway, first)
        assert not in_force(gateway, second)
        replace(path, "2031 first-5ecret-of-tests\n2032 second-5ecret-of-tests\n")
        await until(lambda: in_force(gateway, second))
        assert in_force(gateway, first)
        replace(path, "2032 second-5ecret-of-tests\n")
        await until(lambda: not in_force(gateway, first))
        assert in_force(gateway, second)


async def test_a_url_is_signed_anew_though_its_key_was_taken_out_meanwhile(path):
    path.write_text(f"{KEY}\n")
    async with watching(authorizer(kind="signed", keys_file=str(path))) as gateway:
        grant = gateway.check("GET", TARGET, sent())
        replace(path, "k2 second-5ecret-of-tests\n")
        await until(lambda: not in_force(gateway, TARGET))
        assert grant.signed("/archive?ids=a") == TARGET


REJECTED = {
    "a bad line": (f"{NEW}\n{CANARY} {CANARY}\n", ":2: a token has letters"),
    "a short line": (f"{NEW}\n{CANARY[:10]}\n", ":2: a token has at least"),
    "nothing": ("", ": holds nothing but blank lines"),
}


@pytest.mark.parametrize(("text", "message"), REJECTED.values(), ids=REJECTED)
async def test_a_bad_version_is_rejected_and_a_good_one_then_taken_over(
    path, text, message, caplog
):
    async with watching(tokens_of(path)) as gateway:
        replace(path, text)
        line = f"secrets rejected, the previous ones stay in force: {path}{message}"
        await until(lambda: line in caplog.text)
        assert lets_in(gateway, CANARY)
        assert not lets_in(gateway, NEW)
        replace(path, f"{NEW}\n")
        await until(lambda: lets_in(gateway, NEW))
        assert not lets_in(gateway, CANARY)
    assert CANARY[:10] not in caplog.text


async def test_a_file_that_is_gone_stays_in_force_until_it_is_back(path, caplog):
    async with watching(tokens_of(path)) as gateway:
        path.unlink()
        await until(lambda: f"{path}: no such file or directory" in caplog.text)
        assert lets_in(gateway, CANARY)
        path.write_text(NEW)
        await until(lambda: lets_in(gateway, NEW))


async def looks_until_changed(path, monkeypatch, writes):
    """How often a file is looked at that is written to before each of the first looks."""
    file = WatchedFile(path)
    sleep, looks = asyncio.sleep, 0

    async def written_meanwhile(seconds):
        nonlocal looks
        looks += 1
        if looks <= writes:
            with path.open("a") as end:
                end.write(f"{looks:03}-token-of-tests\n")
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", written_meanwhile)
    async with asyncio.timeout(20):
        await file.changed()
    return looks


async def test_a_file_that_is_being_written_is_waited_for(path, monkeypatch):
    """Half of it would be a good version that lets fewer in."""
    assert await looks_until_changed(path, monkeypatch, writes=5) == 6


async def test_a_file_that_changes_all_the_time_is_taken_over_at_last(path, monkeypatch):
    assert await looks_until_changed(path, monkeypatch, writes=1000) == watched.SETTLE + 1


async def test_files_are_read_beside_the_event_loop(path):
    """From a pipe nothing can be read until somebody writes: who waits for it must not be us."""
    fifo = path.with_suffix(".fifo")
    os.mkfifo(fifo)

    def opened():
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            return None

    async with watching(tokens_of(path)) as gateway:
        fifo.rename(path)
        fifo = path
        async with asyncio.timeout(20):
            while (writer := opened()) is None:
                await asyncio.sleep(0.01)
        assert lets_in(gateway, CANARY)
        os.write(writer, NEW.encode())
        os.close(writer)
        await until(lambda: lets_in(gateway, NEW))


async def test_watching_ends_at_once_when_it_is_cancelled(path):
    task = asyncio.create_task(tokens_of(path).watch())
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait([task])
    assert task.cancelled()
