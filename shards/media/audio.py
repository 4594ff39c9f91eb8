"""Sound from any container to 16 kHz mono float32, in bounded memory, or a recorded reason why not.

Frames are decoded one by one, averaged over their channels, resampled in blocks, and counted as
they arrive: a header may claim any length, the limit bites on what is really decoded. Averaging
first, and resampling one channel instead of eight, is why FFmpeg's own downmix is not used; it
would also weigh channels by their place in the room. Resampling frame by frame was tried and costs
three times as much as blocks of 32,768 samples; `scipy.signal.resample_poly` costs twice as much
and needs the whole recording at once.

A file whose damage can be seen is refused whole. FFmpeg skips what it cannot decode, but then an
utterance would be labeled by sound it does not have. flac, mp4, ogg and wav tell when they were cut
short (ogg inside a page only); mp3 and matroska may end anywhere, and what is there is what they
are. flac and ogg carry checksums. Native flac is read by libFLAC, which looks at them: FFmpeg does
not unless told to (of 300 files with one flipped bit, 236 gave other sound), and its parser takes
the end of 1 good file in 6,000 for a broken frame. For ogg see `shards.media.ogg`. In an mp3 or aac
frame a flipped bit is just other sound.
"""

import hashlib
import io
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np
import soundfile
from av import AudioFrame, AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from shards.errors import BadSample
from shards.media.container import AUDIO_DECODERS, DECODER_OPTIONS, open_media
from shards.media.sound_format import SAMPLE_RATE_HZ

# One frame of a speech model: 25 ms. Nothing can be heard, or computed, in less.
MIN_SECONDS = 0.025
# A third of the smallest step of 16-bit sound.
SILENCE_PEAK = 1e-5

# Outside these a sampling rate is a lie, and the resampler's filter grows with it: 2^31 Hz would
# need 17 GB.
_MIN_RATE_HZ, _MAX_RATE_HZ = 1_000, 768_000
_BLOCK_SAMPLES = 32_768
# Lengths of frames are added up as floating-point seconds.
_TIME_TOLERANCE_SECONDS = 1e-6
# Programs that write WAV into a pipe cannot go back and fill in the size; they leave one of these
# or more.
_UNKNOWN_WAV_BYTES = 0x7FFF0000
_FLAC_MD5 = slice(26, 42)
_FLAC_SAMPLE_BYTES = {"PCM_S8": 1, "PCM_16": 2, "PCM_24": 3}
_FLAC_OPTIONS = {"err_detect": "crccheck+explode"}
# FFmpeg's integer formats (planar ones end in "p"): what is subtracted, what full scale is.
_INTEGER_SCALES = {"u8": (128.0, 2.0**7), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31)}


def decode_audio(data: bytes, *, max_seconds: float = 600.0) -> NDArray[np.float32]:
    """The sound of `data`, `[num_samples]` at 16 kHz: flac, wav, mp3, ogg, opus, m4a, or the sound
    track of a video.

    Full scale is 1; floating-point files keep their range. Raises BadSample: `empty_audio`,
    `unknown_audio_format`, `corrupt_audio`, `truncated_audio`, `no_audio_track`,
    `unsupported_codec`, `bad_sample_rate`, `audio_too_long`, `audio_too_short`, `non_finite_audio`,
    `silent_audio`.
    """
    _check_wav_size(data)
    if _flac_length(data):
        blocks = _joined(_flac_blocks(data, max_seconds))
    else:
        with open_media(data, kind="audio") as container:
            blocks = _joined(_mono_blocks(_counted(_decoded(container), max_seconds)))
    samples = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    _check_sound(samples)
    return samples


def _joined(native: Iterator[tuple[int, NDArray[np.float32]]]) -> list[NDArray[np.float32]]:
    """(sampling rate, mono samples) blocks at 16 kHz."""
    return [
        block
        for rate_hz, run in groupby(native, key=itemgetter(0))
        for block in _resampled((samples for _, samples in run), rate_hz)
    ]


def encode_flac(samples: NDArray[np.float32], sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """`samples` `[num_samples]`, full scale 1, as 16-bit FLAC; what lies beyond full scale is
    clipped.
    """
    integers = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, integers, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def check_audio_header(data: bytes) -> None:
    """Raise BadSample unless `data` opens and has a sound track that can be decoded; decodes
    (almost) nothing.
    """
    _check_wav_size(data)
    with open_media(data, kind="audio") as container:
        _audio_track(container)


def _audio_track(container: InputContainer) -> AudioStream:
    track = container.streams.best("audio")
    if not isinstance(track, AudioStream):
        raise BadSample("no_audio_track", f"{container.format.name} without a sound track")
    if track.codec_context is None or track.codec_context.codec.name not in AUDIO_DECODERS:
        name = track.codec_context.codec.name if track.codec_context else "unknown"
        raise BadSample(
            "unsupported_codec", f"sound is {name}, known: {', '.join(sorted(AUDIO_DECODERS))}"
        )
    return track


def _flac_blocks(data: bytes, max_seconds: float) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(sampling rate, mono samples) of a native FLAC file whose header says how many there are.

    libFLAC verifies the checksum of every frame; the MD5 of all samples in the header (zero: none)
    is verified here.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_rate(file.samplerate)
            most = (max_seconds + _TIME_TOLERANCE_SECONDS) * file.samplerate
            num_bytes = _FLAC_SAMPLE_BYTES.get(file.subtype, 0)
            digest, num_samples = hashlib.md5(usedforsecurity=False), 0
            while len(block := file.read(_BLOCK_SAMPLES, dtype="int32", always_2d=True)):
                digest.update(
                    block.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 4 - num_bytes :].tobytes()
                )
                num_samples += len(block)
                if num_samples > most:
                    raise BadSample("audio_too_long", f"more than {max_seconds:g} s of sound")
                yield file.samplerate, (block.mean(axis=1) / 2.0**31).astype(np.float32)
    except soundfile.LibsndfileError as error:
        raise BadSample("corrupt_audio", f"flac: {error.error_string}") from error
    stored = data[_FLAC_MD5]
    if num_samples != _flac_length(data) or (
        num_bytes and any(stored) and digest.digest() != stored
    ):
        raise BadSample(
            "corrupt_audio",
            f"flac: {num_samples} of {_flac_length(data)} samples, or not those written",
        )


def _flac_length(data: bytes) -> int:
    """Samples of a native FLAC file by its header; 0 for other formats and where the writer did not
    know.
    """
    return int.from_bytes(data[21:26], "big") & (1 << 36) - 1 if data[:4] == b"fLaC" else 0


def _decoded(container: InputContainer) -> Iterator[AudioFrame]:
    track = _audio_track(container)
    is_flac = track.codec_context.codec.name == "flac"
    track.codec_context.options = DECODER_OPTIONS | (_FLAC_OPTIONS if is_flac else {})
    yield from container.decode(track)


def _counted(frames: Iterator[AudioFrame], max_seconds: float) -> Iterator[AudioFrame]:
    """Pass `frames` on until they last longer than `max_seconds` together."""
    seconds = 0.0
    for frame in frames:
        _check_rate(frame.sample_rate)
        seconds += frame.samples / frame.sample_rate
        if seconds > max_seconds + _TIME_TOLERANCE_SECONDS:
            raise BadSample("audio_too_long", f"more than {max_seconds:g} s of sound")
        yield frame


def _check_rate(rate_hz: int) -> None:
    if not _MIN_RATE_HZ <= rate_hz <= _MAX_RATE_HZ:
        raise BadSample(
            "bad_sample_rate", f"sound at {rate_hz} Hz, expected {_MIN_RATE_HZ} to {_MAX_RATE_HZ}"
        )


def _mono_blocks(frames: Iterator[AudioFrame]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(sampling rate, mono samples), some frames at a time; a stream may change its rate or its
    channels midway.
    """
    for (rate_hz, format_name, num_channels), run in groupby(frames, key=_layout):
        pending: list[NDArray[np.generic]] = []
        num_pending = 0
        for frame in run:
            pending.append(frame.to_ndarray())
            num_pending += frame.samples
            if num_pending >= _BLOCK_SAMPLES:
                yield rate_hz, _mono(pending, format_name, num_channels)
                pending, num_pending = [], 0
        if num_pending:
            yield rate_hz, _mono(pending, format_name, num_channels)


def _layout(frame: AudioFrame) -> tuple[int, str, int]:
    return frame.sample_rate, frame.format.name, frame.layout.nb_channels


def _mono(
    arrays: list[NDArray[np.generic]], format_name: str, num_channels: int
) -> NDArray[np.float32]:
    """The mean over channels; `arrays` are planar `[channels, samples]` or packed `[1, samples *
    channels]`.
    """
    joined = np.concatenate(arrays, axis=1)
    channels = joined if format_name.endswith("p") else joined.reshape(-1, num_channels).T
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # float64 beyond float32 is found as non-finite afterwards
        mono = channels[0].astype(np.float32)
        for channel in channels[1:]:  # ten times as fast as `mean(axis=0)` over interleaved samples
            mono += channel
    offset, full_scale = _INTEGER_SCALES.get(format_name.removesuffix("p"), (0.0, 1.0))
    if (num_channels, full_scale) != (1, 1.0):
        mono = (mono - np.float32(offset * num_channels)) * np.float32(
            1.0 / (full_scale * num_channels)
        )
    return mono


def _resampled(
    blocks: Iterator[NDArray[np.float32]], rate_hz: int
) -> Iterator[NDArray[np.float32]]:
    if rate_hz == SAMPLE_RATE_HZ:
        yield from blocks
        return
    resampler = AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE_HZ)
    for block in blocks:
        frame = AudioFrame.from_ndarray(block[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        yield from (out.to_ndarray()[0] for out in resampler.resample(frame))
    yield from (out.to_ndarray()[0] for out in resampler.resample(None))


def _check_sound(samples: NDArray[np.float32]) -> None:
    seconds = len(samples) / SAMPLE_RATE_HZ
    if seconds < MIN_SECONDS:
        raise BadSample(
            "audio_too_short", f"{seconds:.4f} s of sound, at least {MIN_SECONDS} s are needed"
        )
    if not np.isfinite(samples).all():
        raise BadSample("non_finite_audio", "the sound holds NaN or infinite samples")
    peak = float(np.abs(samples).max())
    if peak < SILENCE_PEAK:
        raise BadSample(
            "silent_audio", f"{seconds:.3f} s of digital silence, largest sample {peak:.1e}"
        )


def _check_wav_size(data: bytes) -> None:
    """FFmpeg plays a WAV file that was cut short without a word; its `data` chunk says how long it
    was.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    position = 12
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"data":
            present = len(data) - position - 8
            if present < size < _UNKNOWN_WAV_BYTES:
                raise BadSample(
                    "truncated_audio", f"wav: {present} of {size} bytes of sound are there"
                )
            return
        position += 8 + size + size % 2
