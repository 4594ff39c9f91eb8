"""Decoding of sound: any container becomes 16 kHz mono float32, or a reason why it cannot.

Memory is bounded: frames are decoded one by one, averaged over their channels, resampled in blocks,
and counted as they arrive. A header may claim any length; the limit counts what is really decoded.
FFmpeg's own downmix is not used, because it would weigh each channel by its place in the room, and
because averaging first leaves one channel to resample instead of eight. Resampling frame by frame
was tried and costs three times as much as blocks of 32,768 samples; `scipy.signal.resample_poly`
costs twice as much and needs the whole recording at once.

A file whose damage can be seen is refused as a whole. FFmpeg would skip what it cannot decode, and
the utterance would be labeled by sound that it does not have. Which damage can be seen depends on
the format:

- A flac, mp4, ogg or wav file that was cut short shows it (ogg only where the cut is inside a
  page). An mp3 or matroska file may end anywhere, so whatever is left of it counts as whole.
- flac and ogg carry checksums. Native flac is read by libFLAC, which verifies them. FFmpeg does not
  verify them unless it is told to (of 300 files with one flipped bit, 236 gave other sound), and
  then its parser takes the end of 1 good file in 6,000 for a broken frame. `shards.media.ogg`
  verifies those of ogg.
- mp3 and aac carry no checksums: a flipped bit in a frame is just other sound.
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

# One frame of a speech model lasts 25 ms. In less, nothing can be heard and nothing computed.
MIN_SECONDS = 0.025
# A third of the smallest step of 16-bit sound.
SILENCE_PEAK = 1e-5

# A header that claims a rate outside this range is wrong. Such a rate must not reach the resampler,
# whose filter grows with it: a filter for 2^31 Hz would need 17 GB.
_MIN_RATE_HZ, _MAX_RATE_HZ = 1_000, 768_000
_BLOCK_SAMPLES = 32_768
# The lengths of frames are added up as floating-point seconds, whose rounding must not make a
# recording too long that has exactly the allowed length.
_TIME_TOLERANCE_SECONDS = 1e-6
# A program that writes WAV into a pipe cannot go back and fill in the size of its data. It leaves a
# number of this size or larger there.
_UNKNOWN_WAV_BYTES = 0x7FFF0000
# Where a native FLAC file holds the MD5 of its samples.
_FLAC_MD5 = slice(26, 42)
_FLAC_SAMPLE_BYTES = {"PCM_S8": 1, "PCM_16": 2, "PCM_24": 3}
# FFmpeg verifies the checksums of flac inside other containers (ogg, matroska) only when told to.
_FLAC_OPTIONS = {"err_detect": "crccheck+explode"}
# FFmpeg's integer formats, without the "p" of planar ones: (value of silence, full scale).
_INTEGER_SCALES = {"u8": (128.0, 2.0**7), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31)}


def decode_audio(data: bytes, *, max_seconds: float = 600.0) -> NDArray[np.float32]:
    """The sound of `data` as `[num_samples]` at 16 kHz.

    `data` is a flac, wav, mp3, ogg, opus or m4a file, or a video with a sound track. Full scale is
    1; a floating-point file keeps samples beyond it. Raises BadSample: `empty_audio`,
    `unknown_audio_format`, `corrupt_audio`, `truncated_audio`, `no_audio_track`,
    `unsupported_codec`, `bad_sample_rate`, `audio_too_long`, `audio_too_short`, `non_finite_audio`,
    `silent_audio`.
    """
    _check_wav_size(data)

    # libFLAC verifies the checksums of native flac. The length in the header is part of that
    # check, so a flac without one goes through FFmpeg like all other formats.
    if _flac_length(data):
        blocks = _joined(_flac_blocks(data, max_seconds))
    else:
        with open_media(data, kind="audio") as container:
            blocks = _joined(_mono_blocks(_counted(_decoded(container), max_seconds)))
    samples = np.concatenate(blocks) if blocks else np.empty(0, np.float32)

    _check_sound(samples)
    return samples


def _joined(native: Iterator[tuple[int, NDArray[np.float32]]]) -> list[NDArray[np.float32]]:
    """The blocks (sampling rate, mono samples) of `native`, resampled to 16 kHz."""
    # A stream may change its rate midway, and a resampler knows one rate only.
    return [
        block
        for rate_hz, run in groupby(native, key=itemgetter(0))
        for block in _resampled((samples for _, samples in run), rate_hz)
    ]


def encode_flac(samples: NDArray[np.float32], sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """`samples` `[num_samples]`, full scale 1, as 16-bit FLAC; louder samples are clipped."""
    integers = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, integers, sample_rate_hz, format="FLAC", subtype="PCM_16")

    return buffer.getvalue()


def check_audio_header(data: bytes) -> None:
    """Raise BadSample unless `data` opens and has a sound track of a known codec.

    (Almost) nothing is decoded.
    """
    _check_wav_size(data)
    with open_media(data, kind="audio") as container:
        _audio_track(container)


def _audio_track(container: InputContainer) -> AudioStream:
    track = container.streams.best("audio")
    if not isinstance(track, AudioStream):
        raise BadSample("no_audio_track", f"the {container.format.name} file has no sound track")

    if track.codec_context is None or track.codec_context.codec.name not in AUDIO_DECODERS:
        name = track.codec_context.codec.name if track.codec_context else "unknown"
        raise BadSample(
            "unsupported_codec",
            f"the codec of the sound is {name}, expected {', '.join(sorted(AUDIO_DECODERS))}",
        )

    return track


def _flac_blocks(data: bytes, max_seconds: float) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Blocks (sampling rate, mono samples) of a native FLAC file whose header gives its length.

    libFLAC verifies the checksum of every frame. The header's MD5 of all samples is verified here
    (a header whose MD5 is all zeros has none).
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_rate(file.samplerate)
            most = (max_seconds + _TIME_TOLERANCE_SECONDS) * file.samplerate
            num_bytes = _FLAC_SAMPLE_BYTES.get(file.subtype, 0)
            digest, num_samples = hashlib.md5(usedforsecurity=False), 0

            while len(block := file.read(_BLOCK_SAMPLES, dtype="int32", always_2d=True)):
                # libsndfile shifts samples of any width to the top of 32 bits. The MD5 is over
                # their own bytes, the last `num_bytes` of each in little-endian order.
                digest.update(
                    block.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 4 - num_bytes :].tobytes()
                )
                num_samples += len(block)
                if num_samples > most:
                    raise BadSample(
                        "audio_too_long", f"the sound is longer than {max_seconds:g} s, the limit"
                    )
                yield file.samplerate, (block.mean(axis=1) / 2.0**31).astype(np.float32)
    except soundfile.LibsndfileError as error:
        raise BadSample("corrupt_audio", f"flac: {error.error_string}") from error

    stored = data[_FLAC_MD5]
    if num_samples != _flac_length(data) or (
        num_bytes and any(stored) and digest.digest() != stored
    ):
        raise BadSample(
            "corrupt_audio",
            f"flac: got {num_samples} samples, expected {_flac_length(data)} with the MD5 in the "
            "header",
        )


def _flac_length(data: bytes) -> int:
    """The number of samples in a native FLAC file's header; 0 if unknown, and for other formats."""
    # The count is the low 36 bits of these five bytes.
    return int.from_bytes(data[21:26], "big") & (1 << 36) - 1 if data[:4] == b"fLaC" else 0


def _decoded(container: InputContainer) -> Iterator[AudioFrame]:
    track = _audio_track(container)
    is_flac = track.codec_context.codec.name == "flac"
    track.codec_context.options = DECODER_OPTIONS | (_FLAC_OPTIONS if is_flac else {})

    yield from container.decode(track)


def _counted(frames: Iterator[AudioFrame], max_seconds: float) -> Iterator[AudioFrame]:
    """Pass `frames` on; raise BadSample when they last longer than `max_seconds` together."""
    seconds = 0.0
    for frame in frames:
        _check_rate(frame.sample_rate)
        seconds += frame.samples / frame.sample_rate
        if seconds > max_seconds + _TIME_TOLERANCE_SECONDS:
            raise BadSample(
                "audio_too_long", f"the sound is longer than {max_seconds:g} s, the limit"
            )
        yield frame


def _check_rate(rate_hz: int) -> None:
    if not _MIN_RATE_HZ <= rate_hz <= _MAX_RATE_HZ:
        raise BadSample(
            "bad_sample_rate",
            f"the sampling rate is {rate_hz} Hz, expected {_MIN_RATE_HZ} to {_MAX_RATE_HZ}",
        )


def _mono_blocks(frames: Iterator[AudioFrame]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Blocks (sampling rate, mono samples) of some frames each."""
    # A stream may change its sampling rate or its channels midway, and only frames of one kind can
    # be joined.
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
    """The mean over the channels of `arrays`, scaled so that full scale is 1.

    Planar formats come as `[channels, samples]`, packed ones as `[1, samples * channels]`.
    """
    joined = np.concatenate(arrays, axis=1)
    channels = joined if format_name.endswith("p") else joined.reshape(-1, num_channels).T

    # A float64 sample too large for float32 becomes infinite, which `_check_sound` reports later.
    with np.errstate(over="ignore", invalid="ignore"):
        mono = channels[0].astype(np.float32)
        # Adding one channel after the other is ten times as fast as `mean(axis=0)` over
        # interleaved samples.
        for channel in channels[1:]:
            mono += channel

    # `mono` is the sum over the channels until here, so each channel adds one offset to it.
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

    # The resampler holds back the last samples until it is told that no more come.
    yield from (out.to_ndarray()[0] for out in resampler.resample(None))


def _check_sound(samples: NDArray[np.float32]) -> None:
    seconds = len(samples) / SAMPLE_RATE_HZ
    if seconds < MIN_SECONDS:
        raise BadSample(
            "audio_too_short", f"got {seconds:.4f} s of sound, expected at least {MIN_SECONDS} s"
        )

    if not np.isfinite(samples).all():
        raise BadSample("non_finite_audio", "the sound holds NaN or infinite samples")

    peak = float(np.abs(samples).max())
    if peak < SILENCE_PEAK:
        raise BadSample(
            "silent_audio",
            f"all {seconds:.3f} s are digital silence: the largest sample is {peak:.1e}",
        )


def _check_wav_size(data: bytes) -> None:
    """Raise BadSample when a WAV file is shorter than its `data` chunk says.

    FFmpeg would play what is left of such a file and report nothing.
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
                    "truncated_audio",
                    f"wav: got {present} bytes of sound, expected the {size} of the header",
                )
            return
        # A chunk of an odd size is followed by a byte of padding.
        position += 8 + size + size % 2
