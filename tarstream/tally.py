"""What several processes have counted, in memory that all of them see, and its sums.

Each writes its own numbers, and any of them shows the sums of all. What was counted by one that has
died stays: counters never go down.
"""

import json
import mmap
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Across = Callable[[Iterable[float]], float]
"""How a gauge of all processes follows from those of each: `sum`, `max` or `min`."""

_ROOM = 1 << 20  # bytes of a text: some thirty times what is ever written; unused, it is no memory
_HEADER = struct.Struct("<QII")  # version, length, CRC-32 of both and of the text

_Key = tuple[str, tuple[tuple[str, str], ...]]  # name of a sample, its labels


class Tally:
    """A text of each process, to be made before they are forked.

    Nobody waits for a lock: a text has two places, and is written where the last one is not. One
    that was not written to its end has a wrong CRC-32, and the last one counts.
    """

    def __init__(self, processes: int) -> None:
        self._memory = mmap.mmap(-1, processes * 2 * _ROOM)
        self.processes = range(processes)

    def write(self, process: int, text: bytes) -> None:
        """Replace the text of a process, which nobody else may be doing."""
        version = self._latest(process)[0] + 1
        start = (2 * process + version % 2) * _ROOM
        stop = start + _HEADER.size + len(text)
        if stop > start + _ROOM:
            raise ValueError(f"{len(text)} bytes of numbers are too many")
        header = _HEADER.pack(version, len(text), _checksum(version, text))
        self._memory[start:stop] = header + text

    def read(self, process: int) -> bytes:
        """The last text of a process, or none."""
        return self._latest(process)[1]

    def _latest(self, process: int) -> tuple[int, bytes]:
        return max(self._place(2 * process), self._place(2 * process + 1))

    def _place(self, place: int) -> tuple[int, bytes]:
        start = place * _ROOM
        version, length, checksum = _HEADER.unpack_from(self._memory, start)
        start += _HEADER.size
        text = self._memory[start : start + min(length, _ROOM)]
        return (version, text) if _checksum(version, text) == checksum else (0, b"")


def _checksum(version: int, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(b"%d,%d" % (version, len(text))))


class Share:
    """What one process adds to a tally: its numbers, and those of whom it replaces."""

    def __init__(self, tally: Tally, process: int) -> None:
        self._tally = tally
        self._process = process
        self._before = _counted(tally.read(process))

    def sums(self, own: Collector, across: Mapping[str, Across]) -> "Sums":
        """The sums of all, with the numbers of this process as `own` has them."""
        return Sums(self, own, across)

    def publish(self, own: Collector) -> None:
        """Let the others see the numbers of this process."""
        counted, shown = dict(self._before), {}
        for family in own.collect():
            for sample in family.samples:
                key = _key(sample)
                if family.type == "gauge":
                    shown[key] = sample.value
                else:
                    counted[key] = counted.get(key, 0) + sample.value
        self._tally.write(self._process, _text(counted, shown))

    def all(self) -> Iterator[Mapping[_Key, float]]:
        """The numbers of each process."""
        for process in self._tally.processes:
            text = self._tally.read(process)
            yield {**_counted(text), **_shown(text)}


class Sums(Collector):
    """The numbers of all processes, for an encoder of prometheus_client."""

    def __init__(self, share: Share, own: Collector, across: Mapping[str, Across]) -> None:
        self._share = share
        self._own = own
        self._across = across

    def collect(self) -> Iterator[Metric]:
        """Its families, as one process has them, with the values of all."""
        # What is shown of our own is what stays when we die.
        self._share.publish(self._own)
        values: dict[_Key, list[float]] = {}
        for numbers in self._share.all():
            for key, value in numbers.items():
                values.setdefault(key, []).append(value)
        for family in self._own.collect():
            names = {family.name + suffix for suffix in ("", "_total", "_bucket", "_sum", "_count")}
            own = [_key(sample) for sample in family.samples]
            others = [key for key in values if key[0] in names and key not in set(own)]
            family.samples = [
                Sample(key[0], dict(key[1]), self._across.get(key[0], sum)(values[key]))
                for key in own + others
                if key in values
            ]
            yield family


def forget(tally: Tally, process: int) -> None:
    """Keep of a process that has died only what it counted; for who knows of its death."""
    tally.write(process, _text(_counted(tally.read(process)), {}))


def _key(sample: Sample) -> _Key:
    return sample.name, tuple(sample.labels.items())


def _text(counted: Mapping[_Key, float], shown: Mapping[_Key, float]) -> bytes:
    return json.dumps([list(counted.items()), list(shown.items())]).encode()


def _counted(text: bytes) -> dict[_Key, float]:
    return _numbers(text, 0)


def _shown(text: bytes) -> dict[_Key, float]:
    return _numbers(text, 1)


def _numbers(text: bytes, which: int) -> dict[_Key, float]:
    if not text:
        return {}
    return {
        (name, tuple((label, value) for label, value in labels)): number
        for (name, labels), number in json.loads(text)[which]
    }
