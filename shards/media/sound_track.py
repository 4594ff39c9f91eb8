"""Which sound track of a file is heard.

A film may have several: languages, a commentary. The one that its maker marked as the default is
taken, or the first where none is marked. FFmpeg's own choice was left out: among tracks that are
marked alike it takes the one with more channels or bits.
"""

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from shards.errors import BadSample
from shards.media.container import AUDIO_DECODERS, open_media


def sound_track(container: InputContainer, number: int | None = None) -> AudioStream:
    """Sound track `number` (counted from 1) of a file, or the default one.

    Raises BadSample: `no_audio_track`, `unsupported_codec`.
    """
    tracks = list(container.streams.audio)
    if not tracks or (number is not None and number > len(tracks)):
        if number is None or not tracks:
            raise BadSample(
                "no_audio_track", f"the {container.format.name} file has no sound track"
            )
        raise BadSample(
            "no_audio_track",
            f"the {container.format.name} file has {len(tracks)} sound tracks, expected one "
            f"numbered {number}",
        )

    track = default_track(tracks) if number is None else tracks[number - 1]
    if track.codec_context is None or track.codec_context.codec.name not in AUDIO_DECODERS:
        name = track.codec_context.codec.name if track.codec_context else "unknown"
        raise BadSample(
            "unsupported_codec",
            f"the codec of the sound is {name}, expected {', '.join(sorted(AUDIO_DECODERS))}",
        )

    return track


def num_sound_tracks(data: bytes) -> int:
    """How many sound tracks a file has, in any format that an import reads.

    Raises BadSample when it cannot be opened.
    """
    with open_media(data, kind="audio", is_source=True) as container:
        return len(container.streams.audio)


def default_track(tracks: list[AudioStream]) -> AudioStream:
    """The first of `tracks` that is marked as the default, or the first."""
    return next((track for track in tracks if track.disposition & Disposition.default), tracks[0])
