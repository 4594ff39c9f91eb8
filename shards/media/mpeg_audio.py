"""The frames of an mp3 file, found by their headers, so that nothing else reaches FFmpeg.

An mp3 has no container: it is frame behind frame, and each header says how long its frame is.
People and programs put other things between and behind them: tags (ID3, APE, Lyrics3), zeros, a
second mp3. FFmpeg's decoder takes the first of these for a broken frame. Players skip them; this
module does so too. Bytes that are neither a frame nor something known, with more frames behind
them, are damage.

The first frame of most files holds no sound but says how many frames follow (Xing, Info, VBRI), so
a file that was cut short shows it. A file without such a frame may end anywhere.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass

from shards.errors import BadSample

_KILOBITS = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# The second byte of a header, without the bit for a checksum -> (table of bit rates, sampling
# rates).
_VERSIONS = {
    0xFA: (1, (44_100, 48_000, 32_000)),
    0xF2: (2, (22_050, 24_000, 16_000)),
    0xE2: (2, (11_025, 12_000, 8_000)),
}
# Where the name of a counting frame stands, from the start of its frame: it depends on the number
# of channels and the version.
_COUNT_OFFSETS = {b"Xing": (36, 21, 13), b"Info": (36, 21, 13), b"VBRI": (36,)}
_FILLING = re.compile(rb"(?:\x00|\x20|\xff(?=\xff))+")
_SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
# Something unknown behind the last frame is taken for a tag up to this size.
_MAX_UNKNOWN_TAIL_BYTES = 4096


def _frame_lengths() -> dict[bytes, int]:
    """The first three bytes of each possible header -> the length of its frame in bytes."""
    lengths = {}
    for version, (table, rates_hz) in _VERSIONS.items():
        slots = 144_000 if table == 1 else 72_000
        for bit_rate, kilobits in enumerate(_KILOBITS[table], start=1):
            for rate, rate_hz in enumerate(rates_hz):
                for low_bits in range(4):
                    third = bit_rate << 4 | rate << 2 | low_bits
                    length = slots * kilobits // rate_hz + (low_bits >> 1)
                    for second in (version, version | 1):
                        lengths[bytes([0xFF, second, third])] = length
    return lengths


_LENGTHS = _frame_lengths()


@dataclass(frozen=True, slots=True)
class _Frames:
    """Where the frames of a file start, the end of each run of neighbors, and what follows them."""

    starts: list[int]
    runs: list[tuple[int, int]]
    num_tail_bytes: int
    is_cut: bool


def mp3_files(data: bytes, *, start: int, code: str) -> list[bytes]:
    """The mp3 files that lie one behind another in `data`, from `start` on, without other things.

    An ordinary file comes back as it is. Raises BadSample: `truncated_audio` where a file has fewer
    frames than it states, and `code` where unknown bytes lie between frames.
    """
    found = _walk(data, start, code)
    if not found.starts:
        return [data]

    counting = _counting_frames(data, found.starts)
    firsts = sorted({found.starts[0], *counting})
    ends = [*firsts[1:], len(data)]
    for first, end in zip(firsts, ends, strict=True):
        num_frames = bisect_left(found.starts, end) - bisect_left(found.starts, first)
        if first in counting:
            _check_count(counting[first], num_frames - 1, found, is_last=end == len(data))
    if found.num_tail_bytes > _MAX_UNKNOWN_TAIL_BYTES and not counting:
        raise BadSample(code, f"mp3: the last {found.num_tail_bytes} bytes hold no frames")

    if len(firsts) == 1 and len(found.runs) == 1 and _ends_plainly(data, found.runs[0][1]):
        return [data]
    return [_joined(data, found.runs, first, end) for first, end in zip(firsts, ends, strict=True)]


def begins_with_frame(data: bytes) -> bool:
    """Whether the first thing in `data`, behind ID3 tags, is a whole frame of an mp3."""
    start = end_of_id3(data)
    length = _LENGTHS.get(data[start : start + 3], 0)
    return 0 < length <= len(data) - start


def _walk(data: bytes, position: int, code: str) -> _Frames:
    starts: list[int] = []
    runs: list[tuple[int, int]] = []

    while position < len(data):
        run_start = position
        while (length := _LENGTHS.get(data[position : position + 3], 0)) and (
            position + length <= len(data)
        ):
            starts.append(position)
            position += length
        if position > run_start:
            runs.append((run_start, position))

        behind = _end_of_tag(data, position)
        if behind == position < len(data):
            _refuse_lost_frames(data, position, code)
            return _Frames(starts, runs, len(data) - position, is_cut=length > 0)
        position = behind

    return _Frames(starts, runs, 0, is_cut=False)


def _end_of_tag(data: bytes, start: int) -> int:
    """Where the tag or the padding at `start` ends; `start` where there is neither."""
    if filling := _FILLING.match(data, start):
        return filling.end()
    if data[start : start + 3] == b"ID3":
        return min(end_of_id3(data, start), len(data))
    if data[start : start + 3] == b"TAG":
        return min(start + (227 if data[start + 3 : start + 4] == b"+" else 128), len(data))

    if data[start : start + 11] == b"LYRICSBEGIN":
        ends = [data.find(mark, start) + 9 for mark in (b"LYRICS200", b"LYRICSEND")]
        return max([*ends, start])
    return _end_of_ape_tag(data, start)


def _end_of_ape_tag(data: bytes, start: int) -> int:
    """An APE tag ends with a footer, and may have a header of the same form in front."""
    mark = data.find(b"APETAGEX", start)
    if mark < 0 or mark + 32 > len(data):
        return start

    # The size counts what follows a header, or what ends with a footer.
    size = int.from_bytes(data[mark + 12 : mark + 16], "little")
    if mark == start:
        return min(start + 32 + size, len(data))
    return mark + 32 if mark + 32 - size == start else start


def end_of_id3(data: bytes, start: int = 0) -> int:
    """Where the ID3v2 tags at `start` end; `start` without a tag."""
    position = start
    while data[position : position + 3] == b"ID3" and len(data) >= position + 10:
        # Each byte of a tag's size carries 7 bits: its highest bit is always 0.
        size = 0
        for byte in data[position + 6 : position + 10]:
            size = size << 7 | byte & 0x7F
        position += 10 + size

    return position


def _refuse_lost_frames(data: bytes, start: int, code: str) -> None:
    """Raise BadSample where two frames in a row follow the unknown bytes at `start`."""
    for match in _SYNC.finditer(data, start + 1):
        place = match.start()
        length = _LENGTHS.get(data[place : place + 3], 0)
        if length and data[place + length : place + length + 3] in _LENGTHS:
            raise BadSample(
                code, f"mp3: the bytes {start} to {place} are neither a frame nor a known tag"
            )


def _counting_frames(data: bytes, starts: list[int]) -> dict[int, tuple[int, int]]:
    """The start of each frame that counts the others -> (frames, bytes) that it states, or 0."""
    known: set[int] = set()
    counting = {}
    for name, offsets in _COUNT_OFFSETS.items():
        mark = data.find(name)
        while mark >= 0:
            known = known or set(starts)
            start = next((mark - offset for offset in offsets if mark - offset in known), None)
            if start is not None:
                counting[start] = _stated(data, name, mark)
            mark = data.find(name, mark + 4)
    return counting


def _stated(data: bytes, name: bytes, mark: int) -> tuple[int, int]:
    if name == b"VBRI":
        return (
            int.from_bytes(data[mark + 14 : mark + 18], "big"),
            int.from_bytes(data[mark + 10 : mark + 14], "big"),
        )

    # Bit 0 of the flags says that the number of frames follows, bit 1 the number of bytes.
    has_frames, has_bytes = data[mark + 7] & 1, data[mark + 7] & 2
    numbers = [int.from_bytes(data[mark + at : mark + at + 4], "big") for at in (8, 12)]
    return (numbers[0] if has_frames else 0, numbers[has_frames] if has_bytes else 0)


def _check_count(
    stated: tuple[int, int], num_frames: int, found: _Frames, *, is_last: bool
) -> None:
    # Some encoders count the counting frame itself, so one frame too few is a cut only where the
    # end is seen to be missing.
    missing = stated[0] - num_frames
    num_bytes = sum(end - start for start, end in found.runs)
    is_short = missing == 1 and is_last and (found.is_cut or num_bytes < stated[1])
    if missing > 1 or is_short:
        raise BadSample(
            "truncated_audio",
            f"mp3: got {num_frames} frames, expected the {stated[0]} that the file states",
        )


def _ends_plainly(data: bytes, end: int) -> bool:
    """Whether nothing follows the frames but the oldest kind of tag, which FFmpeg knows."""
    return end == len(data) or (end == len(data) - 128 and data[end : end + 3] == b"TAG")


def _joined(data: bytes, runs: list[tuple[int, int]], first: int, end: int) -> bytes:
    return b"".join(data[max(start, first) : min(stop, end)] for start, stop in runs)
