"""What one archive asks for or moves does not keep others from their turn."""

import asyncio

import faults
from made import Made
from origin import Origin
from test_stores import Sink, any_address

from tarstream.stores.bypass import READ
from tarstream.stores.http import HttpStore, session


async def test_a_long_plan_leaves_connections_to_a_short_one(origin, start, client):
    """Its HEADs wait for each other, and not those of others for all of them."""
    names = [f"{number}" for number in range(200)]
    for name in names:
        origin.add(f"/{name}", b"x", faults.late())
    origin.add("/short", b"x")
    gateway = await start(origin, upstream={"connections": 4})
    long = asyncio.create_task(client.head(gateway.url(names)))
    await origin.until(lambda: origin.stalled == 2)
    async with asyncio.timeout(30):
        async with client.get(gateway.url(["short"])) as response:
            assert response.status == 200
            await response.read()
    assert origin.stalled == 2
    assert len(origin.requests) == 2 + 2
    long.cancel()
    await asyncio.wait([long])


async def test_an_archive_whose_client_sleeps_leaves_others_members_ahead(origin, start, client):
    """Members that are ahead for nobody in a hurry hold up nobody."""
    members = {f"{name}{number}": 100_000 for name in "abc" for number in range(20)}
    entries = [
        {"id": name, "url": origin.add(f"/{name}", Made(size), faults.stall(at=10))}
        | {"size": size, "mtime": 0, "etag": origin.objects[f"/{name}"].etag}
        for name, size in members.items()
    ]
    # Twelve of these are for members opened ahead.
    upstream = {"connections": 16, "ahead": 20, "ahead_bytes": "1 GiB"}
    gateway = await start(origin, entries, upstream=upstream)
    asking = []
    for letter, opened in zip("abc", (6, 4, 2), strict=True):
        before = origin.stalled
        ids = [name for name in members if name.startswith(letter)]
        asking.append(asyncio.create_task(client.get(gateway.url(ids))))
        await origin.until(lambda: origin.stalled == before + opened + 1)  # noqa: B023
    assert origin.stalled == len(origin.requests)
    for each in asking:
        (await each).close()


async def test_a_member_that_never_has_to_be_waited_for_lets_others_run():
    """After each piece, however much has come already, of an origin and a client that are fast."""
    size = READ + 1
    made = Made(size)
    sink, turns = Sink(), 0
    sink.portion.size = 1024  # less than has come each time
    with Origin().in_thread() as origin:
        url = origin.add("/large", made)
        async with session(5, 30, any_address) as http:
            store = HttpStore(http)

            async def move():
                async with store.open(url, 0, size, size, None) as body:
                    await body.copy_to(sink)

            moving = asyncio.create_task(move())
            while not moving.done():
                await asyncio.sleep(0)
                turns += 1
            await moving
    assert sink.data == made.read()
    assert len(sink.chunks) > 1000
    assert turns >= len(sink.chunks)
