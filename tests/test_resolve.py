"""Ids to members: what is found out, in which order, and what is said when it goes wrong."""

import asyncio
import sys
from contextlib import AsyncExitStack
from itertools import repeat

import pytest
from faults import becomes, close_delimited, ignores, late, puts, redirect, status
from gateway import write_catalog
from nginx import held_port
from origin import Made, Object

from tarstream.catalogs.base import Caller, Entry, Unknown, inline
from tarstream.catalogs.file import FileCatalog, FileSettings
from tarstream.catalogs.template import TemplateCatalog, TemplateSettings
from tarstream.errors import (
    Forbidden,
    ObjectMissing,
    OriginBroken,
    OriginError,
    OriginTimeout,
    TooLarge,
    UnknownIds,
)
from tarstream.formats import tar
from tarstream.layout import STEP, Layout, Listing
from tarstream.memory import LocalMemory
from tarstream.resolve import Limits, Renamed, Resolver, in_steps
from tarstream.stores import Upstream, open_stores
from tarstream.stores.guard import Policy
from tarstream.stores.limit import Slots

CALLER = Caller("127.0.0.1", "test")
MODIFIED = 1_000_000_000  # of the origin's objects
MIB = 1024**2
AT_ONCE = 32


class Table:
    """A catalog as a table in memory: ids to one entry, several, or none."""

    def __init__(self, entries):
        self.entries = entries
        self.lookups = 0

    async def lookup(self, ids, caller):
        self.lookups += 1
        return list(map(self.entries.get, ids, repeat(Unknown("unknown"))))

    async def watch(self):
        """Nothing changes."""


@pytest.fixture
async def resolver(origin, tmp_path):
    """Makes resolvers in front of the origin; entries are lines of a catalog, or a catalog."""
    async with AsyncExitStack() as stack:

        def make(
            entries, allow=(), limits=(10_000, 2**40), remember=10, connections=100, **upstream
        ):
            if isinstance(entries, list):
                path = write_catalog(tmp_path / "catalog.jsonl", entries)
                entries = FileCatalog(FileSettings(kind="file", path=path))
            policy = Policy([origin.root, *allow])
            given = {"read_timeout": 10, "patience": 10, "attempts": 1} | upstream
            guard, store = open_stores(
                Upstream(policy, connect_timeout=5, **given), Slots(connections, 64 * MIB), stack
            )
            bounds = Limits(*limits, 60, AT_ONCE)
            return Resolver(entries, guard, store, LocalMemory(remember), bounds)

        yield make


def stated(origin, path, **more):
    """A line of a catalog that says all there is to say of an object."""
    thing = origin.objects[path]
    line = {"url": origin.url(path), "size": thing.size, "mtime": 7, "etag": thing.etag}
    return {"id": path.strip("/"), **line, **more}


def bare(origin, path, **more):
    """A line of a catalog that says nothing but where it is."""
    return {"id": path.strip("/"), "url": origin.url(path), **more}


def heads(origin):
    assert all(request.method == "HEAD" for request in origin.requests)
    return [request.path for request in origin.requests]


def refused(caught):
    return [refusal.id for refusal in caught.value.refusals]


# The order of errors.


async def test_errors_come_in_an_order_that_can_be_relied_on(origin, resolver):
    """400 is said before; then the number, 404, 403, bytes, 502: each hides those behind it."""
    origin.add("/broken", b"x", status(500))
    origin.add("/big", Made(2000))
    entries = [
        bare(origin, "/broken"),
        {"id": "forbidden", "url": "https://elsewhere.example.com/a"},
        stated(origin, "/big"),
        {"id": "other", "url": "ftp://elsewhere.example.com/a"},
    ]
    ids = ["broken", "forbidden", "nowhere", "big", "other", "nothing"]

    few = resolver(entries, limits=(5, 1000))
    with pytest.raises(TooLarge, match="6 members are asked for, and at most 5") as caught:
        await few.resolve(ids, CALLER)
    assert caught.value.status == 413

    limited = resolver(entries, limits=(6, 1000))
    with pytest.raises(UnknownIds, match="2 of 6 ids are unknown") as caught:
        await limited.resolve(ids, CALLER)
    assert caught.value.status == 404
    assert refused(caught) == ["nowhere", "nothing"]

    ids = ["broken", "forbidden", "big", "other"]
    with pytest.raises(Forbidden) as caught:
        await limited.resolve(ids, CALLER)
    assert caught.value.status == 403
    assert refused(caught) == ["forbidden", "other"]

    ids = ["broken", "big"]
    with pytest.raises(TooLarge, match="2000 bytes, and at most 1000") as caught:
        await limited.resolve(ids, CALLER)
    assert caught.value.status == 413
    assert origin.requests == []

    with pytest.raises(OriginBroken) as caught:
        await resolver(entries).resolve(ids, CALLER)
    assert caught.value.detail == "'broken' cannot be had: its origin answers 500"
    assert caught.value.status == 502
    assert refused(caught) == ["broken"]


async def test_too_many_members_are_refused_before_anything_is_looked_up(resolver):
    table = Table({})
    with pytest.raises(TooLarge):
        await resolver(table, limits=(1, 1)).resolve(["a", "b"], CALLER)
    assert table.lookups == 0


async def test_members_count_not_only_ids(origin, resolver):
    """An id may stand for several."""
    url = origin.add("/a", b"x")
    collection = tuple(Entry(f"{url}?{n}", f"{n}", 1, 1, '"e"') for n in range(3))
    table = Table({"all": collection, "none": ()})
    made = await resolver(table, limits=(6, 9)).resolve(["all", "none", "all"], CALLER)
    assert [member.name for member in made.members] == [
        "0", "1", "2", "0 (2)", "1 (2)", "2 (2)",
    ]  # fmt: skip
    assert {member.id for member in made.members} == {"all"}
    with pytest.raises(TooLarge, match="6 members are asked for, and at most 5"):
        await resolver(table, limits=(5, 9)).resolve(["all", "all"], CALLER)


async def test_an_id_given_twice_is_unknown_twice_and_a_member_twice(origin, resolver):
    origin.add("/a", b"x")
    made = resolver([stated(origin, "/a")])
    with pytest.raises(UnknownIds) as caught:
        await made.resolve(["b", "a", "b"], CALLER)
    assert refused(caught) == ["b", "b"]
    members = (await made.resolve(["a", "a"], CALLER)).members
    assert [(member.id, member.name) for member in members] == [("a", "a"), ("a", "a (2)")]


async def test_bytes_are_counted_again_when_origins_have_said_their_sizes(origin, resolver):
    for name in "abc":
        origin.add(f"/{name}", Made(400))
    made = resolver([bare(origin, f"/{name}") for name in "abc"], limits=(9, 1000))
    with pytest.raises(TooLarge, match="1200 bytes, and at most 1000"):
        await made.resolve(["a", "b", "c"], CALLER)
    assert len((await made.resolve(["a", "b"], CALLER)).members) == 2


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False)])
async def test_a_limit_is_what_still_fits(origin, resolver, size, fits):
    origin.add("/a", Made(size))
    for entry in (stated(origin, "/a"), bare(origin, "/a")):
        made = resolver([entry], limits=(1, 1000))
        if fits:
            assert (await made.resolve(["a"], CALLER)).members[0].size == size
        else:
            with pytest.raises(TooLarge):
                await made.resolve(["a"], CALLER)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_redirect_to_where_nobody_may_go_is_403(origin, resolver, method):
    origin.add("/a", b"x", redirect("http://elsewhere.example.com/", methods=[method]))
    if method == "GET":
        origin.objects["/a"].faults.append(status(405, methods=["HEAD"]))
    with pytest.raises(Forbidden) as caught:
        await resolver([bare(origin, "/a")]).resolve(["a"], CALLER)
    assert refused(caught) == ["a"]


# Asking origins.


async def test_nobody_is_asked_what_the_catalog_states(origin, resolver):
    origin.add("/a", b"xyz")
    digests = {"sha256": "A" * 64, "crc32": "0000ABCD"}
    made = await resolver([stated(origin, "/a", **digests)]).resolve(["a"], CALLER)
    (member,) = made.members
    assert origin.requests == []
    assert member[:5] == ("a", 3, 7, origin.url("/a"), origin.objects["/a"].etag)
    assert member.digests == (("crc32", "0000abcd"), ("sha256", "a" * 64))
    assert made.asked == set()


@pytest.mark.parametrize("lacking", ["size", "mtime", "etag"])
async def test_head_is_asked_where_something_is_missing(origin, resolver, lacking):
    for name in "ab":
        origin.add(f"/{name}", b"xyz")
    entry = stated(origin, "/b")
    del entry[lacking]
    made = await resolver([stated(origin, "/a"), entry]).resolve(["a", "b"], CALLER)
    assert heads(origin) == ["/b"]
    member = made.members[1]
    assert (member.size, member.validator) == (3, origin.objects["/b"].etag)
    assert member.mtime == (MODIFIED if lacking == "mtime" else 7)
    assert made.asked == {origin.url("/b")}
    assert made.stated == (set() if lacking == "etag" else made.asked)


async def test_an_object_is_asked_about_once_however_often_it_is_a_member(origin, resolver):
    url = origin.add("/a", b"xyz")
    entries = [{"id": f"{number}", "url": url} for number in range(50)]
    made = await resolver(entries).resolve([str(number % 50) for number in range(200)], CALLER)
    assert len(made.members) == 200
    assert heads(origin) == ["/a"]


async def test_who_asks_the_same_at_the_same_time_shares_the_answer(origin, resolver):
    origin.add("/a", b"xyz", late())
    made = resolver([bare(origin, "/a")])
    asking = [asyncio.create_task(made.resolve(["a"], CALLER)) for _ in range(10)]
    await origin.until(lambda: origin.stalled)
    origin.release()
    assert {(await each).members[0].size for each in asking} == {3}
    assert heads(origin) == ["/a"]


@pytest.mark.parametrize("connections", [100, 5])
async def test_heads_are_asked_together_but_not_without_bound(origin, resolver, connections):
    names = [f"{number}" for number in range(200)]
    for name in names:
        origin.add(f"/{name}", b"x", late())
    made = resolver([bare(origin, f"/{name}") for name in names], connections=connections)
    bound = min(AT_ONCE, connections)
    asking = asyncio.create_task(made.resolve(names, CALLER))

    for first in range(0, 200, bound):
        waiting = min(bound, 200 - first)
        await origin.until(
            lambda first=first, waiting=waiting: (
                origin.stalled == waiting and len(origin.requests) == first + waiting
            )
        )
        origin.release()
    assert [member.id for member in (await asking).members] == names
    assert origin.most_in_flight == bound
    assert len(heads(origin)) == 200


async def test_the_first_member_that_is_given_up_ends_the_asking(origin, resolver):
    """Nobody waits for the others, and nobody else is asked."""
    names = [f"{number}" for number in range(100)]
    for name in names:
        origin.add(f"/{name}", b"x", late())
    origin.add("/3", b"x", status(500))
    made = resolver([bare(origin, f"/{name}") for name in names])
    with pytest.raises(OriginBroken) as caught:
        await made.resolve(names, CALLER)
    assert refused(caught) == ["3"]
    await origin.until(lambda: origin.in_flight == 0)
    assert len(origin.requests) <= AT_ONCE


async def test_who_leaves_stops_the_asking(origin, resolver):
    origin.add("/a", b"x", late())
    asking = asyncio.create_task(resolver([bare(origin, "/a")]).resolve(["a"], CALLER))
    await origin.until(lambda: origin.stalled)
    asking.cancel()
    await origin.until(lambda: origin.in_flight == 0)
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_failure_is_blamed_on_the_first_id_that_needs_the_object(origin, resolver):
    url = origin.add("/a", b"x", status(500))
    made = resolver([{"id": id_, "url": url} for id_ in ("x", "y", "z")])
    with pytest.raises(OriginBroken) as caught:
        await made.resolve(["y", "z", "x"], CALLER)
    assert refused(caught) == ["y"]


@pytest.mark.parametrize(
    ("faults", "error", "code"),
    [
        ([status(500)], OriginBroken, 502),
        ([status(503)], OriginBroken, 502),
        ([status(429)], OriginBroken, 502),
        ([status(404)], ObjectMissing, 502),
        ([status(410)], ObjectMissing, 502),
        ([status(401)], ObjectMissing, 502),
        ([status(403)], ObjectMissing, 502),
        ([ignores("Range"), close_delimited()], OriginError, 502),
        ([redirect("/a")], OriginError, 502),
        ([late()], OriginTimeout, 504),
    ],
    ids=lambda it: "+".join(fault.name for fault in it) if isinstance(it, list) else "",
)
async def test_an_origin_that_does_not_answer_is_named_by_the_id_alone(
    origin, resolver, faults, error, code
):
    origin.add("/good", b"x")
    origin.add("/a?token=s3cr3t", b"x")
    origin.add("/a", b"x", *faults)
    entries = [bare(origin, "/good"), {"id": "b,d", "url": origin.url("/a?token=s3cr3t")}]
    made = resolver(entries, read_timeout=1)
    with pytest.raises(error) as caught:
        await made.resolve(["good", "b,d"], CALLER)
    assert caught.value.status == code
    assert refused(caught) == ["b,d"]
    assert caught.value.detail.startswith("'b,d' cannot be had: ")
    for text in (caught.value.detail, caught.value.refusals[0].reason):
        assert "127.0.0.1" not in text
        assert "s3cr3t" not in text


async def test_an_origin_that_is_not_there_is_named_by_the_id_alone(origin, resolver):
    with held_port() as port:
        elsewhere = f"http://127.0.0.1:{port}"
        made = resolver([{"id": "a", "url": f"{elsewhere}/a"}], allow=[elsewhere])
        with pytest.raises(OriginBroken) as caught:
            await made.resolve(["a"], CALLER)
    assert refused(caught) == ["a"]
    assert caught.value.detail.startswith("'a' cannot be had: ")
    assert "127.0.0.1" not in caught.value.detail


async def test_asking_is_tried_again(origin, resolver):
    origin.add("/a", b"xyz", status(503, times=1))
    made = await resolver([bare(origin, "/a")], attempts=2).resolve(["a"], CALLER)
    assert made.members[0].size == 3


# Catalog and origin.


@pytest.mark.parametrize(
    ("states", "says"),
    [
        ({"size": 4}, "it has 3 bytes where the catalog states 4"),
        ({"size": 0}, "it has 3 bytes where the catalog states 0"),
        ({"etag": '"other"'}, "it has another entity-tag than the catalog states"),
        ({"etag": 'W/"other"'}, "it has another entity-tag than the catalog states"),
    ],
)
@pytest.mark.parametrize("skip_missing", [False, True])
async def test_an_origin_that_contradicts_the_catalog_is_502(
    origin, resolver, states, says, skip_missing
):
    origin.add("/good", b"x")
    origin.add("/a", b"xyz")
    made = resolver([bare(origin, "/good"), bare(origin, "/a", **states)])
    with pytest.raises(OriginError) as caught:
        await made.resolve(["good", "a"], CALLER, skip_missing=skip_missing)
    assert caught.value.status == 502
    assert refused(caught) == ["a"]
    assert caught.value.detail == f"'a' cannot be had: {says}"


async def test_a_weak_tag_of_the_origin_cannot_stand_for_a_strong_one(origin, resolver):
    origin.add("/a", Object(b"xyz", etag='W/"e"', last_modified=None))
    with pytest.raises(OriginError, match="another entity-tag"):
        await resolver([bare(origin, "/a", etag='"e"')]).resolve(["a"], CALLER)


@pytest.mark.parametrize("says", ['W/"e"', '"e"'])
async def test_a_weak_tag_of_the_catalog_is_compared_weakly(origin, resolver, says):
    """RFC 9110 8.8.3.2."""
    origin.add("/a", Object(b"xyz", etag=says, last_modified=None))
    made = await resolver([bare(origin, "/a", etag='W/"e"')]).resolve(["a"], CALLER)
    assert made.members[0].validator == 'W/"e"'


@pytest.mark.parametrize("last_modified", [None, MODIFIED])
async def test_an_origin_that_says_no_tag_contradicts_none(origin, resolver, last_modified):
    """That it cannot prove what it sends is found when it sends it."""
    origin.add("/a", Object(b"xyz", etag=None, last_modified=last_modified))
    made = await resolver([bare(origin, "/a", etag='"e"')]).resolve(["a"], CALLER)
    assert made.members[0].validator == '"e"'


async def test_two_ids_may_state_the_same_object_differently_but_only_one_is_right(
    origin, resolver
):
    url = origin.add("/a", b"xyz")
    entries = [{"id": "right", "url": url, "size": 3}, {"id": "wrong", "url": url, "size": 4}]
    with pytest.raises(OriginError) as caught:
        await resolver(entries).resolve(["right", "wrong"], CALLER)
    assert refused(caught) == ["wrong"]


@pytest.mark.parametrize(
    ("last_modified", "states", "mtime"),
    [
        (MODIFIED, {}, MODIFIED),
        (MODIFIED, {"mtime": 7}, 7),
        (MODIFIED, {"mtime": 0}, 0),
        (None, {}, 0),
        (None, {"mtime": 7}, 7),
        (0, {}, 0),
        (-5, {}, 0),  # no archive can hold what was before 1970
    ],
)
async def test_mtime_is_the_catalogs_or_the_origins_or_0(
    origin, resolver, last_modified, states, mtime
):
    origin.add("/a", Object(b"xyz", last_modified=last_modified))
    made = await resolver([bare(origin, "/a", **states)]).resolve(["a"], CALLER)
    assert made.members[0].mtime == mtime


@pytest.mark.parametrize(
    ("thing", "validator"),
    [
        (Object(b"x", etag='"e"'), '"e"'),
        (Object(b"x", etag='W/"e"', last_modified=None), 'W/"e"'),
        (Object(b"x", etag=None, last_modified=MODIFIED), "Sun, 09 Sep 2001 01:46:40 GMT"),
        (Object(b"x", etag=None, last_modified=None), None),
    ],
)
async def test_a_validator_that_the_catalog_does_not_state_is_the_origins(
    origin, resolver, thing, validator
):
    url = origin.add("/a", thing)
    made = await resolver([bare(origin, "/a", size=1, mtime=1)]).resolve(["a"], CALLER)
    assert made.members[0].validator == validator
    assert made.asked == {url}
    assert made.stated == set()


async def test_a_tag_that_is_not_utf_8_does_not_break_planning(origin, resolver):
    origin.add("/a", b"x", puts("ETag", '"\xe9"'))
    made = await resolver([bare(origin, "/a")]).resolve(["a"], CALLER)
    assert Layout(tar, made.members).etag


# What is remembered.


async def test_what_an_origin_said_is_used_again_until_it_is_forgotten(origin, resolver):
    url = origin.add("/a", b"xyz")
    made = resolver([bare(origin, "/a")])
    first = await made.resolve(["a"], CALLER)
    assert await made.resolve(["a"], CALLER) == first
    assert len(origin.requests) == 1
    await made.forget(url)
    await made.resolve(["a"], CALLER)
    assert heads(origin) == ["/a", "/a"]


async def test_nothing_is_remembered_where_the_settings_say_so(origin, resolver):
    origin.add("/a", b"xyz")
    made = resolver([bare(origin, "/a")], remember=0)
    for _ in range(2):
        await made.resolve(["a"], CALLER)
    assert len(origin.requests) == 2


async def test_only_what_is_not_remembered_is_asked(origin, resolver):
    for name in "abc":
        origin.add(f"/{name}", b"x")
    made = resolver([bare(origin, f"/{name}") for name in "abc"])
    await made.resolve(["b"], CALLER)
    await made.resolve(["a", "b", "c"], CALLER)
    assert sorted(heads(origin)) == ["/a", "/b", "/c"]


async def test_who_tries_again_after_a_failure_does_not_begin_again(origin, resolver):
    origin.add("/a", b"x")
    broken = origin.objects["/b"] = Object(b"x", faults=[late(), status(500)])
    # With one connection a's answer is there before b is asked.
    made = resolver([bare(origin, "/a"), bare(origin, "/b")], connections=1)
    asking = asyncio.create_task(made.resolve(["a", "b"], CALLER))
    await origin.until(lambda: origin.stalled)
    origin.release()
    with pytest.raises(OriginBroken):
        await asking
    broken.faults.clear()
    asked = len(origin.requests)
    await made.resolve(["a", "b"], CALLER)
    assert heads(origin)[asked:] == ["/b"]


async def test_what_was_remembered_does_not_contradict_a_catalog_that_changed(origin, resolver):
    """Somebody replaced the object, and then said so in the catalog."""
    url = origin.add("/a", b"old", becomes(Object(b"newer", etag='"new"'), skip=1))
    table = Table({"a": (Entry(url, "a", size=3),)})
    made = resolver(table)
    assert (await made.resolve(["a"], CALLER)).members[0].size == 3
    table.entries["a"] = (Entry(url, "a", size=5),)
    assert (await made.resolve(["a"], CALLER)).members[0].validator == '"new"'
    table.entries["a"] = (Entry(url, "a", size=7),)
    with pytest.raises(OriginError, match="it has 5 bytes where the catalog states 7"):
        await made.resolve(["a"], CALLER)


# What is missing.


async def test_what_is_missing_is_left_out_and_listed_in_a_last_member(origin, resolver):
    for code in (404, 410, 401, 403):
        origin.add(f"/{code}", b"x", status(code))
    origin.add("/a", b"abc")
    origin.add("/b", b"defgh")
    paths = ["/a", "/b", "/404", "/410", "/401", "/403"]
    made = resolver([stated(origin, path) for path in paths])
    ids = ["403", "b", "nowhere", "404", "a", "410", "401", "nowhere"]
    resolution = await made.resolve(ids, CALLER, skip_missing=True)
    *members, listed = resolution.members
    assert [member.id for member in members] == ["b", "a"]
    assert [tuple(each) for each in _rows(resolution)] == [
        ("403", "its origin answers 403"),
        ("nowhere", "unknown"),
        ("404", "its origin answers 404"),
        ("410", "its origin answers 410"),
        ("401", "its origin answers 401"),
        ("nowhere", "unknown"),
    ]
    assert listed[:3] == ("MISSING.txt", len(listed.source), 0)
    assert listed.id is None
    assert listed.source.decode() == "".join(f"{id_}\t{why}\n" for id_, why in _rows(resolution))
    assert listed.validator.startswith('"')


def _rows(resolution):
    return [(refusal.id, refusal.reason) for refusal in resolution.missing]


async def test_every_object_is_asked_for_when_what_is_missing_may_be_left_out(origin, resolver):
    for name in "ab":
        origin.add(f"/{name}", b"x")
    made = resolver([stated(origin, f"/{name}") for name in "ab"])
    resolution = await made.resolve(["a", "b"], CALLER, skip_missing=True)
    assert sorted(heads(origin)) == ["/a", "/b"]
    assert [member.name for member in resolution.members] == ["a", "b"]
    assert resolution.missing == []
    assert resolution.asked == resolution.stated == {origin.url("/a"), origin.url("/b")}


async def test_plans_that_overlap_ask_for_each_object_once(origin, resolver):
    """Parallel downloaders of one archive do not wait for each other to begin."""
    names = [f"{number:03}" for number in range(200)]
    for name in names:
        origin.add(f"/{name}", b"x", late(0.01))
    made = resolver([bare(origin, f"/{name}") for name in names])
    plans = [asyncio.create_task(made.resolve(names, CALLER))]
    await origin.until(lambda: len(origin.requests) > 50)
    plans.append(asyncio.create_task(made.resolve(names, CALLER)))
    await origin.until(lambda: len(origin.requests) > 100)
    plans.append(asyncio.create_task(made.resolve(names, CALLER)))
    await asyncio.gather(*plans)
    assert sorted(heads(origin)) == [f"/{name}" for name in names]


async def test_waiting_for_our_own_connections_uses_up_no_patience(origin, resolver):
    names = [f"{number}" for number in range(40)]
    for name in names:
        origin.add(f"/{name}", b"x", late(0.06))
    entries = [bare(origin, f"/{name}") for name in names]
    made = resolver(entries, connections=1, patience=1.8, read_timeout=1.8)
    assert len((await made.resolve(names, CALLER)).members) == 40


async def test_the_list_of_what_is_missing_is_a_function_of_it(origin, resolver):
    origin.add("/a", b"x")
    made = resolver([stated(origin, "/a")])
    lists = [
        (await made.resolve(ids, CALLER, skip_missing=True)).members[-1]
        for ids in (["a", "x", "y"], ["a", "x", "y"], ["a", "y", "x"])
    ]
    assert lists[0] == lists[1]
    assert lists[0].validator != lists[2].validator


async def test_an_id_cannot_break_the_lines_of_the_list(origin, resolver):
    origin.add("/a", b"x")
    odd = "b\tc\nd\r\x1be\x85f\u2028g"
    made = resolver([stated(origin, "/a")])
    resolution = await made.resolve(["a", odd, "Grüße"], CALLER, skip_missing=True)
    text = resolution.members[-1].source.decode()
    assert text == "b_c_d__e_f_g\tunknown\nGrüße\tunknown\n"
    assert resolution.missing[0].id == odd


@pytest.mark.parametrize("names", [["MISSING.txt"], ["missing.TXT"], ["MISSING.txt/x"]])
async def test_the_list_gives_way_to_a_member_of_its_name(origin, resolver, names):
    entries = [
        bare(origin, origin.add(f"/{number}", b"x") and f"/{number}", name=name)
        for number, name in enumerate(names)
    ]
    made = resolver(entries)
    resolution = await made.resolve(["0", "nowhere"], CALLER, skip_missing=True)
    assert [member.name for member in resolution.members] == [*names, "MISSING (2).txt"]
    assert resolution.renamed == [Renamed(None, "MISSING.txt", "MISSING (2).txt")]


async def test_when_nothing_is_left_all_ids_are_listed(origin, resolver):
    origin.add("/gone", b"x", status(410))
    made = resolver([bare(origin, "/gone")])
    with pytest.raises(UnknownIds, match="nothing is left") as caught:
        await made.resolve(["x", "gone", "y"], CALLER, skip_missing=True)
    assert caught.value.status == 404
    assert refused(caught) == ["x", "gone", "y"]
    asked = len(origin.requests)
    with pytest.raises(UnknownIds, match="nothing is left"):
        await made.resolve(["x"], CALLER, skip_missing=True)
    assert len(origin.requests) == asked


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (status(500), OriginBroken),
        (status(429), OriginBroken),
        (status(400), OriginError),
        (late(), OriginTimeout),
        (redirect("http://elsewhere.example.com/"), Forbidden),
    ],
    ids=lambda it: getattr(it, "name", ""),
)
async def test_what_is_not_missing_but_broken_fails_all_the_same(origin, resolver, fault, error):
    origin.add("/good", b"x")
    origin.add("/a", b"x", fault)
    made = resolver([bare(origin, "/good"), bare(origin, "/a")], read_timeout=1)
    with pytest.raises(error) as caught:
        await made.resolve(["good", "a"], CALLER, skip_missing=True)
    assert refused(caught) == ["a"]


async def test_what_is_forbidden_is_not_missing(origin, resolver):
    origin.add("/a", b"x")
    made = resolver([bare(origin, "/a"), {"id": "b", "url": "https://elsewhere.example.com/"}])
    with pytest.raises(Forbidden) as caught:
        await made.resolve(["nowhere", "b", "a"], CALLER, skip_missing=True)
    assert refused(caught) == ["b"]
    assert origin.requests == []


# Names.


async def test_members_are_named_safely_and_apart_in_their_order(origin, resolver):
    url = origin.add("/a", b"x")
    names = ["a.txt", "../a.txt", "A.TXT", "b", "b/c", "d"]
    entries = [{"id": f"{n}", "url": url, "name": name} for n, name in enumerate(names)]
    made = await resolver(entries).resolve([f"{n}" for n in range(len(names))], CALLER)
    assert [member.name for member in made.members] == [
        "a.txt", "a (2).txt", "A (3).TXT", "b (2)", "b/c", "d",
    ]  # fmt: skip
    assert made.renamed == [
        Renamed("1", "../a.txt", "a (2).txt"),
        Renamed("2", "A.TXT", "A (3).TXT"),
        Renamed("3", "b", "b (2)"),
    ]


async def test_a_template_names_its_members_after_their_ids(origin, resolver):
    origin.add("/dir/Grüße vom See.txt", b"x")
    catalog = TemplateCatalog(TemplateSettings(kind="template", url=origin.root + "/{id}"))
    made = await resolver(catalog).resolve(["dir/Grüße vom See.txt"], CALLER)
    assert made.members[0].name == "dir/Grüße vom See.txt"


# Collections, texts, directories.


async def test_a_collection_stands_where_its_id_does_in_its_order(origin, resolver):
    for name in "abc":
        origin.add(f"/{name}", name.encode())
    entries = [
        bare(origin, "/a"),
        {
            "id": "set",
            "prefix": "photos/2024",
            "members": [
                {"url": origin.url("/c")},
                {"text": "hello", "name": "README", "mtime": 5},
                {"name": "empty/"},
                {"url": origin.url("/b"), "name": "x/b"},
            ],
        },
    ]
    made = await resolver(entries).resolve(["set", "a"], CALLER)
    assert [(member.id, member.name, member.size) for member in made.members] == [
        ("set", "photos/2024/c", 1),
        ("set", "photos/2024/README", 5),
        ("set", "photos/2024/empty/", 0),
        ("set", "photos/2024/x/b", 1),
        ("a", "a", 1),
    ]
    assert made.renamed == []
    assert sorted(heads(origin)) == ["/a", "/b", "/c"]


@pytest.mark.parametrize("skip_missing", [False, True])
async def test_of_what_is_at_hand_nobody_is_asked(origin, resolver, skip_missing):
    entries = [
        {"id": "text", "text": "hello", "name": "README", "mtime": 5},
        {"id": "none", "text": "", "name": "nothing"},
        {"id": "dir", "name": "empty/"},
    ]
    made = await resolver(entries).resolve(
        ["text", "none", "dir"], CALLER, skip_missing=skip_missing
    )
    assert [member[:4] for member in made.members] == [
        ("README", 5, 5, b"hello"),
        ("nothing", 0, 0, b""),
        ("empty/", 0, 0, b""),
    ]
    assert [member.is_directory for member in made.members] == [False, False, True]
    assert all(member.validator and member.digest("sha256") for member in made.members)
    assert made.missing == []
    assert made.asked == set()
    assert origin.requests == []


async def test_each_member_of_a_collection_counts_for_the_limits(origin, resolver):
    table = Table({"set": tuple(inline(b"12345", f"{n}") for n in range(3)), "one": (
        inline(b"12345", "x"),
    )})  # fmt: skip
    members = (await resolver(table, limits=(4, 20)).resolve(["set", "one"], CALLER)).members
    assert len(members) == 4
    with pytest.raises(TooLarge, match="4 members are asked for, and at most 3"):
        await resolver(table, limits=(3, 20)).resolve(["set", "one"], CALLER)
    with pytest.raises(TooLarge, match="20 bytes, and at most 19"):
        await resolver(table, limits=(4, 19)).resolve(["set", "one"], CALLER)


async def test_an_id_is_refused_once_however_many_of_its_members_are(origin, resolver):
    forbidden = [{"url": f"https://elsewhere.example.com/{n}"} for n in range(3)]
    entries = [
        {"id": "set", "members": [{"text": "x", "name": "x"}, *forbidden]},
        {"id": "more", "members": forbidden},
    ]
    with pytest.raises(Forbidden) as caught:
        await resolver(entries).resolve(["set", "more", "set"], CALLER)
    assert refused(caught) == ["set", "more"]


async def test_of_a_collection_that_lacks_members_it_is_said_which(origin, resolver):
    origin.add("/here", b"x")
    origin.add("/gone", b"x", status(410))
    origin.add("/lost", b"x", status(404))
    members = [{"url": origin.url(path)} for path in ("/gone", "/here", "/lost")]
    entries = [
        {"id": "set", "members": members, "prefix": "a\nb"},
        {"id": "one", "members": [{"url": origin.url("/gone")}]},
    ]
    made = resolver(entries)
    resolution = await made.resolve(["set", "one"], CALLER, skip_missing=True)
    assert [(member.id, member.name) for member in resolution.members] == [
        ("set", "a_b/here"),
        (None, "MISSING.txt"),
    ]
    listed = resolution.members[-1]
    assert listed.source.decode().count("\n") == 3
    assert [line.split("\t")[0] for line in listed.source.decode().splitlines()] == [
        "set", "set", "one",
    ]  # fmt: skip
    assert [(refusal.id, refusal.reason.rpartition(": ")[2]) for refusal in resolution.missing] == [
        ("set", "its origin answers 410"),
        ("set", "its origin answers 404"),
        ("one", "its origin answers 410"),
    ]
    assert "a_b/lost: " in resolution.missing[1].reason
    assert resolution.missing[2].reason == "its origin answers 410"
    with pytest.raises(ObjectMissing) as caught:
        await made.resolve(["set"], CALLER)
    assert refused(caught) == ["set"]


async def test_a_list_of_what_is_missing_states_its_digests(origin, resolver):
    """It is at hand: a zip needs no descriptor for it."""
    made = resolver([{"id": "a", "text": "x", "name": "a"}])
    listed = (await made.resolve(["a", "b"], CALLER, skip_missing=True)).members[-1]
    assert listed == inline_member(listed)


def inline_member(member):
    entry = inline(member.source, member.name)
    return member._replace(validator=entry.etag, digests=entry.digests, size=entry.size, mtime=0)


@pytest.mark.parametrize("name", ["a/", "a//", "/", "../a/"])
async def test_what_has_contents_is_a_file_whatever_its_name(origin, resolver, name):
    """A directory's header in front of contents would make them headers of members."""
    url = origin.add("/a", b"xyz")
    table = Table({"a": (Entry(url, name),), "b": (Entry(url, name, 3, 1, '"e"'),)})
    made = await resolver(table).resolve(["a"], CALLER)
    assert [member.is_directory for member in made.members] == [False]
    assert made.members[0].name == ("unnamed" if name == "/" else "a")
    origin.add("/empty", b"")
    table.entries["c"] = (Entry(origin.url("/empty"), name),)
    assert not (await made_of(resolver(table), "c")).is_directory


async def made_of(resolver, id_):
    (member,) = (await resolver.resolve([id_], CALLER)).members
    return member


# Digests of what is empty.


@pytest.mark.parametrize("algorithm", ["crc32", "md5", "sha256"])
@pytest.mark.parametrize("asked", [False, True])
async def test_an_empty_file_with_a_digest_that_none_has_is_502(origin, resolver, algorithm, asked):
    """Nothing of it passes, so nothing else would notice."""
    origin.add("/a", b"")
    length = {"crc32": 8, "md5": 32, "sha256": 64}[algorithm]
    line = bare if asked else stated
    made = resolver([line(origin, "/a", **{algorithm: "1" * length})])
    with pytest.raises(OriginError) as caught:
        await made.resolve(["a"], CALLER)
    assert caught.value.status == 502
    assert refused(caught) == ["a"]
    said = f"it is empty, and does not have the {algorithm} that the catalog states"
    assert caught.value.detail == f"'a' cannot be had: {said}"


async def test_an_empty_file_with_its_own_digests_is_a_member(origin, resolver):
    origin.add("/a", b"")
    digests = {
        "crc32": "0" * 8,
        "md5": "D41D8CD98F00B204E9800998ECF8427E",
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }
    made = await resolver([stated(origin, "/a", **digests)]).resolve(["a"], CALLER)
    assert dict(made.members[0].digests) == {key: hex_.lower() for key, hex_ in digests.items()}


# Checksums.


async def test_checksums_are_a_last_member_behind_what_is_missing(origin, resolver):
    origin.add("/a", b"x")
    made = resolver([stated(origin, "/a"), {"id": "d", "name": "d/"}])
    plain = await made.resolve(["a", "d", "b"], CALLER, skip_missing=True)
    resolution = await made.resolve(["a", "d", "b"], CALLER, skip_missing=True, checksums="sha256")
    *members, sums = resolution.members
    assert members == plain.members
    assert [member.name for member in members] == ["a", "d/", "MISSING.txt"]
    assert (sums.name, sums.id, sums.mtime) == ("SHA256SUMS", None, 0)
    assert sums.size == len(f"{'0' * 64}  a\n{'0' * 64}  MISSING.txt\n")
    assert isinstance(sums.source, Listing)
    assert sums.source.members == [members[0], members[2]]
    assert resolution.renamed == []
    assert Layout(tar, resolution.members).seekable


@pytest.mark.parametrize("name", ["SHA256SUMS", "sha256sums", "SHA256SUMS/x"])
async def test_checksums_give_way_to_a_member_of_their_name(origin, resolver, name):
    """And list the member under its own."""
    made = resolver([{"id": "a", "text": "x", "name": name}])
    resolution = await made.resolve(["a"], CALLER, checksums="sha256")
    assert [member.name for member in resolution.members] == [name, "SHA256SUMS (2)"]
    assert resolution.renamed == [Renamed(None, "SHA256SUMS", "SHA256SUMS (2)")]
    assert [member.name for member in resolution.members[-1].source.members] == [name]


async def test_checksums_list_members_by_the_names_that_they_are_given(origin, resolver):
    entries = [{"id": f"{n}", "text": "x", "name": "../a.txt"} for n in range(2)]
    resolution = await resolver(entries).resolve(["0", "1"], CALLER, checksums="sha256")
    names = [member.name for member in resolution.members]
    assert names == ["a.txt", "a (2).txt", "SHA256SUMS"]
    assert [member.name for member in resolution.members[-1].source.members] == names[:2]


async def test_of_directories_alone_the_list_of_checksums_is_empty(origin, resolver):
    made = resolver([{"id": "d", "name": "d/"}])
    resolution = await made.resolve(["d"], CALLER, checksums="sha256")
    assert [(member.name, member.size) for member in resolution.members] == [
        ("d/", 0),
        ("SHA256SUMS", 0),
    ]
    layout = Layout(tar, resolution.members)
    assert list(layout.beforehand(0, layout.size)) == []
    assert list(layout.beforehand(layout.described_start, layout.size)) == []


async def test_checksums_count_neither_as_member_nor_as_bytes(origin, resolver):
    """They are ours: what was asked for is within the limits."""
    made = resolver([{"id": "a", "text": "x", "name": "a"}], limits=(1, 1))
    assert len((await made.resolve(["a"], CALLER, checksums="sha256")).members) == 2


async def test_1000_checksums_are_listed_in_steps(origin, resolver):
    table, ids = a_table(origin, 1000)
    resolving = asyncio.create_task(resolver(table).resolve(ids, CALLER, checksums="sha256"))
    turns = 0
    while not resolving.done():
        await asyncio.sleep(0)
        turns += 1
    assert len((await resolving).members[-1].source.members) == 1000
    plain = asyncio.create_task(resolver(table).resolve(ids, CALLER))
    turns_without = 0
    while not plain.done():
        await asyncio.sleep(0)
        turns_without += 1
    assert turns >= turns_without + 1000 // STEP


# Long lists.


def a_table(origin, count):
    entries = {
        f"id{number}": (
            Entry(f"{origin.root}/{number}", f"set/{number % 7}/{number}.bin", 1, 1, '"e"'),
        )
        for number in range(count)
    }
    return Table(entries), list(entries)


async def test_100_000_members_let_other_downloads_go_on(origin, resolver):
    table, ids = a_table(origin, 100_000)
    resolving = asyncio.create_task(resolver(table, limits=(100_000, MIB)).resolve(ids, CALLER))
    turns = 0
    while not resolving.done():
        await asyncio.sleep(0)
        turns += 1
    assert len((await resolving).members) == 100_000
    assert turns > 4 * 100_000 / STEP


@pytest.mark.parametrize("skip_missing", [False, True])
async def test_no_pass_over_all_members_is_made_in_one_go(origin, resolver, skip_missing):
    """Calls are counted, not time: between two turns of another task fewer than one a member."""
    count = 20_000
    table, ids = a_table(origin, count)
    if skip_missing:
        origin.add("/0", b"x")
        table.entries = {"id0": (Entry(f"{origin.root}/0", "0"),)}
    resolving = asyncio.create_task(
        resolver(table, limits=(count, MIB)).resolve(ids, CALLER, skip_missing=skip_missing)
    )
    calls = longest = total = 0

    def count_call(frame, event, argument):
        nonlocal calls
        calls += event in {"call", "c_call"}

    while not resolving.done():
        calls = 0
        sys.setprofile(count_call)
        await asyncio.sleep(0)
        sys.setprofile(None)
        longest = max(longest, calls)
        total += calls
    resolution = await resolving
    assert len(resolution.missing if skip_missing else resolution.members) >= count - 1
    assert total > count
    assert longest < count


async def test_steps_give_a_turn_to_others_and_then_what_they_return():
    turns = []

    def steps():
        for _ in range(3):
            turns.append("step")
            yield
        return "done"

    async def other():
        while True:
            turns.append("other")
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    assert await in_steps(steps()) == "done"
    task.cancel()
    assert turns[:6] == ["step", "other"] * 3
