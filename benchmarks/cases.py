"""What is measured: archives, and how far away their origin is."""

from dataclasses import dataclass, replace

GIB = 1024**3
MIB = 1024**2
KIB = 1024

DISTANCE = 0.02
"""Seconds until an answer of an origin begins that is far away."""


LONG = frozenset(
    {"large-tar-far", "large-tar-file", "large-zip-known", "small-zip-known", "far-zip"}
)
"""Left out of a quick run unless they are named: what they show, others show nearly as well."""


@dataclass(frozen=True)
class Case:
    """An archive that is asked for. Units: bytes, seconds."""

    name: str
    title: str
    format: str
    members: int
    size: int
    """Of each member."""
    knows_sizes: bool = True
    """Our catalog states size, mtime and entity-tag; else we ask for each by HEAD."""
    knows_crc: bool = False
    """The CRC-32 of each member is stated; else a zip computes it."""
    place: str = "origin"
    """Where contents are: at the `origin`, in a `file` of this machine, or in the `catalog`."""
    latency: float = 0
    clients: int = 1
    """That ask at the same moment."""
    slow: bool = False
    """They take little each second, and what they cost in memory is what is measured."""
    once: bool = False
    """Measured once, because it takes long."""
    ours_only: bool = False
    files: int = 0
    """Of the origin; fewer than members where the same are packed several times."""

    @property
    def is_large(self) -> bool:
        """Whether bytes cost, and not members."""
        return self.members == 1


def cases(*, quick: bool) -> list[Case]:
    """All of them; `quick` are the same questions about less."""
    large = 256 * MIB if quick else GIB
    many = 500 if quick else 2000
    far = 30 if quick else 200
    huge = 10_000 if quick else 100_000
    bytes_ = f"{large // MIB} MiB"
    tar = Case("large-tar", f"tar of one member of {bytes_}", "tar", 1, large)
    zipped = replace(tar, format="zip")
    small = Case("small-tar", f"tar of {many:,} members of 16 KiB", "tar", many, 16 * KIB)
    distant = replace(small, members=far, latency=DISTANCE)
    away = f"from {DISTANCE * 1000:.0f} ms away"
    crowd = 4
    slow = 20 if quick else 100
    return [
        tar,
        replace(tar, name="large-tar-far", title=f"{tar.title}, {away}", latency=DISTANCE),
        replace(
            tar,
            name="large-tar-file",
            title=f"{tar.title}, a file of this machine",
            place="file",
            ours_only=True,
        ),
        replace(
            zipped,
            name="large-zip-known",
            title=f"zip of one member of {bytes_}, CRC-32 known",
            knows_crc=True,
        ),
        replace(
            zipped,
            name="large-zip-computed",
            title=f"zip of one member of {bytes_}, CRC-32 computed",
        ),
        small,
        replace(
            small,
            name="small-tar-head",
            title=f"{small.title}, a HEAD for each",
            knows_sizes=False,
            ours_only=True,
        ),
        replace(
            small,
            name="small-zip-known",
            title=f"zip of {many:,} members of 16 KiB, CRC-32 known",
            format="zip",
            knows_crc=True,
        ),
        replace(
            small,
            name="small-zip-computed",
            title=f"zip of {many:,} members of 16 KiB, CRC-32 computed",
            format="zip",
        ),
        replace(distant, name="far-tar", title=f"tar of {far} members of 16 KiB, {away}"),
        replace(
            distant,
            name="far-zip",
            title=f"zip of {far} members of 16 KiB, {away}",
            format="zip",
        ),
        replace(
            small,
            name="crowd",
            title=f"{crowd} clients at once, each a tar of {many:,} members of 16 KiB",
            clients=crowd,
            ours_only=True,
        ),
        Case(
            "cores",
            f"{crowd} clients at once, each a tar of {many * 5:,} members of 1 KiB, without origin",
            "tar",
            many * 5,
            KIB,
            place="catalog",
            clients=crowd,
            ours_only=True,
        ),
        replace(
            tar,
            name="slow",
            title=f"{slow} slow clients at once, each a tar of one member of {bytes_}",
            clients=slow,
            slow=True,
            once=True,
            ours_only=quick,
        ),
        Case(
            "huge",
            f"tar of {huge:,} members of 1 KiB",
            "tar",
            huge,
            KIB,
            once=True,
            ours_only=True,
            files=1000,
        ),
    ]
