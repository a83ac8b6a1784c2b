"""Of what clients are told, and of the process, what no other test would miss.

See `guards/clients.py`.
"""

import subprocess
import sys

import pytest
from gateway import ROOT, raw


@pytest.mark.parametrize(
    "target",
    ["/plan?ids=a", "/plan?ids=nobody", "/archive?ids=nobody", "/archive?ids=", "/nowhere"],
)
async def test_head_of_whatever_there_is_has_not_one_byte_of_body(origin, start, target):
    """It would be read as the next answer."""
    origin.add("/a", b"hello")
    gateway = await start(origin)
    asked = f"HEAD {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head, end, body = (await raw(gateway.port, asked.encode())).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 ")
    assert end
    assert body == b""


LOOPS = """
import asyncio, server

async def serving():
    print(type(asyncio.get_running_loop()).__module__)
    return 0

server._run(serving)
loop = asyncio.new_event_loop()
print(type(loop).__module__)
loop.close()
"""


def test_no_policy_is_set_for_event_loops():
    """uvloop is for the loop that serves, and for no other that somebody makes."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOOPS],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    serving, other = done.stdout.split()
    assert done.stderr == ""
    assert serving == "uvloop"
    assert other.startswith("asyncio.")
