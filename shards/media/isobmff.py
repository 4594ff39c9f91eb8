"""What the tables of an mp4 (ISO base media file) claim, checked before FFmpeg believes them.

FFmpeg builds one index entry of 32 bytes for every sample an mp4 says it has, and a table can say
"200 million samples of 6 bytes" in 20 bytes: a file of 2 kB made it allocate 737 MB for every 20
million claimed. It has no option that bounds this. So the three tables that can claim entries they
do not hold are found here and added up. Everything outside `mdat` (the media bytes, where a chance
match would refuse an honest file) is searched as plain bytes instead of being parsed as a tree:
FFmpeg finds tables in places the standard does not allow, and so must this.

That the file is whole is checked on the way: the same walk over its top-level boxes says where it
should end.

Limiting the address space of the process was the alternative; it is no business of a library and
not portable.
"""

import re
from collections.abc import Iterator

from shards.errors import BadSample

# An hour of AAC has 170,000 samples, an hour of video at 60 frames a second 216,000. Four million
# cost FFmpeg 130 MB.
MAX_INDEX_ENTRIES = 4_000_000

_NEEDED_BOXES = frozenset({b"moov", b"moof", b"mdat"})
_TABLES = re.compile(rb"stsz|trun|elst|cmov")


def check_tables(data: bytes, *, code: str) -> None:
    """Raise BadSample(`code`) when the tables of mp4 file `data` claim more samples than a
    recording can have.
    """
    num_samples, num_edits = 0, 0
    for start, end in _regions_outside_media(data):
        for match in _TABLES.finditer(data, start, end):
            table = match.group()
            if table == b"cmov":
                raise BadSample(
                    code, "mp4 with a compressed header, whose tables cannot be checked"
                )
            claimed = _claimed_entries(table, data, match.end())
            if table == b"elst":
                num_edits += claimed
            else:
                num_samples += claimed
    # Each edit may list every sample again.
    if num_samples * max(1, num_edits) > MAX_INDEX_ENTRIES:
        claim = f"{num_samples} samples in {num_edits} edits"
        raise BadSample(
            code,
            f"mp4 tables claim {claim}, at most {MAX_INDEX_ENTRIES} samples times edits are read",
        )


def check_complete(data: bytes, *, code: str) -> None:
    """Raise BadSample(`code`) when mp4 file `data` ends inside its media or its tables.

    FFmpeg reads tables that were cut, and a track whose tables are gone looks to it like one that
    was never there.
    """
    for name, _, end in _top_level_boxes(data):
        if name in _NEEDED_BOXES and end > len(data):
            raise BadSample(
                code,
                f"mp4 is cut short: '{name.decode()}' ends at byte {end}, the file at {len(data)}",
            )


def _regions_outside_media(data: bytes) -> Iterator[tuple[int, int]]:
    """Byte ranges that are not the payload of a top-level `mdat`."""
    position = 0
    for name, start, end in _top_level_boxes(data):
        if name != b"mdat":
            yield start, min(end, len(data))
        position = end
    yield min(position, len(data)), len(data)


def _top_level_boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, claimed end) of each box; a size that makes no sense ends the walk, as does "up
    to the end".
    """
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        if size < 8:
            return
        yield data[position + 4 : position + 8], position, position + size
        position += size


def _claimed_entries(table: bytes, data: bytes, offset: int) -> int:
    """Entries of the table whose four-letter name ends at `offset`; the name is followed by version
    and flags.
    """
    if table == b"stsz":
        return int.from_bytes(data[offset + 8 : offset + 12], "big")
    return int.from_bytes(data[offset + 4 : offset + 8], "big")
