"""Sound from every container, against its source sine, and every way in which a file can be bad."""

import io
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.errors import BadSample
from shards.media.audio import check_audio_header, decode_audio, encode_flac
from shards.media.ogg import check_pages
from shards.media.sound_format import SAMPLE_RATE_HZ
from tests import ROOT
from tests.shards.media.pieces import encode_sound, encode_video, gray, tone, with_flips

FREQUENCY_HZ = 440.0
LEVEL = 0.4
# name: FFmpeg's container, its codec, sampling rate, and the longest delay and padding of the codec
# in seconds
CODECS = {
    "flac": ("flac", "flac", 44_100, 0.0),
    "wav": ("wav", "pcm_s16le", 44_100, 0.0),
    "mp3": ("mp3", "libmp3lame", 44_100, 0.06),
    "opus": ("ogg", "libopus", 48_000, 0.03),
    "flac in ogg": ("ogg", "flac", 44_100, 0.0),
    "m4a": ("ipod", "aac", 44_100, 0.05),
    "m4a without loss": ("ipod", "alac", 44_100, 0.0),
    "mkv": ("matroska", "aac", 44_100, 0.05),
    "webm": ("webm", "libopus", 48_000, 0.03),
}
# The formats in which a cut is noticed; for ogg, a cut inside a page.
SEES_CUTS = ("flac", "wav", "opus", "flac in ogg", "m4a", "m4a without loss")


def encoded(name: str, seconds: float = 1.0) -> bytes:
    container, codec, rate_hz, _ = CODECS[name]
    source = tone(FREQUENCY_HZ, seconds=seconds, rate_hz=rate_hz, level=LEVEL)
    return encode_sound(source, rate_hz=rate_hz, container=container, codec=codec)


def written(
    samples: NDArray[np.float64], rate_hz: int = SAMPLE_RATE_HZ, *, subtype: str, kind: str = "WAV"
) -> bytes:
    """A file written by libsndfile, the other library that knows these formats."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate_hz, format=kind, subtype=subtype)
    return stream.getvalue()


def assert_is_the_tone(
    sound: NDArray[np.float32], frequency_hz: float, level: float, tolerance: float
) -> None:
    """The middle of `sound` is a sine of that frequency and level.

    The residual is below `tolerance` (RMS).
    """
    assert (sound.dtype, sound.ndim) == (np.float32, 1)
    middle = sound[len(sound) // 5 : -len(sound) // 5].astype(np.float64)
    phases = 2 * np.pi * frequency_hz * np.arange(len(middle)) / SAMPLE_RATE_HZ
    basis = np.stack([np.sin(phases), np.cos(phases)], axis=1)
    weights, *_ = np.linalg.lstsq(basis, middle, rcond=None)

    assert np.hypot(*weights) == pytest.approx(
        level, rel=0.06
    )  # LAME writes an mp3 5 % below what it was given
    assert np.sqrt(np.mean((middle - basis @ weights) ** 2)) < tolerance


def code_of(data: bytes, **options: float) -> str:
    with pytest.raises(BadSample) as caught:
        decode_audio(data, **options)
    assert caught.value.reason.isprintable()
    return caught.value.code


@pytest.mark.parametrize("name", CODECS)
def test_every_container_gives_back_the_tone_it_holds(name: str) -> None:
    """Frequency, level and length are the source's at 16 kHz, up to the delay of the codec."""
    data = encoded(name)
    sound = decode_audio(data)
    assert_is_the_tone(sound, FREQUENCY_HZ, LEVEL, tolerance=0.01)
    assert len(sound) == pytest.approx(SAMPLE_RATE_HZ, abs=2 + CODECS[name][3] * SAMPLE_RATE_HZ)
    check_audio_header(data)


def test_vorbis_gives_back_the_tone_it_holds() -> None:
    """A Vorbis file gives back the tone it holds.

    libsndfile writes it, as FFmpeg's own encoder is not fit for use.
    """
    data = written(
        tone(FREQUENCY_HZ, rate_hz=44_100, level=LEVEL), 44_100, subtype="VORBIS", kind="OGG"
    )
    sound = decode_audio(data)
    assert_is_the_tone(sound, FREQUENCY_HZ, LEVEL, tolerance=0.02)
    assert len(sound) == pytest.approx(SAMPLE_RATE_HZ, abs=200)


@pytest.mark.parametrize(
    ("container", "video_codec", "sound_codec"),
    [("mp4", "libx264", "aac"), ("matroska", "libx264", "aac"), ("webm", "libvpx", "libopus")],
)
def test_the_sound_track_of_a_video_is_its_sound(
    container: str, video_codec: str, sound_codec: str
) -> None:
    """The sound of a video is that of its sound track, whatever its pictures."""
    data = encode_video(
        [gray(90)] * 24,
        container=container,
        codec=video_codec,
        sound=tone(FREQUENCY_HZ, level=LEVEL),
        sound_codec=sound_codec,
    )

    sound = decode_audio(data)
    assert_is_the_tone(sound, FREQUENCY_HZ, LEVEL, tolerance=0.01)
    assert len(sound) == pytest.approx(SAMPLE_RATE_HZ, abs=0.05 * SAMPLE_RATE_HZ)


def test_a_video_without_sound_says_so() -> None:
    """A video without sound is not damaged, and has a reason of its own."""
    assert code_of(encode_video([gray(90)] * 4)) == "no_audio_track"


@pytest.mark.parametrize(
    ("subtype", "tolerance"),
    [
        ("PCM_U8", 1 / 128),
        ("PCM_16", 1 / 2**15),
        ("PCM_24", 1e-6),
        ("PCM_32", 1e-6),
        ("FLOAT", 1e-7),
        ("DOUBLE", 1e-7),
        ("ULAW", 0.02),
        ("ALAW", 0.02),
        ("IMA_ADPCM", 0.05),
    ],
)
def test_every_width_of_wav_has_the_same_scale(subtype: str, tolerance: float) -> None:
    """Full scale is 1 for integers of any size; at 16 kHz the samples are the source's."""
    source = tone(FREQUENCY_HZ, rate_hz=SAMPLE_RATE_HZ, level=0.9) * np.linspace(
        0, 1, SAMPLE_RATE_HZ
    )
    sound = decode_audio(written(source, subtype=subtype))
    np.testing.assert_allclose(sound[: len(source)], source, atol=tolerance, rtol=0)
    assert np.all(np.abs(sound[len(source) :]) < 1)


def test_floating_point_files_keep_their_range() -> None:
    """Samples beyond full scale are not clipped."""
    source = tone(FREQUENCY_HZ, rate_hz=SAMPLE_RATE_HZ, level=3.0)
    np.testing.assert_allclose(decode_audio(written(source, subtype="FLOAT")), source, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_24")]
)
@pytest.mark.parametrize("num_channels", [2, 6, 8])
def test_channels_count_alike(kind: str, subtype: str, num_channels: int) -> None:
    """The sound is the plain mean over channels, however many and wherever they are played."""
    source = np.random.default_rng(num_channels).uniform(-1, 1, (4000, num_channels))
    sound = decode_audio(written(source, subtype=subtype, kind=kind))
    np.testing.assert_allclose(sound, source.mean(axis=1), atol=1 / 2**15, rtol=0)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_any_rate_becomes_16_khz(rate_hz: int) -> None:
    """Pitch, level and length stay at any rate.

    The start stays too: the resampler's delay shifts nothing.
    """
    source = tone(1000.0, rate_hz=rate_hz, level=LEVEL)
    sound = decode_audio(written(source, rate_hz, subtype="PCM_24"))
    assert len(sound) == pytest.approx(SAMPLE_RATE_HZ, abs=1)
    assert_is_the_tone(sound, 1000.0, LEVEL, tolerance=0.001)
    expected = tone(1000.0, rate_hz=SAMPLE_RATE_HZ, level=LEVEL)
    np.testing.assert_allclose(sound[2000:14_000], expected[2000:14_000], atol=0.005)


def test_what_16_khz_cannot_hold_is_filtered_out() -> None:
    """A tone above 8 kHz does not come back as another tone below."""
    source = tone(11_000.0, rate_hz=48_000, level=LEVEL) + tone(1000.0, rate_hz=48_000, level=LEVEL)
    assert_is_the_tone(
        decode_audio(written(source, 48_000, subtype="PCM_24")), 1000.0, LEVEL, tolerance=0.001
    )


def test_flac_is_written_and_read_without_loss() -> None:
    """Whole steps of 16 bits survive exactly; values beyond full scale are clipped."""
    steps = np.random.default_rng(0).integers(-32768, 32768, 5000)
    np.testing.assert_array_equal(
        decode_audio(encode_flac((steps / 32768).astype(np.float32))), steps / 32768
    )
    loud = decode_audio(encode_flac(np.linspace(-2, 2, 1000, dtype=np.float32)))
    assert (loud.min(), loud.max()) == (-1.0, 32767 / 32768)


# Files in which nothing can be heard.

SECOND = tone(FREQUENCY_HZ, rate_hz=SAMPLE_RATE_HZ, level=LEVEL)


def with_value(value: float) -> NDArray[np.float64]:
    changed = SECOND.copy()
    changed[8000] = value
    return changed


UNUSABLE = {
    "no bytes": (lambda: b"", "empty_audio"),
    "no samples": (lambda: written(SECOND[:0], subtype="PCM_16"), "audio_too_short"),
    "10 ms": (lambda: written(SECOND[:160], subtype="PCM_16"), "audio_too_short"),
    "digital silence": (lambda: written(SECOND * 0, subtype="PCM_16"), "silent_audio"),
    "NaN": (lambda: written(with_value(np.nan), subtype="FLOAT"), "non_finite_audio"),
    "infinite": (lambda: written(with_value(-np.inf), subtype="FLOAT"), "non_finite_audio"),
    "beyond float32": (lambda: written(with_value(1e300), subtype="DOUBLE"), "non_finite_audio"),
    "NaN before resampling": (
        lambda: written(with_value(np.nan), 44_100, subtype="FLOAT"),
        "non_finite_audio",
    ),
    "text": (lambda: b"not sound at all", "unknown_audio_format"),
    "AIFF": (lambda: written(SECOND, subtype="PCM_16", kind="AIFF"), "unknown_audio_format"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_heard_has_a_reason(name: str) -> None:
    """Each kind of file without sound has a reason of its own."""
    make, code = UNUSABLE[name]
    assert code_of(make()) == code


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.3, 0.5, 0.75, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("name", CODECS)
def test_a_file_cut_short_is_refused_or_is_the_beginning(name: str, share: float) -> None:
    """A file that is cut short is refused or gives the beginning of the whole.

    flac, wav, ogg and mp4 notice these cuts.
    """
    data = encoded(name)
    whole = decode_audio(data)

    try:
        part = decode_audio(data[: int(len(data) * share)])
    except BadSample:
        return

    assert name not in SEES_CUTS
    assert len(part) <= len(whole)
    heard = max(len(part) - 1600, 0)  # the last frame fades where the next one is missing
    np.testing.assert_allclose(part[:heard], whole[:heard], atol=0.02)


def checksummed(kind: str) -> bytes:
    noise = np.random.default_rng(0).normal(0, 0.1, 40_000)
    if kind == "opus":
        return encode_sound(
            tone(FREQUENCY_HZ, seconds=3.0), rate_hz=48_000, container="ogg", codec="libopus"
        )
    kind, subtype = {"flac": ("FLAC", "PCM_16"), "vorbis": ("OGG", "VORBIS")}[kind]
    return written(np.concatenate([SECOND, noise]), subtype=subtype, kind=kind)


@pytest.mark.parametrize("kind", ["flac", "vorbis", "opus"])
def test_a_flipped_bit_under_a_checksum_is_noticed_or_harmless(kind: str) -> None:
    """A flipped bit in a block of flac or a page of ogg changes nothing, or is noticed."""
    data = checksummed(kind)
    whole = decode_audio(data)
    num_noticed = 0

    for position in range(60):
        try:
            sound = decode_audio(with_flips(data, [(position / 59, 1 << position % 8)]))
        except BadSample:
            num_noticed += 1
        else:
            np.testing.assert_array_equal(sound, whole)

    assert num_noticed > 30


def test_a_page_taken_out_of_an_ogg_is_missed() -> None:
    """A missing page is noticed by the numbers of the others, which are intact."""
    data = checksummed("opus")
    pages = [b"OggS" + rest for rest in data.split(b"OggS")[1:]]
    assert len(pages) >= 5
    assert code_of(b"".join(pages[:3] + pages[4:])) == "corrupt_audio"
    decode_audio(b"".join(pages[:-1]))  # a stream's recorder may stop at any page


def test_two_ogg_streams_one_behind_the_other_are_intact() -> None:
    """Chained streams are intact, although each numbers its pages from the start."""
    data = written(SECOND, subtype="VORBIS", kind="OGG")
    other = encoded("flac in ogg")
    check_pages(data + other, code="corrupt_audio")


# Headers that lie.


def wav_header(*, rate_hz: int = SAMPLE_RATE_HZ, num_channels: int = 1, data_bytes: int) -> bytes:
    block = num_channels * 2
    numbers = [
        (16, 4),
        (1, 2),
        (num_channels, 2),
        (rate_hz, 4),
        (rate_hz * block % 2**32, 4),
        (block % 2**16, 2),
        (16, 2),
    ]

    form = b"".join(value.to_bytes(size, "little") for value, size in numbers)
    return b"RIFF\xff\xff\xff\x7fWAVEfmt " + form + b"data" + data_bytes.to_bytes(4, "little")


SAMPLES = (SECOND * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize("claim", [len(SAMPLES) + 1, 10**6, 2**30])
def test_a_wav_that_claims_more_than_it_has_is_cut_short(claim: int) -> None:
    """A wav that claims more than it has is refused; FFmpeg alone would play what is there."""
    assert code_of(wav_header(data_bytes=claim) + SAMPLES) == "truncated_audio"


@pytest.mark.parametrize("claim", [0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_written_into_a_pipe_is_what_is_there(claim: int) -> None:
    """A wav of the largest size is read as it is: its writer could not know the size."""
    np.testing.assert_allclose(
        decode_audio(wav_header(data_bytes=claim) + SAMPLES), SECOND, atol=1e-4
    )


@pytest.mark.parametrize("rate_hz", [1, 999, 2**31 - 1])
def test_an_absurd_rate_is_refused(rate_hz: int) -> None:
    """An absurd rate is refused, as the resampler's filter would grow with it."""
    data = wav_header(rate_hz=rate_hz, data_bytes=len(SAMPLES)) + SAMPLES
    assert code_of(data, max_seconds=1e6) in {"bad_sample_rate", "corrupt_audio"}


@pytest.mark.parametrize("num_channels", [0, 65_535])
def test_an_absurd_number_of_channels_is_refused_or_averaged(num_channels: int) -> None:
    """Any number of channels gives finite sound or a reason."""
    try:
        sound = decode_audio(
            wav_header(num_channels=num_channels, data_bytes=len(SAMPLES)) + SAMPLES
        )
    except BadSample:
        return
    assert np.isfinite(sound).all()


def test_a_flac_that_claims_another_length_is_refused() -> None:
    """The length in a header is that of its samples, or 0 where the writer could not go back."""
    data = bytearray(encode_flac(SECOND.astype(np.float32)))
    at = data.index(b"fLaC") + 8 + 13  # the low 36 bits of these five bytes
    for claim in (1, len(SECOND) - 1, len(SECOND) + 1, 2**36 - 1):
        data[at + 1 : at + 5] = (claim & 0xFFFFFFFF).to_bytes(4, "big")
        data[at] = data[at] & 0xF0 | claim >> 32
        assert code_of(bytes(data)) == "corrupt_audio"

    data[at : at + 5] = bytes([data[at] & 0xF0, 0, 0, 0, 0])
    assert len(decode_audio(bytes(data))) == len(SECOND)


def test_a_recording_too_long_has_a_reason() -> None:
    """The limit of length is exact to the sample that is decoded."""
    data = written(SECOND, subtype="PCM_16")
    assert len(decode_audio(data, max_seconds=1.0)) == SAMPLE_RATE_HZ
    assert code_of(data, max_seconds=0.99) == "audio_too_long"


MEASURE = """
import resource, sys
from pathlib import Path
from shards.media.audio import decode_audio
from shards.errors import BadSample
from shards.media.ogg import check_pages
for path in sys.argv[1:]:
    try:
        decode_audio(Path(path).read_bytes(), max_seconds=20.0)
        code = "none"
    except BadSample as bad:
        code = bad.code
    print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_no_claim_and_no_length_costs_memory(tmp_path: Path) -> None:
    """An hour of sound is refused within the memory of twenty seconds.

    So are tables that claim months of sound.
    """
    hour = written(np.tile([0.5, -0.5], 3600 * 4000), 8000, subtype="PCM_16", kind="FLAC")
    table = encoded("m4a", seconds=0.2)
    at = table.index(b"stsz") + 8
    claims = (
        table[:at] + (6).to_bytes(4, "big") + (200_000_000).to_bytes(4, "big") + table[at + 8 :]
    )

    files = {
        "20-seconds": (
            written(np.tile([0.5, -0.5], 20 * 24_000), 48_000, subtype="PCM_16", kind="FLAC"),
            "none",
        ),
        "hour": (hour, "audio_too_long"),
        "claims": (claims, "corrupt_audio"),
        "gigabyte": (wav_header(data_bytes=2**30) + SAMPLES, "truncated_audio"),
        "endless": (wav_header(data_bytes=2**32 - 1, num_channels=200) + SAMPLES * 8, "none"),
    }

    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)

    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured = [line.split() for line in done.stdout.splitlines()]

    assert [code for code, _ in measured] == [code for _, code in files.values()]
    peaks_mib = [int(peak) for _, peak in measured]
    assert peaks_mib[-1] - peaks_mib[0] <= 8 + len(hour) // 2**20


# Formats that are lists of other files.


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that must not be called."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{url}'\n",
    "dash": '<?xml version="1.0"?><MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\na={url}\n",
}


@pytest.mark.parametrize(
    "prefix", [b"", b"ID3\x04\x00\x00\x00\x00\x00\x00", bytes(64), b"\xff\xfb\x90\x00"]
)
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_nothing(
    name: str, prefix: bytes, listener: socket.socket, tmp_path: Path
) -> None:
    """A playlist touches neither a file beside it nor a server, whatever signature it has."""
    good = tmp_path / "good.wav"
    good.write_bytes(written(SECOND, subtype="PCM_16"))

    for url in (
        str(good),
        f"file://{good}",
        f"http://127.0.0.1:{listener.getsockname()[1]}/good.wav",
    ):
        code = code_of(prefix + PLAYLISTS[name].format(url=url).encode())
        assert code in {"unknown_audio_format", "corrupt_audio", "audio_too_short"}

    with pytest.raises(BlockingIOError):
        listener.accept()


# Any other bytes.


@pytest.fixture(scope="module")
def seeds() -> dict[str, bytes]:
    """A short file of each kind."""
    return {name: encoded(name, seconds=0.3) for name in CODECS}


def assert_is_sound_or_a_reason(data: bytes) -> None:
    try:
        sound = decode_audio(data, max_seconds=5.0)
    except BadSample:
        return
    assert (sound.dtype, sound.ndim) == (np.float32, 1)
    assert np.isfinite(sound).all()
    assert len(sound) <= 5.1 * SAMPLE_RATE_HZ


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [
            b"",
            b"fLaC",
            b"RIFF\0\0\0\0WAVEfmt ",
            b"OggS\0\2",
            b"\x1a\x45\xdf\xa3",
            b"\0\0\0\x18ftypisom",
        ]
    ),
    st.binary(max_size=400),
)
def test_bytes_behind_any_signature_are_sound_or_a_reason(signature: bytes, noise: bytes) -> None:
    """Bytes behind a signature give sound, or BadSample and no other error."""
    assert_is_sound_or_a_reason(signature + noise)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(CODECS)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=8),
    st.booleans(),
)
def test_a_damaged_file_is_sound_or_a_reason(
    seeds: dict[str, bytes], name: str, flips: list[tuple[float, int]], in_header: bool
) -> None:
    """Changed bytes anywhere, or in the first hundred, give BadSample or finite samples."""
    data = seeds[name]
    share = 100 / len(data) if in_header else 1.0
    assert_is_sound_or_a_reason(with_flips(data, [(place * share, mask) for place, mask in flips]))
