"""stream-zip behind FastAPI and uvicorn: its iterator in a StreamingResponse, run in threads.

python stream_zip_sync.py PORT MANIFEST
"""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from stat import S_IFREG

import urllib3
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from stream_zip import NO_COMPRESSION_32, ZIP_AUTO, Method, stream_zip

CHUNK = 64 * 1024

MEMBERS = json.loads(Path(sys.argv[2]).read_text())
POOL = urllib3.PoolManager(maxsize=100)

app = FastAPI()


def content(url: str) -> Iterator[bytes]:
    """A member from its origin, as it is asked for."""
    response = POOL.request("GET", url, preload_content=False)
    if response.status != 200:
        raise RuntimeError(f"{url}: {response.status}")
    yield from response.stream(CHUNK)
    response.release_conn()


def files() -> Iterator[tuple[str, datetime, int, Method, Iterator[bytes]]]:
    """What to pack, in the tuples that stream-zip takes; stored, or deflate's level 0."""
    for member in MEMBERS:
        size, crc32 = member["size"], member.get("crc32")
        yield (
            member["name"],
            datetime.fromtimestamp(member["mtime"], tz=UTC),
            S_IFREG | 0o644,
            NO_COMPRESSION_32(size, int(crc32, 16)) if crc32 else ZIP_AUTO(size, level=0),
            content(member["url"]),
        )


@app.get("/zip")
def archive() -> StreamingResponse:
    """All members as a zip."""
    return StreamingResponse(stream_zip(files()), media_type="application/zip")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
