"""Whether a Matroska or WebM file is whole, by the sizes that its outer elements state.

FFmpeg plays what is left of a file that was cut short. A program that could go back to the start of
the file when it was done has written there how long the file is (the size of the Segment). A live
recording has "unknown" there; such a file may end anywhere, unless somebody has added its duration.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from shards.errors import BadSample

_EBML, _SEGMENT, _INFO, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x1F43B675
_TIMESTAMP_SCALE, _DURATION = 0x2AD7B1, 0x4489
_EBML_MAGIC = b"\x1a\x45\xdf\xa3"


@dataclass(frozen=True, slots=True)
class MatroskaLayout:
    """Where a file ends (None where it does not say), and the duration it states, or None."""

    end: int | None
    duration_seconds: float | None


def matroska_layout(data: bytes) -> MatroskaLayout:
    """What the first file in `data` says of its own length."""
    for name, body, end in _elements(data, 0, len(data)):
        if name == _SEGMENT:
            return MatroskaLayout(end, None if end is not None else _duration(data, body))

    return MatroskaLayout(None, None)


def check_matroska(data: bytes, *, code: str) -> None:
    """Raise BadSample(`code`) where the Segment of `data` should be longer than it is."""
    end = matroska_layout(data).end
    if end is not None and end > len(data):
        raise BadSample(
            code, f"matroska: the file should end at byte {end}, but it ends at byte {len(data)}"
        )


def next_matroska(data: bytes) -> int | None:
    """Where a second file begins that lies behind the first; None where there is none."""
    end = matroska_layout(data).end
    if end is not None:
        return end if data[end : end + 4] == _EBML_MAGIC else None

    # Four bytes may come together by chance; with the name of the format behind them they do not.
    mark = data.find(_EBML_MAGIC, 4)
    while mark >= 0:
        if any(name in data[mark : mark + 64] for name in (b"webm", b"matroska")):
            return mark
        mark = data.find(_EBML_MAGIC, mark + 4)
    return None


def _elements(data: bytes, position: int, stop: int) -> Iterator[tuple[int, int, int | None]]:
    """(id, start of the content, end of it or None if unknown) of the elements in a row."""
    while position + 2 <= stop:
        name, position = _number(data, position, keep_marker=True)
        size, position = _number(data, position, keep_marker=False)
        if size is None or name is None:
            yield name or 0, position, None
            return
        yield name, position, position + size
        position += size


def _number(data: bytes, position: int, *, keep_marker: bool) -> tuple[int | None, int]:
    """A number of EBML and where it ends; None for "unknown" (all bits set) and for no number."""
    first = data[position] if position < len(data) else 0
    width = 9 - first.bit_length()
    if width > 8:
        return None, position + 1

    number = int.from_bytes(data[position : position + width], "big")
    if keep_marker:
        return number, position + width
    largest = (1 << 7 * width) - 1
    return (None if number & largest == largest else number & largest), position + width


def _duration(data: bytes, position: int) -> float | None:
    for name, body, end in _elements(data, position, len(data)):
        if name == _CLUSTER or end is None:
            return None
        if name == _INFO:
            values = {
                inner: data[start:stop] for inner, start, stop in _elements(data, body, end) if stop
            }
            scale = int.from_bytes(values.get(_TIMESTAMP_SCALE, b"\x0f\x42\x40"), "big")
            return _float(values.get(_DURATION, b"")) * scale / 1e9 or None

    return None


def _float(raw: bytes) -> float:
    kind = {4: ">f", 8: ">d"}.get(len(raw))
    return float(struct.unpack(kind, raw)[0]) if kind else 0.0
