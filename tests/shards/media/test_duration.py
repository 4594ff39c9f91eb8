"""The length of a file, told without decoding it, against the length of what was encoded."""

import numpy as np
import pytest

from shards.errors import BadSample
from shards.media.audio import encode_flac
from shards.media.duration import media_seconds
from tests.shards.media.pieces import encode_sound, encode_video, gray, tone
from tests.shards.media.test_audio import CODECS

# What an encoder puts before and behind the sound.
PADDING_SECONDS = 0.1


@pytest.mark.parametrize("name", CODECS)
def test_sound_is_as_long_as_what_was_encoded(name: str) -> None:
    """Of every container it is the length of the source, but for the encoder's padding."""
    container, codec, rate_hz, _ = CODECS[name]
    source = tone(440, seconds=1.7, rate_hz=rate_hz)
    data = encode_sound(source, rate_hz=rate_hz, container=container, codec=codec)
    found = media_seconds(data, kind="audio")
    assert found is not None
    assert 1.7 - 0.01 <= found <= 1.7 + PADDING_SECONDS


def test_flac_is_exact() -> None:
    """Native flac states its samples, also where two files lie one behind another."""
    data = encode_flac(np.full(12_345, 0.1, dtype=np.float32))
    assert media_seconds(data, kind="audio") == 12_345 / 16_000
    assert media_seconds(data + data, kind="audio") == 2 * 12_345 / 16_000


def test_wav_is_exact_also_where_its_size_is_unknown() -> None:
    """The bytes that are there count, even if a pipe left the size of the sound open."""
    sound = tone(440, seconds=1.2345, rate_hz=16_000)
    data = encode_sound(sound, rate_hz=16_000, container="wav", codec="pcm_s16le")
    assert media_seconds(data, kind="audio") == len(sound) / 16_000
    place = data.index(b"data") + 4
    from_pipe = data[:place] + b"\xff" * 4 + data[place + 4 :]
    assert media_seconds(from_pipe, kind="audio") == len(sound) / 16_000


def test_a_video_is_as_long_as_its_sound_or_else_its_pictures() -> None:
    """Thirty pictures at 24 a second last 1.25 s; with 2 s of sound it is that."""
    pictures = [gray(40)] * 30
    silent = media_seconds(encode_video(pictures), kind="video")
    assert silent == pytest.approx(30 / 24, abs=0.001)
    sounding = encode_video(pictures, sound=tone(440, seconds=2.0))
    assert media_seconds(sounding, kind="video") == pytest.approx(2.0, abs=PADDING_SECONDS)


def test_a_damaged_file_is_refused() -> None:
    """What cannot be opened has no length."""
    data = encode_sound(tone(440), rate_hz=48_000, container="ipod", codec="aac")
    with pytest.raises(BadSample, match="corrupt_audio"):
        media_seconds(data[:-4000], kind="audio")
