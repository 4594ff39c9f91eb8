"""Files that lie one behind another in one file, told apart, and checked to be whole.

`cat a.mp3 b.mp3 > c.mp3` and programs that do the same make such files. FFmpeg plays the first one
only (wav, flac, mp4, matroska), or stumbles at the seam (mp3). Here every one of them is a file of
its own, and its sound follows that of the one before it.
"""

from collections.abc import Callable

from shards.errors import BadSample
from shards.media.formats import recognize_format
from shards.media.isobmff import next_mp4
from shards.media.matroska import next_matroska
from shards.media.mpeg_audio import end_of_id3, mp3_files
from shards.media.ogg import next_chain
from shards.media.riff import next_wav

# Each is opened on its own. More than this is no recording.
_MAX_FILES = 1000
# What follows the name of a flac file: the header of its first block, of 34 bytes.
_STREAM_INFO = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")


def separate_files(data: bytes, *, code: str) -> list[bytes]:
    """The files that lie one behind another in `data`: nearly always `data` alone.

    Raises BadSample(`code`) for damage between them, and `truncated_audio` for an mp3 that has
    fewer frames than it states.
    """
    name = recognize_format(data)
    if name == "mp3":
        return mp3_files(data, start=end_of_id3(data), code=code)

    find = _FINDERS.get(name or "")
    files: list[bytes] = []
    while find is not None and (start := find(data)) is not None:
        if len(files) == _MAX_FILES:
            raise BadSample(
                code, f"more than {_MAX_FILES} files lie one behind another in this one"
            )
        files.append(data[:start])
        data = data[start:]

    return [*files, data]


def _next_flac(data: bytes) -> int | None:
    mark = data.find(b"fLaC", end_of_id3(data) + 4)
    while mark >= 0:
        if data[mark + 4 : mark + 8] in _STREAM_INFO:
            return mark
        mark = data.find(b"fLaC", mark + 4)
    return None


_FINDERS: dict[str, Callable[[bytes], int | None]] = {
    "flac": _next_flac,
    "matroska": next_matroska,
    "mov": next_mp4,
    "ogg": next_chain,
    "wav": next_wav,
}
