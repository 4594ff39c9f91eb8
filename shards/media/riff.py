"""Whether a WAV file is whole, by the size that it states, also in the form for large files (RF64).

FFmpeg would play what is left of a file that was cut short, and report nothing.
"""

from collections.abc import Iterator

from shards.errors import BadSample

# A program that writes WAV into a pipe cannot go back and fill in the size of its data. It leaves a
# number of this size or larger there.
_UNKNOWN_BYTES = 0x7FFF0000
_IN_DS64 = 0xFFFFFFFF
_FIRST_CHUNKS = (b"fmt ", b"ds64", b"JUNK", b"bext", b"LIST")


def is_wav(data: bytes) -> bool:
    """Whether `data` begins like a WAV file, of the old or the large form."""
    return data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE"


def check_wav_size(data: bytes) -> None:
    """Raise BadSample(`truncated_audio`) when a WAV file is shorter than its `data` chunk says."""
    large_size = 0
    for name, start, size in _chunks(data):
        if name == b"ds64":
            large_size = int.from_bytes(data[start + 8 : start + 16], "little")
        if name != b"data":
            continue

        is_large = data[:4] == b"RF64" and size == _IN_DS64
        stated = large_size if is_large else size
        is_known = is_large or size < _UNKNOWN_BYTES
        present = len(data) - start
        if is_known and present < stated:
            raise BadSample(
                "truncated_audio",
                f"wav: got {present} bytes of sound, expected the {stated} of the header",
            )
        return


def next_wav(data: bytes) -> int | None:
    """Where a second WAV file begins that lies behind the first; None where there is none."""
    # Looking at all bytes costs as much as reading them, so it is done only where the file does not
    # end where it says.
    if abs(_stated_end(data) - len(data)) <= 1:
        return None

    mark = data.find(b"WAVE", 20)
    while mark >= 0:
        if is_wav(data[mark - 8 : mark + 4]) and data[mark + 4 : mark + 8] in _FIRST_CHUNKS:
            return mark - 8
        mark = data.find(b"WAVE", mark + 4)
    return None


def _stated_end(data: bytes) -> int:
    size = int.from_bytes(data[4:8], "little")
    if size == _IN_DS64 and data[12:16] == b"ds64":
        size = int.from_bytes(data[20:28], "little")
    return 8 + size


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start of the content, stated size) of each chunk."""
    position = 12
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        yield data[position : position + 4], position + 8, size
        # A chunk of an odd size is followed by a byte of padding.
        position += 8 + size + size % 2
