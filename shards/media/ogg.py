"""A check that every page of an Ogg file is there and intact, since FFmpeg drops damaged pages.

A page holds up to a second of sound, and carries its number and a checksum so that its loss can be
noticed. FFmpeg notices the loss, plays on behind the gap, and reports nothing: with one flipped
bit, five seconds of Opus became four. The times of FFmpeg's frames would show most gaps, but not
a gap at the end, and they could not tell a loss from a gap that an encoder left on purpose. A file
that ends without the mark of a last page is accepted, because recorders of streams leave it out.
"""

import zlib

from shards.errors import BadSample

_HEADER_BYTES = 27
# The bit of a page's flags that says that a stream begins with it.
_FIRST_PAGE = 2
_CHECKSUM = slice(22, 26)
# Ogg's checksum is that of zlib over bytes whose bits are mirrored. Mirroring them by a table costs
# far less than a loop over bytes in Python.
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_pages(data: bytes, *, code: str) -> None:
    """Raise BadSample(`code`) unless all pages of Ogg file `data` are there, whole and intact."""
    position = 0
    # The pages of several streams may alternate, and each stream numbers its own.
    last_number: dict[bytes, int] = {}

    while position < len(data):
        end = _end_of_page(data, position)
        if end is None:
            raise BadSample(
                code, f"ogg: expected a whole page at byte {position} of {len(data)}, got none"
            )

        page = data[position:end]
        if _checksum(page) != int.from_bytes(page[_CHECKSUM], "little"):
            raise BadSample(
                code, f"ogg: the page at byte {position} is damaged (its checksum is wrong)"
            )

        stream, number = page[14:18], int.from_bytes(page[18:22], "little")
        if stream in last_number and number != (last_number[stream] + 1) % 2**32:
            raise BadSample(
                code,
                f"ogg: page {number} follows page {last_number[stream]}; pages are missing or out "
                "of order",
            )

        last_number[stream] = number
        position = end


def next_chain(data: bytes) -> int | None:
    """Where a second Ogg file begins that lies behind the first; None where there is none.

    The streams of a file begin all at its start: a page that begins a stream behind a page that
    does not is the start of the next file.
    """
    position, is_behind_start = 0, False
    while (end := _end_of_page(data, position)) is not None:
        begins_stream = bool(data[position + 5] & _FIRST_PAGE)
        if begins_stream and is_behind_start:
            return position
        is_behind_start = is_behind_start or not begins_stream
        position = end

    return None


def _end_of_page(data: bytes, start: int) -> int | None:
    """Where the page at `start` ends; None when no page, or only a part of one, is there."""
    if data[start : start + 4] != b"OggS" or start + _HEADER_BYTES > len(data):
        return None

    # The last byte of the header counts the bytes that follow it, and the sum of these is the size
    # of the page's content.
    body = start + _HEADER_BYTES + data[start + _HEADER_BYTES - 1]
    end = body + sum(data[start + _HEADER_BYTES : body])
    return end if end <= len(data) else None


def _checksum(page: bytes) -> int:
    """The checksum that the header of `page` should hold.

    It is a CRC-32 with the polynomial 0x04c11db7, from the highest bit down, over the page with
    zeros in the place of the checksum.
    """
    blank = page[: _CHECKSUM.start] + bytes(4) + page[_CHECKSUM.stop :]
    # Ogg's CRC begins with 0 and is stored as it is. zlib inverts the number before and after; both
    # are undone here.
    mirrored = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF

    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")
