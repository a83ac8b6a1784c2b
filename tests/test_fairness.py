"""An archive of many members does not keep those of few from the connections to their origin."""

import asyncio

import faults
from made import Made


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
