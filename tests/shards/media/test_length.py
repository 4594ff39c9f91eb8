"""The length of a file without decoding, against what decoding gives."""

import pytest

from shards.media.audio import decode_audio
from shards.media.length import film_seconds, sound_seconds
from shards.media.sound_format import SAMPLE_RATE_HZ
from tests.shards.media.pieces import encode_video, gray
from tests.shards.media.test_audio import CODECS, encoded


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("seconds", [0.5, 3.7])
def test_a_sound_is_as_long_as_its_decoded_samples(name: str, seconds: float) -> None:
    """Exactly without loss; lossy sound may have its padding, under a tenth of a second."""
    data = encoded(name, seconds)
    decoded = len(decode_audio(data)) / SAMPLE_RATE_HZ
    tolerance = 0.1 if CODECS[name][3] else 1e-3
    assert sound_seconds(data) == pytest.approx(decoded, abs=tolerance)
    assert sound_seconds(data) == pytest.approx(seconds, abs=tolerance)


def test_files_one_behind_another_are_added() -> None:
    """As they are heard."""
    assert sound_seconds(encoded("flac", 0.5) * 2) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264")])
def test_a_film_is_as_long_as_its_pictures(container: str, codec: str) -> None:
    """Twelve pictures at 8 a second are 1.5 s."""
    film = encode_video([gray(100)] * 12, frames_per_second=8, container=container, codec=codec)
    assert film_seconds(film) == pytest.approx(1.5, abs=0.02)
