"""What becomes of a media file when it is imported: it is kept, or converted.

Files that a shard may hold are kept byte for byte, also under another name where only the name
differs (a `.mov` is an mp4 by its format). All other sound becomes FLAC, and other films become
Matroska without being encoded anew. What a file becomes follows from its extension alone, since
rows are dealt to shards before any file is opened.
"""

from dataclasses import dataclass

from shards.errors import BadSample
from shards.importing.config import Check
from shards.importing.cuts import Cut
from shards.media.audio import check_audio_header, decode_audio
from shards.media.conversion import as_flac, remuxed
from shards.media.frames import check_video_header
from shards.media.sound_track import num_sound_tracks
from shards.samples.npy import decode_features
from shards.samples.sample import AUDIO_EXTENSIONS, FACE_EXTENSION, VIDEO_EXTENSIONS

MAX_CHECKED_SECONDS = 24 * 3600.0

# The same format under another name.
_KEPT_AUDIO = {"m4b": "m4a", "oga": "ogg", "spx": "ogg", "wave": "wav"}
_KEPT_VIDEO = {"3g2": "mp4", "3gp": "mp4", "m4v": "mp4", "mov": "mp4", "qt": "mp4"}
_LOSSY_SOUND = ("3ga", "aac", "ac3", "adts", "amr", "eac3", "mka", "mp2", "webm", "wma")
_LOSSLESS_SOUND = ("aif", "aifc", "aiff", "ape", "au", "caf", "snd", "tta", "w64", "wv")
_FILMS = ("asf", "avi", "flv", "m2ts", "mpeg", "mpg", "mts", "ogv", "ts", "wmv")
_CONVERTED_AUDIO = (*_LOSSY_SOUND, *_LOSSLESS_SOUND, *_FILMS, *_KEPT_VIDEO, "mp4", "mkv")
# FLAC of lossy sound is larger than the sound was: 128 kbit/s become about 700.
_FLAC_GROWTH = 6

# Column -> extension of a file -> its extension in a shard.
BECOMES: dict[str, dict[str, str]] = {
    "audio": dict.fromkeys(_CONVERTED_AUDIO, "flac")
    | _KEPT_AUDIO
    | {name: name for name in AUDIO_EXTENSIONS},
    "video": dict.fromkeys(_FILMS, "mkv") | _KEPT_VIDEO | {name: name for name in VIDEO_EXTENSIONS},
    "face": {"npy": FACE_EXTENSION},
}
# FFmpeg's containers of the extensions in which there can be several sound tracks.
_CONTAINERS = {"m4a": "ipod", "mp4": "mp4", "mkv": "matroska", "webm": "webm", "ogg": "ogg"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file as it goes into a shard, and the number of sound tracks that it came with."""

    payload: bytes
    num_sound_tracks: int


def expected_size(column: str, extension: str, size: int, cut: Cut | None) -> int:
    """About how many bytes a file of `size` bytes will have in a shard."""
    if column == "audio" and cut is not None and cut.expected_size is not None:
        return min(size, cut.expected_size)
    return size * _FLAC_GROWTH if column == "audio" and extension in _LOSSY_SOUND else size


def is_kept(column: str, extension: str) -> bool:
    """Whether files of this extension go into a shard byte for byte."""
    becomes = BECOMES[column].get(extension)
    return becomes == extension or extension in (_KEPT_AUDIO if column == "audio" else _KEPT_VIDEO)


def prepare(
    column: str, extension: str, payload: bytes, *, check: Check, track_number: int | None
) -> Prepared:
    """The bytes of a file as they go into a shard, converted and checked as they must be.

    A file that is converted is decoded, and so checked as with `decode`, whatever `check` says.
    Raises BadSample when the file cannot be used.
    """
    becomes = BECOMES[column][extension]
    if becomes == FACE_EXTENSION:
        decode_features(payload)
        return Prepared(payload, 0)

    if is_kept(column, extension):
        if track_number is not None:
            payload = _with_track(column, becomes, payload, track_number)
        return Prepared(payload, _num_tracks_checked(column, payload, check))

    num_tracks = num_sound_tracks(payload)
    if column == "audio":
        payload = as_flac(payload, max_seconds=MAX_CHECKED_SECONDS, track_number=track_number)
        decode_audio(payload, max_seconds=MAX_CHECKED_SECONDS)
    else:
        payload = remuxed(payload, "matroska", with_pictures=True, track_number=track_number)
        check_video_header(payload)

    return Prepared(payload, num_tracks if track_number is None else 1)


def _with_track(column: str, becomes: str, payload: bytes, track_number: int) -> bytes:
    """`payload` with one of its sound tracks; as it is where there is nothing to choose."""
    num_tracks = num_sound_tracks(payload) if becomes in _CONTAINERS else 1
    if num_tracks == 0 or (num_tracks == 1 and track_number == 1):
        return payload
    if track_number > num_tracks:
        raise BadSample(
            "no_audio_track",
            f"the file has {num_tracks} sound tracks, expected one numbered "
            f"{track_number} (--audio-track)",
        )

    return remuxed(
        payload, _CONTAINERS[becomes], with_pictures=column == "video", track_number=track_number
    )


def _num_tracks_checked(column: str, payload: bytes, check: Check) -> int:
    if check == "none":
        return 1
    if column == "video":
        return check_video_header(payload)

    num_tracks = check_audio_header(payload)
    if check == "decode":
        decode_audio(payload, max_seconds=MAX_CHECKED_SECONDS)
    return num_tracks
