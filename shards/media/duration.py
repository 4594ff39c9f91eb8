"""How long a file lasts, by its header and its packets; nothing is decoded.

Training plans batches by the length of utterances, and few tables state it. Decoding would tell it
to the sample, but costs ten times as much, and an import opens millions of files. So the length of
compressed sound may be off by the encoder's padding, which is less than a tenth of a second.
"""

import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from shards.media.container import Kind, open_media
from shards.media.frames import video_track
from shards.media.joined import separate_files
from shards.media.native_flac import flac_length
from shards.media.riff import wav_seconds
from shards.media.sound_track import sound_track


def media_seconds(data: bytes, *, kind: Kind) -> float | None:
    """The length of `data` in seconds; None where its packets carry no times.

    A video is as long as its sound, or as its pictures where it has none. Raises BadSample for a
    file that cannot be opened.
    """
    files = separate_files(data, code=f"corrupt_{kind}")
    lengths = [_file_seconds(file, kind) for file in files]
    known = [length for length in lengths if length is not None]
    return sum(known) if len(known) == len(lengths) else None


def _file_seconds(data: bytes, kind: Kind) -> float | None:
    # The header of native flac has 20 bits for the sampling rate.
    rate_hz = int.from_bytes(data[18:21], "big") >> 4
    if (length := flac_length(data)) and rate_hz:
        return length / rate_hz
    if seconds := wav_seconds(data):
        return seconds

    with open_media(data, kind=kind) as container:
        return _packet_seconds(container, _track(container, kind))


def _track(container: InputContainer, kind: Kind) -> AudioStream | VideoStream:
    if kind == "video" and not container.streams.audio:
        return video_track(container)
    return sound_track(container)


def _packet_seconds(container: InputContainer, track: AudioStream | VideoStream) -> float | None:
    """Seconds from the start of the first packet to the end of the last."""
    first, last = np.inf, -np.inf

    # Packets of pictures need not come in the order of their times.
    for packet in container.demux(track):
        if packet.pts is not None and packet.time_base is not None:
            start = float(packet.pts * packet.time_base)
            end = start + float((packet.duration or 0) * packet.time_base)
            first, last = min(first, start), max(last, end)

    return last - first if last > first else None
