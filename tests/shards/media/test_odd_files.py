"""Odd files that people really have, each with the seconds that an independent reader finds in it.

The seconds are those of the ffmpeg command line (5.1), where it reads all of a file; where it does
not (files joined or padded), they are the sum of what it reads in the parts.
"""

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.errors import BadSample
from shards.media.audio import check_audio_header, decode_audio
from shards.media.container import open_media
from shards.media.sound_format import SAMPLE_RATE_HZ
from tests.shards.media.pieces import encode_sound, encode_video, gray, tone

ODD = Path(__file__).parent / "odd"
MP3 = (ODD / "plain.mp3").read_bytes()
M4A = (ODD / "sound.m4a").read_bytes()
WEBM = (ODD / "sound.webm").read_bytes()

ID3V2 = b"ID3\x04\x00\x00\x00\x00\x00\x20" + b"TIT2\x00\x00\x00\x16\x00\x00".ljust(32, b"x")
ID3V1 = b"TAG".ljust(128, b"x")
LYRICS3 = b"LYRICSBEGININD0000200" + b"la " * 40 + b"000141LYRICS200"
APE_ITEMS = b"\x04\x00\x00\x00\x00\x00\x00\x00Mood\x00calm"
APE_FOOTER = b"APETAGEX" + struct.pack("<IIII", 2000, len(APE_ITEMS) + 32, 1, 0) + bytes(8)


def by_soundfile(kind: str, num_samples: int = 16_000) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, num_samples)
    soundfile.write(stream, noise, 16_000, format=kind, subtype="PCM_16")
    return stream.getvalue()


def opus() -> bytes:
    return encode_sound(tone(440.0), rate_hz=48_000, container="ogg", codec="libopus")


def middle(mp3: bytes, extra: bytes) -> bytes:
    """`mp3` with `extra` between two of its frames, which have 144 bytes each (32 kbit/s)."""
    at = len(mp3) - 144 * 40
    assert mp3[at : at + 2] == b"\xff\xf3"
    return mp3[:at] + extra + mp3[at:]


READ_WHOLE: dict[str, tuple[Callable[[], bytes], float]] = {
    "mp3": (lambda: MP3, 3.0),
    "mp3, zeros behind": (lambda: MP3 + bytes(5000), 3.0),
    "mp3, ID3v1 behind": (lambda: MP3 + ID3V1, 3.0),
    "mp3, Lyrics3 and ID3v1 behind": (lambda: MP3 + LYRICS3 + ID3V1, 3.0),
    "mp3, APE tag behind": (lambda: MP3 + APE_ITEMS + APE_FOOTER, 3.0),
    "mp3, ID3v2 in the middle": (lambda: middle(MP3, ID3V2), 3.0),
    "mp3 behind mp3": (lambda: MP3 + MP3, 6.0),
    "mp3 behind zeros behind mp3": (lambda: MP3 + bytes(777) + ID3V2 + MP3, 6.0),
    "wav behind wav": (lambda: by_soundfile("WAV") + by_soundfile("WAV", 8000), 1.5),
    "flac behind flac": (lambda: by_soundfile("FLAC") + by_soundfile("FLAC", 8000), 1.5),
    "rf64": (lambda: by_soundfile("RF64"), 1.0),
    "opus behind opus": (lambda: opus() + opus(), 2.0),
    "m4a with encoder delay": (lambda: M4A, 1.0),
    "m4a behind m4a": (lambda: M4A + M4A, 2.0),
    "webm with sound only": (lambda: WEBM, 1.0),
    "webm behind webm": (lambda: WEBM + WEBM, 2.0),
    "mov of a phone": (lambda: (ODD / "phone.mov").read_bytes(), 1.0),
}


@pytest.mark.parametrize("name", READ_WHOLE)
def test_an_odd_file_is_read_whole(name: str) -> None:
    """Both the look of an import and the decoder take it, and it has its seconds."""
    make, seconds = READ_WHOLE[name]
    check_audio_header(make())
    assert len(decode_audio(make())) / SAMPLE_RATE_HZ == pytest.approx(seconds, abs=0.008)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "mp3 cut in the middle": (lambda: MP3[: len(MP3) // 2], "truncated_audio"),
    "mp3 without its last frame": (lambda: MP3[:-100], "truncated_audio"),
    "the first of two mp3s cut": (lambda: MP3[: len(MP3) // 2] + MP3, "corrupt_audio"),
    "mp3 with noise in the middle": (lambda: middle(MP3, b"\x55\xaa\x13" * 90), "corrupt_audio"),
    "wav cut, wav behind": (
        lambda: by_soundfile("WAV")[:20_000] + by_soundfile("WAV"),
        "truncated_audio",
    ),
    "flac cut, flac behind": (
        lambda: by_soundfile("FLAC")[:9000] + by_soundfile("FLAC"),
        "corrupt_audio",
    ),
    "rf64 cut": (lambda: by_soundfile("RF64")[:20_000], "truncated_audio"),
    "webm cut": (lambda: WEBM[: len(WEBM) // 2], "truncated_audio"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_damage_that_shows_is_refused(name: str) -> None:
    """By the look of an import and by the decoder, for the same reason."""
    make, code = REFUSED[name]
    for look in (check_audio_header, decode_audio):
        with pytest.raises(BadSample) as caught:
            look(make())
        assert caught.value.code == code


def test_joined_files_sound_one_after_the_other() -> None:
    """Nothing is lost or doubled at the seam."""
    one, other = by_soundfile("WAV"), by_soundfile("FLAC", 8000)
    np.testing.assert_array_equal(
        decode_audio(one + one), np.concatenate([decode_audio(one), decode_audio(one)])
    )
    np.testing.assert_array_equal(
        decode_audio(other + other), np.concatenate([decode_audio(other)] * 2)
    )


def test_joined_videos_are_refused() -> None:
    """The pictures of the second one could not be put in order with those of the first."""
    video = encode_video([gray(90)] * 12)
    with pytest.raises(BadSample, match="split it"), open_media(video + video, kind="video"):
        pass
    with open_media(video, kind="video"):
        pass


# Channels.


def stereo(
    left: NDArray[np.float64], right: NDArray[np.float64], *others: NDArray[np.float64]
) -> bytes:
    stream = io.BytesIO()
    channels = np.stack([left, right, *others], axis=1)
    soundfile.write(stream, channels, SAMPLE_RATE_HZ, format="WAV", subtype="FLOAT")
    return stream.getvalue()


VOICE = tone(300.0, rate_hz=SAMPLE_RATE_HZ)
BED = 0.05 * np.random.default_rng(1).normal(0, 1, (6, len(VOICE)))
NOTHING = np.zeros(len(VOICE))


def level(sound: NDArray[np.float32]) -> float:
    """The level of the voice in `sound`."""
    return float(
        2
        * abs(np.dot(sound, np.exp(2j * np.pi * 300 * np.arange(len(sound)) / 16_000)))
        / len(sound)
    )


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        pytest.param([VOICE, VOICE], 0.4, id="in phase"),
        pytest.param([VOICE, -VOICE], 0.4, id="inverted"),
        pytest.param([VOICE, -0.9 * VOICE], 0.4, id="inverted, not quite as loud"),
        pytest.param([VOICE, NOTHING], 0.4, id="one side"),
        pytest.param([NOTHING, NOTHING, VOICE, NOTHING, NOTHING, NOTHING], 0.4, id="center of 5.1"),
        pytest.param([BED[0], BED[1], VOICE, BED[3], BED[4], BED[5]], 0.37, id="center with a bed"),
        pytest.param([VOICE] * 8, 0.4, id="array of microphones"),
    ],
)
def test_a_voice_keeps_its_level(channels: list[NDArray[np.float64]], expected: float) -> None:
    """Wherever it is among the channels, and whichever way round they are connected."""
    assert level(decode_audio(stereo(*channels))) == pytest.approx(expected, abs=0.02)


def test_the_mean_of_ordinary_stereo_is_not_touched() -> None:
    """Two sides that are unlike, or unequal, come out as their mean, to the bit."""
    for left, right in [(VOICE, 0.3 * VOICE), (VOICE, 4 * BED[0]), (BED[0], BED[1])]:
        expected = (left.astype(np.float32) + right.astype(np.float32)) * np.float32(0.5)
        np.testing.assert_array_equal(decode_audio(stereo(left, right)), expected)


# Levels.


@pytest.mark.parametrize(
    ("sound", "code"),
    [
        pytest.param(VOICE * 0.0024, "near_silent_audio", id="a tone of -60.4 dBFS at its peak"),
        pytest.param(NOTHING, "silent_audio", id="digital silence"),
        pytest.param(VOICE * 0.004, None, id="a tone of -59 dBFS"),
        pytest.param(np.concatenate([NOTHING, VOICE * 0.004, NOTHING]), None, id="with pauses"),
    ],
)
def test_what_is_nearly_silent_is_no_utterance(
    sound: NDArray[np.float64], code: str | None
) -> None:
    """The loudest tenth of a second counts, so pauses do not make a quiet voice silent."""
    data = stereo(sound, sound)
    if code is None:
        decode_audio(data)
    else:
        with pytest.raises(BadSample) as caught:
            decode_audio(data)
        assert caught.value.code == code


# Holes.


def with_hole(container: str, codec: str, hole_seconds: float) -> bytes:
    """Half a second of a tone, a hole in the times, and half a second again."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as output:
        track = output.add_stream(codec, rate=16_000, layout="mono")
        for start in (0.0, 0.5 + hole_seconds):
            samples = (tone(300.0, seconds=0.5, rate_hz=16_000) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, round(start * 16_000)
            frame.time_base = Fraction(1, 16_000)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("container", "codec"), [("matroska", "pcm_s16le"), ("matroska", "flac"), ("mp4", "aac")]
)
@pytest.mark.parametrize("hole_seconds", [0.0, 0.25, 3.0])
def test_a_hole_in_the_times_is_silence_of_its_length(
    container: str, codec: str, hole_seconds: float
) -> None:
    """What comes behind it is heard when it was said."""
    sound = decode_audio(with_hole(container, codec, hole_seconds))
    # The last frame of a codec before the hole may reach into it.
    frame = 1100 if codec == "aac" else 160
    assert len(sound) == pytest.approx((1 + hole_seconds) * SAMPLE_RATE_HZ, abs=frame)
    hole = sound[8000 + frame : 8000 + round(hole_seconds * 16_000) - frame]
    assert not np.abs(hole).max(initial=0) > 0.01
    assert level(sound[-7000:-1600]) == pytest.approx(0.4, abs=0.02)


def test_a_hole_of_years_costs_no_memory() -> None:
    """It counts against the limit before it is filled."""
    with pytest.raises(BadSample, match="longer than 600 s"):
        decode_audio(with_hole("matroska", "pcm_s16le", 1e6))


# What an import passes, a labeler reads.

PIECES = {
    "mp3": (MP3, [b"", bytes(300), ID3V2, LYRICS3, ID3V1], 3.0),
    "wav": (by_soundfile("WAV"), [b""], 1.0),
    "flac": (by_soundfile("FLAC"), [b""], 1.0),
    "webm": (WEBM, [b""], 1.0),
    "m4a": (M4A, [b""], 1.0),
    "opus": (opus(), [b""], 1.0),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_an_import_passes_is_read_whole(data: st.DataObject) -> None:
    """Files joined, with what is found between them, and perhaps cut or followed by noise: if the
    header check passes them, the decoder reads them, and hears all of it.
    """
    piece, fillings, seconds = PIECES[data.draw(st.sampled_from(sorted(PIECES)))]
    count = data.draw(st.integers(1, 4))
    joined = b"".join(piece + data.draw(st.sampled_from(fillings)) for _ in range(count))
    end = data.draw(st.one_of(st.just(len(joined)), st.integers(0, len(joined))))
    try:
        check_audio_header(joined[:end])
    except BadSample:
        return

    heard = len(decode_audio(joined[:end])) / SAMPLE_RATE_HZ
    if end == len(joined):
        assert heard == pytest.approx(count * seconds, abs=0.01 * count)
    elif piece is not PIECES["opus"][0]:
        assert heard == pytest.approx(round(heard / seconds) * seconds, abs=0.01 * count)
