"""What the tables of an mp4 (ISO base media file) claim, checked before FFmpeg believes them.

FFmpeg builds an index entry of 32 bytes for every sample that an mp4 claims to have, and a table
can claim "200 million samples of 6 bytes" in 20 bytes: FFmpeg allocated 737 MB for every 20 million
samples that a file of 2 kB claimed. FFmpeg has no option that limits this. So this module finds the
three tables that can claim entries without holding them, and adds up their claims. It searches
everything outside `mdat` as plain bytes instead of parsing a tree of boxes, because FFmpeg finds
tables even in places that the standard does not allow. `mdat` holds the media; bytes there that
look like a table by chance would get an honest file refused.

The same walk over the top-level boxes says where the file should end, so it is also checked that
the file is whole.

Limiting the address space of the process was the alternative. It lost: it is not portable, and it
is not for a library to do.
"""

import re
from collections.abc import Iterator

from shards.errors import BadSample

# An hour of AAC has 170,000 samples, and an hour of video at 60 frames a second has 216,000. FFmpeg
# needs 130 MB for an index of four million.
MAX_INDEX_ENTRIES = 4_000_000

_NEEDED_BOXES = frozenset({b"moov", b"moof", b"mdat"})
_TABLES = re.compile(rb"stsz|trun|elst|cmov")


def check_tables(data: bytes, *, code: str) -> None:
    """Raise BadSample(`code`) when the tables of mp4 file `data` claim too many samples.

    At most `MAX_INDEX_ENTRIES` samples times edits are accepted.
    """
    num_samples, num_edits = 0, 0

    for start, end in _regions_outside_media(data):
        for match in _TABLES.finditer(data, start, end):
            table = match.group()
            if table == b"cmov":
                raise BadSample(
                    code, "the mp4 has a compressed header, whose tables cannot be checked"
                )
            claimed = _claimed_entries(table, data, match.end())
            if table == b"elst":
                num_edits += claimed
            else:
                num_samples += claimed

    # The claims are multiplied, because each edit may list every sample again.
    if num_samples * max(1, num_edits) > MAX_INDEX_ENTRIES:
        claim = f"{num_samples} samples in {num_edits} edits"
        raise BadSample(
            code,
            f"the tables of the mp4 claim {claim}, expected at most {MAX_INDEX_ENTRIES} samples "
            "times edits",
        )


def check_complete(data: bytes, *, code: str) -> None:
    """Raise BadSample(`code`) when mp4 file `data` ends inside its media or its tables.

    FFmpeg reads tables that were cut as if they were whole. To FFmpeg, a file that has lost the
    tables of a track looks like a file that never had this track.
    """
    for name, _, end in _top_level_boxes(data):
        if name in _NEEDED_BOXES and end > len(data):
            raise BadSample(
                code,
                f"the mp4 is cut short: its box '{name.decode()}' should end at byte {end}, but "
                f"the file ends at byte {len(data)}",
            )


def next_mp4(data: bytes) -> int | None:
    """Where a second file begins that lies behind the first; None where there is none.

    A file begins with a box `ftyp`. The parts of a fragmented file begin with others.
    """
    starts = [start for name, start, _ in _top_level_boxes(data) if name == b"ftyp" and start > 0]
    return min(starts, default=None)


def _regions_outside_media(data: bytes) -> Iterator[tuple[int, int]]:
    """Byte ranges that are not the payload of a top-level `mdat`."""
    position = 0
    for name, start, end in _top_level_boxes(data):
        if name != b"mdat":
            yield start, min(end, len(data))
        position = end

    # What lies behind the last box that makes sense is searched too.
    yield min(position, len(data)), len(data)


def _top_level_boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, claimed end) of each box, until a box has no usable size."""
    position = 0
    while position + 8 <= len(data):
        # A size of 1 says that the true size stands in 8 bytes behind the name. A size of 0 means
        # "up to the end of the file", and no other size can be below the 8 bytes of the header.
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        if size < 8:
            return

        yield data[position + 4 : position + 8], position, position + size
        position += size


def _claimed_entries(table: bytes, data: bytes, offset: int) -> int:
    """The number of entries claimed by the table whose four-letter name ends at `offset`."""
    # Version and flags (4 bytes) follow the name. In `stsz` the size that all samples share (4
    # bytes) comes between them and the number.
    if table == b"stsz":
        return int.from_bytes(data[offset + 8 : offset + 12], "big")
    return int.from_bytes(data[offset + 4 : offset + 8], "big")
