"""Whether every page of an Ogg file is there and intact: FFmpeg drops the ones that are not,
without a word.

A page holds up to a second of sound, and carries its number and a checksum so that its loss can be
noticed. FFmpeg notices, and plays on behind the gap: one flipped bit in five seconds of Opus gave
four seconds. Its frames' times would show most gaps, but not one at the end, nor one that an
encoder left on purpose. A file that ends without the mark of its last page is accepted: recorders
of streams leave it out.
"""

import zlib

from shards.errors import BadSample

_HEADER_BYTES = 27
_CHECKSUM = slice(22, 26)
# Ogg's checksum is zlib's over mirrored bits. Mirroring them costs far less than a loop over bytes
# in Python.
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_pages(data: bytes, *, code: str) -> None:
    """Raise BadSample(`code`) unless Ogg file `data` is a sequence of whole pages, none damaged and
    none missing.
    """
    position = 0
    last_number: dict[bytes, int] = {}  # of each of the streams, which may lie between each other
    while position < len(data):
        end = _end_of_page(data, position)
        if end is None:
            raise BadSample(code, f"ogg: no whole page at byte {position} of {len(data)}")
        page = data[position:end]
        if _checksum(page) != int.from_bytes(page[_CHECKSUM], "little"):
            raise BadSample(code, f"ogg: the page at byte {position} is damaged")
        stream, number = page[14:18], int.from_bytes(page[18:22], "little")
        if stream in last_number and number != (last_number[stream] + 1) % 2**32:
            raise BadSample(code, f"ogg: page {number} follows page {last_number[stream]}")
        last_number[stream] = number
        position = end


def _end_of_page(data: bytes, start: int) -> int | None:
    """Where the page at `start` ends, None when there is none or a part of one."""
    if data[start : start + 4] != b"OggS" or start + _HEADER_BYTES > len(data):
        return None
    body = start + _HEADER_BYTES + data[start + _HEADER_BYTES - 1]
    end = body + sum(data[start + _HEADER_BYTES : body])
    return end if end <= len(data) else None


def _checksum(page: bytes) -> int:
    """CRC-32 with polynomial 0x04c11db7 from the highest bit down, over the page with its checksum
    field zeroed.
    """
    blank = page[: _CHECKSUM.start] + bytes(4) + page[_CHECKSUM.stop :]
    mirrored = (
        zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    )  # zlib inverts before and after
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")
