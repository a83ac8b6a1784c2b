"""What the applications beside this one give away: files of another server, as one archive.

Try it with `python -m http.server 9000 --bind 127.0.0.1` in a directory that has these files, or
set FILES to where they are.
"""

import os

from tarstream import Member

ROOT = os.environ.get("FILES", "http://127.0.0.1:9000")


def members() -> list[Member]:
    """In a real application: what somebody has selected, from its database."""
    return [
        Member(name="README.txt", source=b"Three files, and where they are from.\n"),
        Member(name="notes.txt", source=f"{ROOT}/notes.txt"),
        Member(name="holiday/film.bin", source=f"{ROOT}/film.bin"),
    ]
