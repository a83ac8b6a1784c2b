"""Only what the configuration allows is asked for: as a URL, at each redirect, at each address."""

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit
from weakref import WeakSet

import faults
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made import Made
from origin import Object, Origin
from test_stores import copied
from yarl import URL

from tarstream.errors import Forbidden, ObjectChanged, OriginError
from tarstream.stores import Upstream, open_stores
from tarstream.stores.base import AddressRefused
from tarstream.stores.guard import MAX_REDIRECTS, Guarded, Policy, socket_factory
from tarstream.stores.http import HttpStore, session
from tarstream.stores.limit import Slots
from tarstream.stores.literal import LiteralStore

CONTENT = Made(100_000).read()
N = len(CONTENT)
TAG = Object(CONTENT).etag

ALLOW = [
    "https://files.example.com",
    "http://127.0.0.1:8001/",
    "https://*.example.org",
    "http://[2001:db8::1]:8080",
    "https://bücher.example",
    "https://Port.Example:8443",
    "file:///srv/data",
    "file:///srv/with%20blank/",
]

ALLOWED = [
    "https://files.example.com",
    "https://files.example.com/",
    "https://files.example.com/a/../b?c=@#d",
    "https://files.example.com?a=https://evil.example",
    "https://files.example.com#@evil.example",
    "https://files.example.com/@evil.example:8443/",
    "https://files.example.com:443/",
    "https://files.example.com:/",
    "HTTPS://FILES.Example.COM/",
    "http://127.0.0.1:8001/x",
    "https://a.example.org/x",
    "https://a.b.EXAMPLE.org/x",
    "https://xn--bcher-kva.example.org/",
    "https://bücher.example.org/",
    "http://[2001:db8::1]:8080/",
    "http://[2001:DB8:0:0::1]:8080/",
    "https://bücher.example/für",
    "https://BÜCHER.example/",
    "https://xn--bcher-kva.example/",
    "https://port.example:8443/",
    "file:///srv/data/x",
    "file:///srv/data/a%20b/ü",
    "file:///srv/with%20blank/x",
    "file:///srv/with blank/x",
]

FORBIDDEN = [
    # Another origin: scheme, host and port.
    "http://files.example.com/",
    "http://files.example.com:443/",
    "https://files.example.com:80/",
    "https://files.example.com:8443/",
    "https://files.example.com:0/",
    "https://port.example/",
    "https://evil.example/",
    "https://example.com/",
    "https://evil.files.example.com/",
    "https://evilfiles.example.com/",
    "https://files.example.com.evil.example/",
    "https://files.example.com./",
    "https://files.example.comx/",
    # A wildcard stands for subdomains, of one scheme and port.
    "https://example.org/",
    "https://evilexample.org/",
    "https://a.example.org.evil.example/",
    "https://a.example.org./",
    "https://a.example.org:8443/",
    "http://a.example.org/",
    "https://*.example.com/",
    # Somebody else's name for an address is not that address.
    "http://0x7f000001:8001/",
    "http://2130706433:8001/",
    "http://0177.0.0.1:8001/",
    "http://127.1:8001/",
    "http://127.0.0.1.:8001/",
    "http://[::ffff:127.0.0.1]:8001/",
    "http://[::1]:8001/",
    "http://localhost:8001/",
    "http://[2001:db8::1%25lo]:8080/",
    "http://[2001:db8::2]:8080/",
    # What parsers read in different ways.
    "https://files.example.com@evil.example/",
    "https://files.example.com:443@evil.example/",
    "https://files.example.com%40evil.example/",
    "https://user@files.example.com/",
    "https://user:password@files.example.com/",
    "https://@files.example.com/",
    "https://evil.example\\@files.example.com/",
    "https://files.example.com\\@evil.example/",
    "https://files.example.com\\.evil.example/",
    "https://files.example.com/\\evil.example",
    "https:\\\\files.example.com/",
    "https:/files.example.com/",
    "https:///files.example.com/",
    "https:files.example.com/",
    "//files.example.com/",
    "files.example.com/",
    "https://files.example.com:443:443/",
    "https://files.example.com:x/",
    "https://files.example.com:-443/",
    "https://files.example.com:99999/",
    "https://[files.example.com]:1/",
    "https://[files.example.com/",
    "https://files.example.com]/",
    "https://",
    "https:///",
    "https://:443/",
    "https://?files.example.com",
    "",
    # Control characters and blanks, wherever they stand.
    " https://files.example.com/",
    "\thttps://files.example.com/",
    "https://files.example.com /",
    "https://files.exam\tple.com/",
    "https://files.example.com\n/",
    "https://files.example.com/a b",
    "https://files.example.com/a\nb",
    "https://files.example.com/a\r\nHost: evil.example",
    "https://files.example.com/a\0b",
    "https://files.example.com/a\x7fb",
    "https://files.example.com/\n",
    # Letters that become separators when they are normalised.
    "https://files.example.com\uff0f.evil.example/",
    "https://evil.example\uff03.files.example.com/",
    "https://user\uff20files.example.com/",
    "https://files.example.com\u2044evil.example/",
    "https://files.example.com\u200d/",
    "https://\ud800.example.org/",
    # Other schemes.
    "ftp://files.example.com/",
    "ws://files.example.com/",
    "gopher://files.example.com/",
    "unix:///srv/data/x",
    "data:text/plain,x",
    # Files elsewhere.
    "file:///srv/data",
    "file:///srv/data2/x",
    "file:///srv/",
    "file:///etc/passwd",
    "file:///srv/data/../secret",
    "file:///srv/data/./x",
    "file:///srv/data/%2e%2e/secret",
    "file:///srv/data/%2E./secret",
    "file:///srv/data/..%2fsecret",
    "file:///srv/data/a%2Fb",
    "file:///srv%2fdata/x",
    "file://localhost/srv/data/x",
    "file:/srv/data/x",
    "file:srv/data/x",
    "FILE:///srv/data/x",
    "/srv/data/x",
]


@pytest.mark.parametrize("source", ALLOWED)
def test_a_source_that_the_configuration_lists_is_allowed(source):
    assert Policy(ALLOW).rule(source)


@pytest.mark.parametrize("source", FORBIDDEN)
def test_a_source_that_the_configuration_does_not_list_is_forbidden(source):
    with pytest.raises(Forbidden):
        Policy(ALLOW).rule(source)


@pytest.mark.parametrize("source", [*ALLOWED, *FORBIDDEN])
def test_nothing_is_allowed_where_nothing_is_listed(source):
    with pytest.raises(Forbidden):
        Policy([]).rule(source)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "files.example.com",
        "https:",
        "https://",
        "https://*",
        "https://*.",
        "https://*.10.0.0.1",
        "https://*.[::1]",
        "https://files.*.com",
        "https://*files.example.com",
        "https://files.example.com/path",
        "https://files.example.com?a",
        "https://files.example.com#a",
        "https://user@files.example.com",
        "https://files.example.com:99999",
        "https://files.example.com\\",
        "https://files example.com",
        "https://[::1",
        "ftp://files.example.com",
        "file://host/srv/data",
        "file:srv/data",
        "file:///srv/data?a",
        "file:///srv/data#a",
    ],
)
def test_an_entry_that_says_nothing_is_refused(entry):
    with pytest.raises(ValueError, match=r"must look like|IPv6|[Pp]ort"):
        Policy([entry])


@pytest.mark.parametrize("turn", [1, -1])
def test_a_host_that_is_named_is_not_held_to_a_wildcard(turn):
    policy = Policy(["https://a.example.org", "https://*.example.org"][::turn])
    assert not policy.rule("https://a.example.org/").wildcard
    assert policy.rule("https://b.example.org/").wildcard


pieces = st.one_of(
    st.sampled_from(["http", "https", "allowed.example", "evil.example", "80", "xn--", "a"]),
    st.sampled_from(["://", "//", "/", "@", "\\", "?", "#", ":", ".", "%40", "%2f", "%", "-", "~"]),
    st.sampled_from(
        ["\t", " ", "\n", "\0", "[", "]", "\xad", "\u200b", "\ud800", "ü", "ſ", "\u2100"]
    ),
    st.sampled_from(["\uff1a", "\u3002", "\uff0f", "\uff20"]),  # full-width : . / @
)


@given(st.lists(pieces, max_size=12).map("".join))
@example("http://allowed.example\\@evil.example")
@example("http://allowed\u3002example/")
def test_all_parsers_agree_on_what_is_allowed(text):
    """Ours, the one that connects, and an independent one."""
    for source in (text, f"http://{text}", f"http://allowed.example{text}"):
        try:
            Policy(["http://allowed.example"]).rule(source)
        except Forbidden:
            continue
        url = URL(source, encoded=source.isascii())
        assert (url.scheme, url.raw_host.lower(), url.port) == ("http", "allowed.example", 80)
        assert url.raw_user is None
        assert url.raw_password is None
        split = urlsplit(source)
        assert split.username is None
        assert split.hostname.encode("idna") == b"allowed.example"
        assert (split.scheme, split.port or 80) == ("http", 80)


@asynccontextmanager
async def guarded(allow, connect_timeout=5):
    """A guard, and the store that everybody uses, for these entries."""
    async with AsyncExitStack() as stack:
        upstream = Upstream(Policy(allow), connect_timeout, 5, 5, 1)
        yield open_stores(upstream, Slots(9, 1 << 20), stack)


@pytest.fixture
async def other():
    async with Origin() as other:
        yield other


def named(origin, host):
    """The origin under another name."""
    return f"http://{host}:{origin.port}"


async def outcome(store, url):
    """What HEAD and opening make of a URL: they have to agree; None: it is given as it is."""
    found = []
    for attempt in (store.head(url), copied(store, url, 0, N, N, TAG)):
        try:
            result = await attempt
        except (OriginError, Forbidden) as error:
            result = error
        found.append(result)
    if isinstance(found[0], Exception):
        assert type(found[0]) is type(found[1])
        return type(found[0])
    assert (found[0].size, found[0].validator) == (N, TAG)
    assert found[1] == CONTENT
    return None


async def test_the_check_comes_before_any_connection(origin, other):
    async with guarded([origin.root]) as (guard, store):
        guard.check(origin.url("/object"))
        guard.check(b"contents")
        with pytest.raises(Forbidden):
            guard.check(other.url("/object"))
        assert await outcome(store, other.url("/object")) is Forbidden
    assert (origin.connections, other.connections) == (0, 0)


async def test_bytes_are_their_own_contents():
    async with guarded([]) as (_, store):
        assert (await store.head(b"contents")).size == 8
        assert await copied(store, b"contents", 2, 5, 8, None) == b"nte"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("base", "location"),
    [
        ("/a/object", "/b/there"),
        ("/b/object", "there"),
        ("/b/c/object", "../there"),
        ("/b/object?a=b", "there#part"),
        ("/b/object", "{root}/b/there"),
        ("/b/object", "//{authority}/b/there"),
        ("/b/object", "/b/../b/there"),
    ],
)
async def test_redirects_within_what_is_allowed_are_followed(origin, code, base, location):
    authority = urlsplit(origin.root).netloc
    location = location.format(root=origin.root, authority=authority)
    origin.add(base.partition("?")[0], b"", faults.redirect(location, code))
    origin.add("/b/there", CONTENT)
    async with guarded([origin.root]) as (_, store):
        assert await outcome(store, origin.url(base)) is None


async def test_a_redirect_keeps_the_spelling_of_its_target(origin):
    """Its signature covers it."""
    target = "/b/%74here?X-Amz-Signature=a%2fb+c==&d=%7E"
    origin.add("/object", b"", faults.redirect(origin.root + target))
    origin.add("/b/there", CONTENT)
    async with guarded([origin.root]) as (_, store):
        assert await outcome(store, origin.url("/object")) is None
    assert origin.requests[-1].target == target


async def test_a_redirect_to_another_origin_takes_nothing_along(origin, other):
    origin.add(
        "/object",
        b"",
        faults.redirect(other.url("/there")),
        faults.adds("Set-Cookie", "a=b; Path=/; Domain=127.0.0.1"),
    )
    other.add("/there", CONTENT)
    async with guarded([origin.root, other.root]) as (_, store):
        assert await copied(store, origin.url("/object"), 5, 10, N, TAG) == CONTENT[5:10]
    first, second = origin.requests[-1].headers, other.requests[-1].headers
    assert second == first | {"host": urlsplit(other.root).netloc}
    assert second["if-match"] == TAG
    assert second["range"] == "bytes=5-9"


@pytest.mark.parametrize("hops", range(1, MAX_REDIRECTS + 1))
async def test_a_redirect_to_what_is_not_allowed_is_forbidden_at_every_hop(origin, other, hops):
    for hop in range(1, hops):
        origin.add(f"/{hop}", b"", faults.redirect(f"/{hop + 1}"))
    origin.add(f"/{hops}", b"", faults.redirect(other.url("/there")))
    other.add("/there", CONTENT)
    async with guarded([origin.root]) as (_, store):
        assert await outcome(store, origin.url("/1")) is Forbidden
    assert len(origin.requests) == 2 * hops
    assert other.connections == 0


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1:{port}/there",  # another scheme
        "http://127.0.0.1:1/there",
        "http://localhost:{port}/there",
        "//localhost:{port}/there",
        "http://user@127.0.0.1:{port}/there",
        "http://user:pw@127.0.0.1:{port}/there",
        "http://127.0.0.1:{port}\\@evil.example/",
        "\\\\evil.example/there",
        "http:\\\\127.0.0.1:{port}/there",
        "file:///srv/data/there",
        "FILE:///srv/data/there",
        "ftp://127.0.0.1/there",
        "data:text/plain,there",
        "javascript:there",
        "there with blanks",
    ],
)
async def test_a_redirect_elsewhere_is_forbidden(origin, location):
    """A file of this machine is for the catalog to name, even where files are allowed."""
    location = location.format(port=origin.port)
    origin.add("/object", b"", faults.redirect(location))
    origin.add("/there", CONTENT)
    async with guarded([origin.root, "file:///srv/data"]) as (_, store):
        assert await outcome(store, origin.url("/object")) is Forbidden
    assert {each.path for each in origin.requests} == {"/object"}


async def test_a_redirect_to_what_is_no_url_is_an_error_of_its_origin(origin):
    origin.add("/object", b"", faults.redirect("http://[::1/there"))
    async with guarded([origin.root]) as (_, store):
        assert await outcome(store, origin.url("/object")) is OriginError


async def test_redirects_end(origin):
    for hop in range(MAX_REDIRECTS):
        origin.add(f"/{hop}", b"", faults.redirect(f"/{hop + 1}"))
    last = origin.add(f"/{MAX_REDIRECTS}", CONTENT)
    async with guarded([origin.root]) as (_, store):
        assert await outcome(store, origin.url("/0")) is None
        origin.add(f"/{MAX_REDIRECTS}", b"", faults.redirect("/0"))
        origin.requests.clear()
        assert await outcome(store, last) is OriginError
        assert len(origin.requests) == 2 * (MAX_REDIRECTS + 1)
        origin.add("/self", b"", faults.redirect("/self"))
        assert await outcome(store, origin.url("/self")) is OriginError


async def test_what_a_redirect_leads_to_is_held_to_the_plan(origin):
    url = origin.add("/object", b"", faults.redirect("/there"))
    origin.add("/there", CONTENT[::-1])
    async with guarded([origin.root]) as (_, store):
        with pytest.raises(ObjectChanged):
            await copied(store, url, 0, N, N, TAG)


async def test_redirects_hold_nothing(origin):
    origin.add("/object", b"", faults.redirect("/there"))
    origin.add("/there", Made(8 << 20))
    async with guarded([origin.root]) as (_, store):
        async with store.open(origin.url("/object"), 0, 8 << 20, 8 << 20, None) as body:
            await body.ready()
        await origin.until(lambda: origin.open_connections <= 1)
    await origin.until(lambda: origin.open_connections == 0)


async def test_a_host_that_is_named_may_be_of_our_own_network(origin):
    origin.add("/object", CONTENT)
    # `0x7f.1` is a name, which every resolver takes for 127.0.0.1.
    for host in ("localhost", "0x7f.1"):
        async with guarded([named(origin, host)]) as (_, store):
            assert await outcome(store, named(origin, host) + "/object") is None


@pytest.mark.parametrize("literal", [False, True])
async def test_a_wildcard_leads_to_global_addresses_only(origin, literal):
    """Not even to a literal that is allowed by an entry of its own."""
    origin.add("/object", CONTENT)
    # `0x7f.1` as a subdomain of `1`: a name that leads to loopback without anybody's help.
    allow = [named(origin, "*.1")] + [origin.root] * literal
    async with guarded(allow) as (guard, store):
        guard.check(named(origin, "0x7f.1") + "/object")
        assert await outcome(store, named(origin, "0x7f.1") + "/object") is Forbidden
        assert origin.connections == 0
        if literal:
            assert await outcome(store, origin.url("/object")) is None


async def test_a_redirect_to_a_wildcard_leads_to_global_addresses_only(origin, other):
    origin.add("/object", b"", faults.redirect(named(other, "0x7f.1") + "/there"))
    other.add("/there", CONTENT)
    async with guarded([origin.root, named(other, "*.1")]) as (_, store):
        assert await outcome(store, origin.url("/object")) is Forbidden
    assert other.connections == 0


async def test_an_unspecified_address_is_reached_by_its_literal_alone(origin):
    """Linux connects it to loopback."""
    origin.add("/object", CONTENT)
    async with guarded([named(origin, "0x0")]) as (_, store):
        assert await outcome(store, named(origin, "0x0") + "/object") is Forbidden
        assert origin.connections == 0
    async with guarded([named(origin, "0.0.0.0")]) as (_, store):
        assert await outcome(store, named(origin, "0.0.0.0") + "/object") is None


@pytest.mark.parametrize("host", ["0xa9fea9fe", "0xa9.0xfe.1", "0XA9.254.1"])
async def test_a_name_of_a_link_local_address_is_refused(host):
    async with guarded([f"http://{host}"]) as (_, store):
        assert await outcome(store, f"http://{host}/latest/meta-data") is Forbidden


async def test_a_host_is_judged_by_the_address_it_has_when_it_is_connected_to(origin, monkeypatch):
    """A name may lead elsewhere a moment after it was looked at (DNS rebinding)."""
    addresses = []

    async def resolve(host, port, **_):
        kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
        found = addresses if host.endswith((".com", ".org")) else [host]
        return [(*kind, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    origin.add("/object", CONTENT, faults.puts("Connection", "close"), faults.closes())
    root = named(origin, "files.example.com")
    policy = Policy([root, named(origin, "*.example.org")])
    stores, sessions = {}, []
    async with AsyncExitStack() as stack:
        for wildcard in (False, True):
            factory = socket_factory(policy, WeakSet(), only_global=wildcard)
            http = await stack.enter_async_context(session(5, 5, factory))
            sessions.append(http)
            stores["http", wildcard] = HttpStore(http)
        guard = Guarded(policy, stores, LiteralStore())
        wild = named(origin, "a.example.org") + "/object"
        for now, named_host, wildcard_host in (
            (["127.0.0.1"], None, Forbidden),
            (["169.254.169.254"], Forbidden, Forbidden),
            (["0.0.0.0"], Forbidden, Forbidden),
            (["224.0.0.1", "255.255.255.255"], Forbidden, Forbidden),
            (["169.254.169.254", "127.0.0.1"], None, Forbidden),
            (["127.0.0.1"], None, Forbidden),
        ):
            addresses[:] = now
            for http in sessions:
                http.connector.clear_dns_cache()
            assert await outcome(guard, root + "/object") is named_host, now
            seen = origin.connections
            assert await outcome(guard, wild) is wildcard_host, now
            assert origin.connections == seen


@pytest.mark.parametrize("only_global", [False, True])
@pytest.mark.parametrize(
    ("family", "address", "least"),
    [
        (socket.AF_INET, ("8.8.8.8", 80), "wildcard"),
        (socket.AF_INET, ("127.0.0.1", 80), "name"),
        (socket.AF_INET, ("10.1.2.3", 80), "name"),
        (socket.AF_INET, ("169.254.169.254", 80), "literal"),
        (socket.AF_INET, ("169.254.169.253", 80), "nobody"),
        (socket.AF_INET, ("0.0.0.0", 80), "nobody"),
        (socket.AF_INET6, ("2001:4860:4860::8888", 80, 0, 0), "wildcard"),
        (socket.AF_INET6, ("::1", 80, 0, 0), "name"),
        (socket.AF_INET6, ("::ffff:127.0.0.1", 80, 0, 0), "name"),
        (socket.AF_INET6, ("64:ff9b::7f00:1", 80, 0, 0), "name"),
        (socket.AF_INET6, ("fd00::1", 80, 0, 0), "name"),
        (socket.AF_INET6, ("::ffff:169.254.169.254", 80, 0, 0), "nobody"),
        (socket.AF_INET6, ("64:ff9b::a9fe:a9fe", 80, 0, 0), "nobody"),
        (socket.AF_INET6, ("fe80::1%lo", 80, 0, 1), "nobody"),
        (socket.AF_INET6, ("::", 80, 0, 0), "nobody"),
    ],
)
def test_a_socket_is_made_for_an_allowed_address_only(family, address, least, only_global):
    policy = Policy(["http://169.254.169.254", "https://*.example.org", "http://named.example"])
    make = socket_factory(policy, WeakSet(), only_global=only_global)
    info = (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
    if least == "wildcard" or (least in {"name", "literal"} and not only_global):
        with make(info) as made:
            assert made.family == family
    else:
        with pytest.raises(AddressRefused):
            make(info)
