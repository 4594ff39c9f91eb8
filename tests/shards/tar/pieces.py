"""Tars made by hand and by Python's tarfile, and short names for reading them.

The tests of the tar code use them.
"""

import io
import tarfile

from shards.errors import reason_code
from shards.storage.ranged_reader import BytesReader
from shards.tar.reader import (
    SampleEntry,
    ShardIndex,
    TarLimits,
    TarWriter,
    index_shard,
    read_members,
)

BLOCK = 512
SAMPLES = {
    "a": {"flac": b"sound of a", "json": b"{}"},
    "dir/b": {"flac": b"x" * 700, "json": b'{"speaker":"s"}', "txt": b""},
    "ü-3": {"face.npy": b"n" * BLOCK, "wav": b"w"},
}


def write(samples: dict[str, dict[str, bytes]]) -> bytes:
    """A shard, written by this project's writer."""
    stream = io.BytesIO()
    with TarWriter(stream) as writer:
        for key, members in samples.items():
            writer.add(key, members)
    return stream.getvalue()


def write_with_tarfile(
    *members: tuple[str, bytes] | tarfile.TarInfo, tar_format: int = tarfile.USTAR_FORMAT
) -> bytes:
    """A shard, written by Python's tarfile."""
    stream = io.BytesIO()

    with tarfile.open(fileobj=stream, mode="w", format=tar_format, encoding="utf-8") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))

    return stream.getvalue()


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    """A member that is not a plain file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def header(
    name: bytes, size: bytes, kind: bytes = b"0", magic: bytes = b"ustar\x0000", prefix: bytes = b""
) -> bytes:
    """A header made by hand, with the right checksum whatever its fields say."""
    fields = [
        name.ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0" * 2,
        size.ljust(12, b"\0"),
        b"00000000000\0",
        b" " * 8,
    ]

    block = b"".join([*fields, kind, bytes(100), magic.ljust(8, b"\0"), bytes(80), prefix]).ljust(
        BLOCK, b"\0"
    )

    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def pad(payload: bytes) -> bytes:
    """The payload, filled up to whole blocks."""
    return payload + bytes(-len(payload) % BLOCK)


def record(name: bytes, value: bytes) -> bytes:
    """A pax record; its length counts its own digits."""
    length = next(n for n in range(1000) if n == len(b"%d %s=%s\n" % (n, name, value)))
    return b"%d %s=%s\n" % (length, name, value)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    """An extended header of these records."""
    return header(b"PaxHeader", b"%011o" % len(records), kind) + pad(records)


def file(name: str, payload: bytes = b"data") -> bytes:
    """A plain member, header and payload."""
    return header(name.encode(), b"%011o" % len(payload)) + pad(payload)


def index(data: bytes, **limits: int) -> ShardIndex:
    """The index of a shard in memory."""
    return index_shard(BytesReader(data), TarLimits(**limits))


def contents(data: bytes) -> dict[str, dict[str, bytes]]:
    """The samples of `data` that are not in error, read through the index."""
    entries = index(data).entries
    return {
        entry.key: read_members(BytesReader(data), entry)
        for entry in entries
        if entry.error is None
    }


def codes(entries: tuple[SampleEntry, ...]) -> dict[str, str | None]:
    """Key -> the code of its error, None where it has none."""
    return {
        entry.key: None if entry.error is None else reason_code(entry.error) for entry in entries
    }


END = bytes(2 * BLOCK)
GOOD = file("good.flac")
