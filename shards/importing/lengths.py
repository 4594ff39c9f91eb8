"""The length of a sample whose table does not state it."""

from collections.abc import Mapping

from shards.errors import BadSample
from shards.media.length import film_seconds, sound_seconds
from shards.samples.sample import AUDIO_EXTENSIONS, VIDEO_EXTENSIONS

DURATION = "duration_seconds"


def measured_length(members: Mapping[str, bytes]) -> dict[str, object]:
    """`duration_seconds` of the sample's sound, or of its film where it has no other sound.

    Empty where neither tells its length. Whether the file can be used is checked elsewhere, as
    `--check` says, so a file that cannot be measured is no bad sample here.
    """
    try:
        for extension, payload in members.items():
            if extension in AUDIO_EXTENSIONS:
                return _field(sound_seconds(payload))
        for extension, payload in members.items():
            if extension in VIDEO_EXTENSIONS:
                return _field(film_seconds(payload))
    except BadSample:
        return {}
    return {}


def _field(seconds: float | None) -> dict[str, object]:
    return {DURATION: round(seconds, 3)} if seconds else {}
