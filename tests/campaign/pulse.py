"""Whether this machine keeps up: on a busy one a healthy origin looks slow.

Origins run in the campaign's own loop, and gateways wait two seconds for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from campaign import oracle
from campaign.download import until

OFTEN = 0.1  # seconds from one look to the next
LATE = 0.5  # seconds beyond which a look has taken too long: a quarter of what gateways wait
_NETSTAT = Path("/proc/net/netstat")
CALM = 1.0  # seconds without one that has ...
LONG = 30.0  # ... which are waited for so long


class Pulse:
    """Looks all the time how long this loop and the gateways take for next to nothing."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.longest = 0.0  # seconds
        self._ports = ports
        self._now = asyncio.get_running_loop().time
        self._due = self._now() + OFTEN
        self._late_at = -1.0
        self._starved = self.starved

    @property
    def starved(self) -> int:
        """Connections that the kernel has broken so far because it lacked memory for them."""
        names, values = (line.split() for line in _NETSTAT.read_text().splitlines()[:2])
        return int(values[names.index("TCPAbortOnMemory")])

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            self._due = self._now() + OFTEN
            await asyncio.sleep(OFTEN)
            await asyncio.gather(*(oracle.get(port, "/healthz") for port in self._ports))
            took = self._now() - self._due
            self.longest = max(self.longest, took)
            starved = self.starved
            if took > LATE or starved != self._starved:
                self._late_at, self._starved = self._now(), starved

    def skipped(self, since: float) -> bool:
        """Whether anything was late since then."""
        late = self._now() - self._due > LATE or self.starved != self._starved
        return late or self._late_at >= since

    async def calm(self) -> None:
        """Wait until nothing has been late for a while, or until that has been waited for long."""
        await until(lambda: not self.skipped(self._now() - CALM), LONG)
