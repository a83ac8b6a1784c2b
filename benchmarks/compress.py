"""What a level of `[compression]` costs: speed on one core, size, and memory of each download.

.venv/bin/python benchmarks/compress.py
"""

import io
import os
import random
import sysconfig
import tarfile
import time
from pathlib import Path

from tarstream.compress import STEP, Levels, compressor

SIZE = 24 * 1024**2
MANY = 10  # at a time, for their memory


def _text() -> bytes:
    """Python sources in a tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
            archive.add(path)
            if packed.tell() >= SIZE:
                break
    return packed.getvalue()[:SIZE]


def _measured(coding: str, levels: Levels, data: bytes) -> tuple[float, float]:
    """MiB a second, and what is left of the size."""
    one = compressor(coding, levels)
    began = time.process_time()
    size = sum(len(one.compress(data[at : at + STEP])) for at in range(0, len(data), STEP))
    size += len(one.finish())
    return len(data) / (time.process_time() - began) / 1024**2, size / len(data)


def _memory(coding: str, levels: Levels, data: bytes) -> float:
    """MiB of each, in a process of its own so that nothing is used again."""
    read, write = os.pipe()
    if not os.fork():
        before = _resident()
        many = [compressor(coding, levels) for _ in range(MANY)]
        for one in many:
            for at in range(0, 4 * 1024**2, STEP):
                one.compress(data[at : at + STEP])
        os.write(write, str(_resident() - before).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    return int(os.read(read, 100)) / MANY / 1024**2


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _main() -> None:
    text, noise = _text(), random.Random(1).randbytes(SIZE)  # nosec B311 # noqa: S311 - no secret
    for coding, numbers in (("gzip", (1, 2, 3, 4, 6, 9)), ("zstd", (1, 3, 6, 9, 12, 19))):
        for level in numbers:
            levels = Levels(level, level)
            speed, rest = _measured(coding, levels, text)
            noisy, _ = _measured(coding, levels, noise)
            memory = _memory(coding, levels, text)
            print(
                f"{coding}_level = {level:2}: {speed:5.0f} MiB/s, {rest:6.1%}; "
                f"random bytes {noisy:5.0f} MiB/s; {memory:5.1f} MiB each",
                flush=True,
            )


if __name__ == "__main__":
    _main()
