"""A file cut anywhere is refused or has the length that it states; the header check sees what the
decoder sees.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shards.errors import BadSample
from shards.media.audio import check_audio_header, decode_audio
from shards.media.sound_format import SAMPLE_RATE_HZ
from tests.shards.media.pieces import encode_sound, encode_video, gray, tone

ODD = Path(__file__).parent / "odd"


def by_soundfile(kind: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, 20_000)
    soundfile.write(stream, noise, 16_000, format=kind, subtype="PCM_16")
    return stream.getvalue()


def by_ffmpeg(container: str, codec: str, rate_hz: int) -> bytes:
    source = tone(440.0, seconds=1.3, rate_hz=rate_hz)
    return encode_sound(source, rate_hz=rate_hz, container=container, codec=codec)


STATES_ITS_LENGTH: dict[str, Callable[[], bytes]] = {
    "wav": lambda: by_soundfile("WAV"),
    "rf64": lambda: by_soundfile("RF64"),
    "flac": lambda: by_soundfile("FLAC"),
    "mp3 with a counting frame": lambda: by_ffmpeg("mp3", "libmp3lame", 44_100),
    "mp3 at 16 kHz": lambda: (ODD / "plain.mp3").read_bytes(),
    "m4a": lambda: by_ffmpeg("ipod", "aac", 44_100),
    "webm": lambda: by_ffmpeg("webm", "libopus", 48_000),
    "mkv": lambda: by_ffmpeg("matroska", "flac", 44_100),
    "mp4 with pictures": lambda: encode_video([gray(90)] * 24, sound=tone(440.0)),
}


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    """Each file, made once."""
    return {name: make() for name, make in STATES_ITS_LENGTH.items()}


def outcome(look: Callable[[bytes], object], data: bytes) -> str:
    try:
        look(data)
    except BadSample as bad:
        return bad.code
    return "ok"


@pytest.mark.parametrize("name", STATES_ITS_LENGTH)
def test_a_whole_file_passes_both_looks(name: str, whole: dict[str, bytes]) -> None:
    """None of the checks takes a good file for a cut one."""
    assert outcome(check_audio_header, whole[name]) == "ok"
    assert outcome(decode_audio, whole[name]) == "ok"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(STATES_ITS_LENGTH)), st.floats(0, 1, exclude_max=True))
@example("mp3 with a counting frame", 0.99999)
@example("flac", 0.99999)
@example("webm", 0.99999)
def test_a_file_that_states_its_length_shows_every_cut(
    whole: dict[str, bytes], name: str, share: float
) -> None:
    """At any byte the decoder refuses it or hears all of it, and so does the header check."""
    data = whole[name][: int(len(whole[name]) * share)]
    try:
        sound = decode_audio(data)
    except BadSample:
        assert outcome(check_audio_header, data) != "ok"
    else:
        assert len(sound) == len(decode_audio(whole[name]))


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_an_ogg_shows_every_cut_inside_a_page(share: float) -> None:
    """Between two pages it may end: a stream's recorder leaves out the mark of the last page."""
    data = by_ffmpeg("ogg", "libopus", 48_000)
    cut = int(len(data) * share)
    for look in (check_audio_header, decode_audio):
        assert outcome(look, data[:cut]) != "ok" or data[cut : cut + 4] == b"OggS"


def test_a_live_webm_that_was_given_a_duration_shows_a_cut() -> None:
    """Its outer element has no size; the time of its last packet is compared with the duration."""
    data = bytearray((ODD / "sound.webm").read_bytes())
    at = data.index(b"\x18\x53\x80\x67") + 4
    data[at : at + 8] = b"\x01" + b"\xff" * 7
    assert len(decode_audio(bytes(data))) == SAMPLE_RATE_HZ
    for look in (check_audio_header, decode_audio):
        assert outcome(look, bytes(data[: len(data) // 2])) == "truncated_audio"
