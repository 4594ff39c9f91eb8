"""Whether a file of a format that only an import reads is whole, by the size that it states.

FFmpeg plays what is left of most of these files when they were cut, and takes the duration from
what is there.
"""

from collections.abc import Callable

from shards.errors import BadSample

_W64_SIZE = slice(16, 24)
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_IS_BROADCAST = 1
# The formats whose header states the number of samples and nothing about bytes; the sound is
# counted against it.
STATES_DURATION = frozenset({"aiff", "ape", "tta", "wv"})


def check_source_end(data: bytes, format_name: str, *, code: str) -> None:
    """Raise BadSample(`code`) when `data` ends before the end that it states."""
    find = _STATED_ENDS.get(format_name)
    end = find(data) if find is not None else None
    if end is not None and end > len(data):
        raise BadSample(
            code,
            f"{format_name}: the file should end at byte {end}, but it ends at byte {len(data)}",
        )


def _end_of_au(data: bytes) -> int | None:
    start, size = (int.from_bytes(data[at : at + 4], "big") for at in (4, 8))
    return None if size == 0xFFFFFFFF else start + size


def _end_of_asf(data: bytes) -> int | None:
    at = data.find(_ASF_FILE_PROPERTIES, 0, 1 << 16)
    # A live broadcast does not know its size.
    if at < 0 or int.from_bytes(data[at + 88 : at + 92], "little") & _ASF_IS_BROADCAST:
        return None
    return int.from_bytes(data[at + 40 : at + 48], "little")


def _end_of_caf(data: bytes) -> int | None:
    position = 8
    while position + 12 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 12], "big", signed=True)
        if size < 0:
            return None
        if data[position : position + 4] == b"data":
            return position + 12 + size
        position += 12 + size

    return position


_STATED_ENDS: dict[str, Callable[[bytes], int | None]] = {
    "aiff": lambda data: 8 + int.from_bytes(data[4:8], "big"),
    "asf": _end_of_asf,
    "au": _end_of_au,
    "avi": lambda data: 8 + int.from_bytes(data[4:8], "little"),
    "caf": _end_of_caf,
    "w64": lambda data: int.from_bytes(data[_W64_SIZE], "little"),
}
