"""Signed URLs: what counts, what does not, and that other languages and clients agree."""

import asyncio
import hashlib
import hmac
import os
import re
import string
import subprocess
import sys
import time
import urllib.request

import aiohttp
import pytest
import yarl
from gateway import ROOT
from hypothesis import given
from hypothesis import strategies as st
from origin import Origin

from tarstream.auth import Auth, Authorizer, NotAllowed, Unauthorized
from tarstream.signing import (
    MIN_SECRET,
    Key,
    Signature,
    SignatureError,
    parse_key,
    read_signature,
    sign,
)

SECRET = "canary-5ecret-in-urls"
EXP = 4_000_000_000
EXAMPLES = ROOT / "examples" / "signing"
DOCUMENT = (ROOT / "docs" / "auth.md").read_text()

UNRESERVED = string.ascii_letters + string.digits + "-._~"
ENCODED = "".join(f"%{byte:02X}" for byte in range(256) if chr(byte) not in UNRESERVED)
EVERYTHING = f"/archive?ids={UNRESERVED}!$()*+,;:@/?={ENCODED}"
"""A target with all that can be signed."""

targets = st.tuples(
    st.sampled_from(["/archive", "/plan", "/files/archive", "/"]),
    st.text(UNRESERVED + "!$&()*+,;=:@/?", max_size=40),
).map("?".join)


def signed(target="/archive?ids=a,b", key_id="k1", secret=SECRET, exp=EXP):
    return sign(target, key_id, secret.encode(), exp)


def why_not(*arguments, **how):
    """What is wrong with what is to be signed."""
    with pytest.raises(SignatureError) as caught:
        signed(*arguments, **how)
    return str(caught.value)


def authorizer(base_path="", now=EXP - 1):
    settings = Auth(kind="signed", keys=[f"k1 {SECRET}", "k2 another-5ecret-in-urls"])
    return Authorizer(settings, base_path, lambda: now)


class NoFields:
    """A request without headers."""

    def getall(self, key, default, /):
        return default


def check(target, method="GET", **how):
    return authorizer(**how).check(method, target, NoFields())


def by_hand(text, secret=SECRET):
    """The text, signed without any of our code."""
    sig = hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
    return f"{text}&sig={sig}"


# What is signed


def test_a_url_is_signed_as_documented():
    assert signed() == by_hand(f"/archive?ids=a,b&exp={EXP}&key=k1")


def test_a_path_without_a_query_gets_one():
    assert signed("/archive") == by_hand(f"/archive?exp={EXP}&key=k1")


@pytest.mark.parametrize(
    "path", ["/archive?", "/archive?ids=a&", "/a?b?c=/d", "/", "//a", EVERYTHING]
)
def test_what_is_signed_is_let_in(path):
    grant = check(signed(path))
    assert (grant.key.id, grant.exp) == ("k1", EXP)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("key_id", "secret"), [("k1", SECRET), ("k2", "another-5ecret-in-urls")])
def test_each_key_in_force_counts(method, key_id, secret):
    assert check(signed(key_id=key_id, secret=secret), method).key == Key(key_id, secret.encode())


def test_parameters_may_stand_in_any_order_before_sig():
    for text in (
        f"/archive?exp={EXP}&key=k1&ids=a",
        f"/archive?key=k1&ids=a&exp={EXP}",
        f"/archive?&&key=k1&ids=a&&exp={EXP}&",
    ):
        assert check(by_hand(text)).exp == EXP


CANNOT_BE_SENT = {
    "an apostrophe": "/archive?ids=it's",
    "a blank": "/archive?ids=a b",
    "a quote": '/archive?ids="',
    "not ASCII": "/archive?ids=é",
    "a surrogate": "/archive?ids=\udcff",
    "a control character": "/archive?ids=a\x00",
    "a newline at the end": "/archive?ids=a\n",
    "a fragment": "/archive?ids=a#b",
    "brackets": "/archive?ids=[a]",
    "braces": "/archive?ids={a}",
    "a backslash": "/archive\\?ids=a",
    "a bar": "/archive?ids=a|b",
    "half an encoded byte": "/archive?ids=%2",
    "a percent sign": "/archive?ids=100%",
    "hex digits in small letters": "/archive?ids=%2f",
    "an encoded letter": "/archive?ids=%41",
    "an encoded digit": "/archive?ids=%39",
    "an encoded tilde": "/archive?ids=%7E",
    "an encoded dot": "/%2E%2E/archive",
    "a whole URL": "http://host/archive?ids=a",
    "no path": "?ids=a",
    "nothing": "",
}


@pytest.mark.parametrize("target", CANNOT_BE_SENT.values(), ids=CANNOT_BE_SENT)
def test_what_clients_would_send_differently_is_not_signed(target):
    assert why_not(target).startswith(
        "only a path and a query can be signed, percent-encoded as clients send them: "
    )


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ("/archive?ids=it's here", "'"),
        ("/archive?ids=a b%2f", " "),
        ("/archive?ids=%2f'", "%2f"),
        ("/archive?ids=%7Ea", "%7E"),
        ("/archive?ids=100%", "%"),
        ("?ids=a", "?"),
        ("http://host/archive", "h"),
        ("", ""),
    ],
)
def test_what_cannot_be_signed_is_named(target, wrong):
    assert why_not(target).endswith(f": {wrong!r} is not")


@pytest.mark.parametrize("name", ["exp", "key", "sig"])
@pytest.mark.parametrize(
    "target",
    ["/archive?{}=1", "/archive?ids=a&{}", "/archive?{}=&ids=a", "/archive?{}=1&ids=a?b"],
)
def test_what_has_a_parameter_of_ours_is_not_signed(name, target):
    with pytest.raises(SignatureError, match=f"parameter '{name}' already"):
        signed(target.format(name))


@pytest.mark.parametrize(
    "key_id", ["", "k 1", "k&exp=1", "k=1", "k%31", "schlüssel", "k" * 65, "k\n"]
)
def test_a_key_id_needs_no_encoding(key_id):
    assert why_not(key_id=key_id) == "a key id is 1 to 64 letters, digits, '.', '_' and '-'"


@pytest.mark.parametrize("exp", [0, -1, 10**12, 10.0, True, "1000000000", None])
def test_an_expiry_is_unix_seconds(exp):
    assert why_not(exp=exp) == "an expiry is whole Unix seconds, of twelve digits at most"


def test_an_expiry_is_not_too_long_to_be_written():
    with pytest.raises(SignatureError, match="of twelve digits at most"):
        signed(exp=10**5000)


# What counts


def test_a_url_expires_at_its_second():
    assert check(signed(), now=EXP - 0.001).exp == EXP
    for now, late in ((EXP, 0), (EXP + 90.4, 90)):
        with pytest.raises(NotAllowed, match=f"^the signed URL expired {late} seconds ago$"):
            check(signed(), now=now)


@pytest.mark.parametrize(
    "target", ["/archive", "/archive?", "/archive?ids=a", "/archive?Sig=x&xsig=y&ids=sig", "/%73ig"]
)
def test_without_a_signature_it_is_401_with_a_challenge(target):
    with pytest.raises(Unauthorized) as caught:
        check(target)
    assert caught.value.status == 401
    assert caught.value.challenge == 'Signed-URL realm="tarstream"'


GOOD = f"exp={EXP}&key=k1"
HEX = "0" * 64
HEX_DIGITS = "sig must be 64 hex digits, in small letters"
REFUSED = {
    "only a signature": (f"/archive?sig={HEX}", "exp must be given"),
    "no expiry": (f"/archive?key=k1&sig={HEX}", "exp must be given"),
    "no key": (f"/archive?exp={EXP}&sig={HEX}", "key must be given"),
    "two expiries": (f"/archive?{GOOD}&exp={EXP}&sig={HEX}", "exp must be given once only"),
    "two keys": (f"/archive?{GOOD}&key=k2&sig={HEX}", "key must be given once only"),
    "two signatures": (f"/archive?{GOOD}&sig={HEX}&sig={HEX}", "sig must be given once only"),
    "an expiry after it": (f"/archive?key=k1&sig={HEX}&exp={EXP}", "sig must come last"),
    "something after it": (f"/archive?{GOOD}&sig={HEX}&version=x", "sig must come last"),
    "an ampersand after it": (f"/archive?{GOOD}&sig={HEX}&", "sig must come last"),
    "no value": (f"/archive?{GOOD}&sig", HEX_DIGITS),
    "an empty value": (f"/archive?{GOOD}&sig=", HEX_DIGITS),
    "capitals": (f"/archive?{GOOD}&sig={'A' * 64}", HEX_DIGITS),
    "too short": (f"/archive?{GOOD}&sig={HEX[1:]}", HEX_DIGITS),
    "too long": (f"/archive?{GOOD}&sig={HEX}0", HEX_DIGITS),
    "a fragment": (f"/archive?{GOOD}&sig={HEX}#x", HEX_DIGITS),
    "other digits": (f"/archive?{GOOD}&sig={'٣' * 64}", HEX_DIGITS),
    "bytes that are no text": (
        f"/archive?{GOOD}&sig=" + "\udcff" * 64,
        HEX_DIGITS,
    ),
    "an empty expiry": (f"/archive?exp=&key=k1&sig={HEX}", "exp must be Unix seconds"),
    "a signed expiry": (f"/archive?exp=+{EXP}&key=k1&sig={HEX}", "exp must be Unix seconds"),
    "a negative expiry": (f"/archive?exp=-1&key=k1&sig={HEX}", "exp must be Unix seconds"),
    "a zero before it": (f"/archive?exp=0{EXP}&key=k1&sig={HEX}", "exp must be Unix seconds"),
    "an expiry in words": (f"/archive?exp=never&key=k1&sig={HEX}", "exp must be Unix seconds"),
    "an expiry as a float": (f"/archive?exp=4e9&key=k1&sig={HEX}", "exp must be Unix seconds"),
    "an expiry with a break": (
        f"/archive?exp={EXP}\n&key=k1&sig={HEX}",
        "exp must be Unix seconds",
    ),
    "an expiry in other digits": (f"/archive?exp=٣&key=k1&sig={HEX}", "exp must be Unix seconds"),
    "a huge expiry": (f"/archive?exp={'9' * 5000}&key=k1&sig={HEX}", "exp must be Unix seconds"),
    "an empty key": (f"/archive?exp={EXP}&key=&sig={HEX}", "key must be a key's id"),
    "an encoded key": (f"/archive?exp={EXP}&key=%6B1&sig={HEX}", "key must be a key's id"),
    "a key that is not ASCII": (f"/archive?exp={EXP}&key=ключ&sig={HEX}", "key must be a key's id"),
    "a key that is too long": (
        f"/archive?exp={EXP}&key={'k' * 65}&sig={HEX}",
        "key must be a key's id",
    ),
}


@pytest.mark.parametrize(("target", "why"), REFUSED.values(), ids=REFUSED)
def test_a_malformed_signature_is_403(target, why):
    with pytest.raises(NotAllowed) as caught:
        check(target)
    assert caught.value.status == 403
    assert caught.value.detail == f"the signed URL is wrong: {why}"


@pytest.mark.parametrize("name", [name for name, (_, why) in REFUSED.items() if "once" in why])
def test_what_is_given_twice_is_403_however_well_it_is_signed(name):
    """A parser that took the first and one that took the last would not let in the same."""
    text = REFUSED[name][0].removesuffix(f"&sig={HEX}")
    with pytest.raises(NotAllowed, match="once only"):
        check(by_hand(text))


@pytest.mark.parametrize("exp", ["9" * 13, f"0{EXP}", f"+{EXP}", f"{EXP}.0"])
def test_an_expiry_that_is_none_is_403_however_well_it_is_signed(exp):
    with pytest.raises(NotAllowed, match="exp must be Unix seconds"):
        check(by_hand(f"/archive?ids=a&exp={exp}&key=k1"))


def test_a_key_that_is_not_in_force_is_403():
    with pytest.raises(NotAllowed, match="a key that is not in force"):
        check(signed(key_id="k3"))


def test_the_secret_of_another_key_is_403():
    with pytest.raises(NotAllowed, match="its signature is not that of path and query"):
        check(signed(key_id="k2"))


def test_whether_it_expired_is_told_only_of_a_url_that_is_ours():
    with pytest.raises(NotAllowed, match="its signature is not that of path and query"):
        check(signed(secret="guessed-by-somebody"), now=EXP + 1)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "QUERY", ""])
def test_nothing_but_get_and_head_can_be_signed(method):
    for target in (signed(), "/archive"):
        with pytest.raises(NotAllowed, match="only GET and HEAD"):
            check(target, method)


def test_the_path_is_signed_as_the_client_sees_it():
    target = signed("/files/archive?ids=a").removeprefix("/files")
    assert check(target, base_path="/files").exp == EXP
    for base_path in ("", "/file", "/files/"):
        with pytest.raises(NotAllowed):
            check(target, base_path=base_path)


def test_a_target_with_scheme_and_host_is_403():
    with pytest.raises(NotAllowed):
        check("http://127.0.0.1" + signed())


def test_bytes_beyond_ascii_are_signed_as_they_are():
    """A client may send them raw; aiohttp hands them on as text, or as surrogates."""
    for sent in ("/archive?ids=é".encode(), b"/archive?ids=\xff"):
        text = sent + f"&{GOOD}".encode()
        sig = hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()
        assert check(f"{text.decode(errors='surrogateescape')}&sig={sig}").exp == EXP


@given(targets, st.integers(1, 10**12 - 1))
def test_every_target_without_our_parameters_is_let_in_once_signed(target, exp):
    try:
        url = signed(target, exp=exp)
    except SignatureError:
        assert re.search(r"[?&](exp|key|sig)(=|&|$)", target)
    else:
        assert url.startswith(target)
        assert check(url, now=0).exp == exp


@given(targets, st.data())
def test_no_other_target_is_let_in(target, data):
    """Any piece of a signed URL replaced by anything: another URL, or refused."""
    try:
        url = signed(target)
    except SignatureError:
        return
    start = data.draw(st.integers(0, len(url)))
    stop = data.draw(st.integers(start, min(len(url), start + 3)))
    piece = data.draw(st.one_of(st.text(max_size=3), st.text(string.printable, max_size=2)))
    other = url[:start] + piece + url[stop:]
    if other == url:
        return
    with pytest.raises((NotAllowed, Unauthorized)):
        check(other)


@given(targets, st.permutations(range(5)))
def test_no_other_order_of_its_parameters_is_let_in(target, order):
    path = target.partition("?")[0]
    url = signed(f"{path}?ids=a&name=b")
    fields = url.partition("?")[2].split("&")
    other = f"{path}?{'&'.join(fields[index] for index in order)}"
    if other != url:
        with pytest.raises((NotAllowed, Unauthorized)):
            check(other)


@pytest.mark.parametrize("name", ["exp", "key", "sig"])
@given(value=st.text("0123456789abcdefk", max_size=70))
def test_no_other_value_is_let_in(name, value):
    url = signed()
    other = re.sub(rf"{name}=\w+", lambda _: f"{name}={value}", url)
    if other != url:
        with pytest.raises(NotAllowed):
            check(other)


@given(st.text(), st.text())
def test_any_text_is_read_or_refused(path, query):
    try:
        signature = read_signature(f"{path}?{query}")
    except SignatureError:
        return
    assert signature is None or isinstance(signature, Signature)


def test_a_signature_that_fits_another_secret_does_not_fit():
    signature = read_signature(signed())
    assert signature.fits(SECRET.encode())
    assert not signature.fits(b"another-5ecret-in-urls")


def test_no_secret_and_no_signature_is_shown():
    url = signed()
    signature = read_signature(url)
    for shown in (repr(Key("k1", SECRET.encode())), repr(signature), repr(check(url))):
        assert SECRET not in shown
        assert url[-64:] not in shown
    for target in (url + "x", url.replace("k1", "k3"), url.replace("ids", "idz")):
        with pytest.raises(NotAllowed) as caught:
            check(target)
        assert SECRET not in repr(caught.value)
        assert url[-64:] not in repr(caught.value)


# Other languages


SIGNERS = {
    "python": [sys.executable, EXAMPLES / "sign.py"],
    "javascript": ["node", EXAMPLES / "sign.js"],
    "php": ["php", EXAMPLES / "sign.php"],
    "sh": ["sh", EXAMPLES / "sign.sh"],
    "bash": ["bash", EXAMPLES / "sign.sh"],
    "busybox": ["busybox", "sh", EXAMPLES / "sign.sh"],
}
SECRETS = {
    "usual": SECRET,
    "all that may stand in it": "".join(map(chr, range(0x21, 0x7F))),
    "64 bytes": "x" * 64,
    "65 bytes": "x" * 65,
}
URLS = {
    "usual": "https://files.example.com/archive?ids=a,b",
    "with a port": "http://127.0.0.1:8080/files/archive?id=a%2Cb&name=x",
    "without a query": "http://h/archive",
    "everything": f"http://h{EVERYTHING}",
}
WITH_SCHEME = re.compile("https?://[^/]+")


def run(command, **environment):
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


def test_every_example_is_run():
    assert {command[-1] for command in SIGNERS.values()} == set(EXAMPLES.iterdir())


@pytest.mark.parametrize("command", SIGNERS.values(), ids=SIGNERS)
def test_the_examples_sign_as_we_do(command):
    for secret, url in [(SECRET, url) for url in URLS.values()] + [
        (secret, URLS["usual"]) for secret in SECRETS.values()
    ]:
        done = run([*command, "k1", str(EXP), url], TARSTREAM_SIGN_SECRET=secret)
        target = signed(WITH_SCHEME.sub("", url), secret=secret)
        assert (done.stdout, done.stderr) == (f"{WITH_SCHEME.match(url)[0]}{target}\n", "")
        gateway = Authorizer(Auth(kind="signed", keys=[f"k1 {secret}"]), clock=lambda: EXP - 1)
        assert gateway.check("GET", target, NoFields()).exp == EXP


@pytest.mark.parametrize("name", ["sh", "busybox"])
def test_the_shell_shows_no_secret_to_ps(name, tmp_path):
    """All commands that it starts are recorded by ones that stand before them in PATH."""
    log = tmp_path / "argv"
    for tool in ("openssl", "od", "sed", "printf", "cut"):
        (tmp_path / tool).write_text(
            f'#!/bin/sh\necho "{tool} $*" >>"{log}"\nPATH="{os.environ["PATH"]}" exec {tool} "$@"\n'
        )
        (tmp_path / tool).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run(
        [*SIGNERS[name], "k1", str(EXP), URLS["usual"]], TARSTREAM_SIGN_SECRET=SECRET, PATH=path
    )
    assert done.returncode == 0, done.stderr
    assert "openssl" in log.read_text()
    assert SECRET not in log.read_text()


def test_the_document_has_the_signature_of_its_example():
    secret = re.search(r"`2031 (\S+)`", DOCUMENT)[1]
    target, sig = re.search(r"(?m)^(/archive\?\S+)&sig=([0-9a-f]{64})$", DOCUMENT).groups()
    assert by_hand(target, secret) == f"{target}&sig={sig}"
    assert read_signature(f"{target}&sig={sig}").key_id == "2031"


def test_the_document_has_what_the_shell_does_in_one_line():
    line = re.search(r"(?m)^#   (sig=.*)$", (EXAMPLES / "sign.sh").read_text())[1]
    done = run(
        ["sh", "-c", f'{line}; echo "$sig"'],
        target=f"/archive?ids=a,b&exp={EXP}&key=k1",
        TARSTREAM_SIGN_SECRET=SECRET,
    )
    assert signed().endswith(f"&sig={done.stdout.strip()}")


# Clients


async def ask_aiohttp(url):
    async with aiohttp.ClientSession() as session, session.get(yarl.URL(url, encoded=True)):
        pass


def started(*command):
    return lambda url: run([part.replace("URL", url) for part in command])


CLIENTS = {
    "curl": started("curl", "-sS", "URL"),
    "wget": started("wget", "-q", "-O-", "URL"),
    "busybox wget": started("busybox", "wget", "-q", "-O-", "URL"),
    "aria2c": started("aria2c", "-q", "--dir=/tmp", "--out=/dev/null", "--dry-run", "URL"),
    "fetch": started("node", "-e", "fetch(process.argv[1])", "URL"),
    "php": started("php", "-r", "file_get_contents($argv[1]);", "--", "URL"),
    "urllib": lambda url: urllib.request.urlopen(url).close(),
    "aiohttp": lambda url: asyncio.run(ask_aiohttp(url)),
}


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_what_can_be_signed_is_sent_as_it_is(client):
    """Clients that repair URLs find nothing to repair."""
    target = signed(EVERYTHING)
    with Origin().in_thread() as origin:
        origin.add("/archive", b"")
        client(origin.root + target)
        assert {request.target for request in origin.requests} == {target}


# python -m tarstream sign


def sign_by_command(*arguments, **environment):
    environment = {"TARSTREAM_SIGN_SECRET": SECRET, **environment}
    return run([sys.executable, "-m", "tarstream", "sign", *arguments], **environment)


@pytest.mark.parametrize("url", [*URLS.values(), "/archive?ids=a"])
def test_the_command_prints_a_url_that_is_let_in(url):
    before = int(time.time())
    done = sign_by_command("--key-id", "k1", "--expires", "1h", url)
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.removesuffix("\n")
    assert printed.startswith(url)
    exp = check(WITH_SCHEME.sub("", printed), now=before).exp
    assert before + 3600 <= exp <= int(time.time()) + 3600


@pytest.mark.parametrize(
    ("given", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800)]
)
def test_a_url_counts_for_as_long_as_is_said(given, seconds):
    before = int(time.time())
    printed = sign_by_command("--key-id=k1", f"--expires={given}", "/archive?ids=a").stdout
    exp = check(printed.rstrip(), now=before).exp
    assert before + seconds <= exp <= int(time.time()) + seconds


@pytest.mark.parametrize("text", [f"{SECRET}\n", SECRET, f"  {SECRET}\r\n"])
def test_the_secret_may_stand_in_a_file(tmp_path, text):
    path = tmp_path / "secret"
    path.write_text(text, newline="")
    done = sign_by_command(
        "--key-id=k1", "--expires=1h", f"--secret-file={path}", "/a", TARSTREAM_SIGN_SECRET="other"
    )
    assert check(done.stdout.rstrip(), now=0).key.id == "k1"


def test_a_file_without_a_secret_is_not_made_up_for_by_the_environment(tmp_path):
    path = tmp_path / "secret"
    path.write_text("\n")
    done = sign_by_command("--key-id=k1", "--expires=1h", f"--secret-file={path}", "/a")
    assert (done.returncode, done.stderr) == (2, f"cannot sign: there is no secret in {path}\n")


WRONG = {
    "no secret": (["/a"], {"TARSTREAM_SIGN_SECRET": ""}, "no secret in TARSTREAM_SIGN_SECRET"),
    "a short one": (["/a"], {"TARSTREAM_SIGN_SECRET": "short"}, "at least 16 characters"),
    "one with a blank": (["/a"], {"TARSTREAM_SIGN_SECRET": f"{SECRET} x"}, "a secret without any"),
    "no file": (["--secret-file=nowhere", "/a"], {}, "nowhere: no such file or directory"),
    "a directory": (["--secret-file=.", "/a"], {}, ".: is a directory"),
    "a URL with a blank": (["http://h/archive?ids=a b"], {}, "' ' is not"),
    "a signed URL": (["/archive?ids=a&sig=x"], {}, "a parameter 'sig' already"),
    "a host only": (["http://h"], {}, "only a path and a query"),
    "a key's id": (["--key-id=k&1", "/a"], {}, "a key is an id"),
    "an expiry far away": (["--expires=9999999999d", "/a"], {}, "of twelve digits at most"),
}


@pytest.mark.parametrize(("arguments", "environment", "why"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_signed_is_one_line_and_status_2(arguments, environment, why):
    done = sign_by_command("--key-id=k1", "--expires=1h", *arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"cannot sign: .*\n", done.stderr)
    assert why in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("expires", ["", "1", "1w", "-1h", "0h", "1.5h", "h", "1h30m", "١h"])
def test_a_time_that_is_none_is_refused(expires):
    done = sign_by_command("--key-id=k1", f"--expires={expires}", "/a")
    assert done.returncode == 2
    assert "must be like 90s, 30m, 1h or 7d" in done.stderr


def test_a_secret_is_not_taken_from_the_command_line(tmp_path):
    """Not even by an abbreviation."""
    path = tmp_path / "secret"
    path.write_text(SECRET)
    done = sign_by_command("--key-id=k1", "--expires=1h", f"--secret={path}", "/a")
    assert done.returncode == 2
    assert "unrecognized arguments" in done.stderr


def test_the_document_shows_the_command_as_it_is():
    shown = re.search(r"python -m tarstream (sign .*?)'(\S+)'", DOCUMENT)
    done = sign_by_command(*shown[1].split()[1:], shown[2])
    assert done.returncode == 0
    assert done.stdout.startswith(shown[2])


@pytest.mark.parametrize(
    "line", ["", "id", "id\tse cret" + "x" * 40, "i d " + "x" * 40, "é " + "x" * 40]
)
def test_what_is_no_key_is_told_what_one_is(line):
    expected = (
        "a key is an id (1 to 64 letters, digits and '._-'), a blank, and a secret without any"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        parse_key(line)


def test_a_secret_has_as_many_characters_as_it_must():
    assert parse_key(f"a {'x' * MIN_SECRET}")[1].secret == b"x" * MIN_SECRET
    with pytest.raises(
        ValueError, match=f"^the secret of a key has at least {MIN_SECRET} characters$"
    ):
        parse_key(f"a {'x' * (MIN_SECRET - 1)}")
