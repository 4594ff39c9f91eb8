"""How long a file lasts, told by its header or its packets, without decoding.

Lossy sound may be longer by its encoder's padding, some hundredths of a second: enough for batches
of similar lengths. Decoding would tell it exactly, for ten times the time.
"""

from av import time_base

from shards.media.container import open_media
from shards.media.joined import separate_files
from shards.media.native_flac import flac_length
from shards.media.sound_track import sound_track

# Where a native FLAC file holds its sampling rate, in the first 20 of these bits.
_RATE = slice(18, 21)


def sound_seconds(data: bytes) -> float:
    """The seconds of a sound file, or of several one behind another, that `decode_audio` reads.

    Raises BadSample for a file that cannot be opened.
    """
    return sum(_seconds_of_file(file) for file in separate_files(data, code="corrupt_audio"))


def film_seconds(data: bytes) -> float | None:
    """The seconds of a film as its container states them; None where it does not.

    Raises BadSample for a file that cannot be opened.
    """
    with open_media(data, kind="video") as container:
        return None if container.duration is None else container.duration / time_base


def _seconds_of_file(data: bytes) -> float:
    if num_samples := flac_length(data):
        return num_samples / (int.from_bytes(data[_RATE], "big") >> 4)

    # The packets are counted, because FFmpeg guesses the length of an mp3 by its first frames.
    with open_media(data, kind="audio") as container:
        track = sound_track(container)
        ticks = sum(packet.duration or 0 for packet in container.demux(track))
        return float(ticks * (track.time_base or 0))
