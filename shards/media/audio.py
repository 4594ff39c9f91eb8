"""Decoding of sound: any container becomes 16 kHz mono float32, or a reason why it cannot.

Memory is bounded: frames are decoded one by one, mixed to one channel, resampled in blocks, and
counted as they arrive. A header may claim any length; the limit counts what is really decoded.
FFmpeg's own downmix is not used (`shards.media.downmix` says why), and mixing first leaves one
channel to resample instead of eight. Resampling frame by frame was tried and costs three times as
much as blocks of 32,768 samples; `scipy.signal.resample_poly` costs twice as much and needs the
whole recording at once.

A file whose damage can be seen is refused as a whole. FFmpeg would skip what it cannot decode, and
the utterance would be labeled by sound that it does not have. Which damage can be seen depends on
the format:

- A flac, mp4 or wav file that was cut short shows it, an ogg where the cut is inside a page, an mp3
  that states the number of its frames (Xing, Info, VBRI), and a matroska file that states its
  length. An mp3 without such a frame, and a matroska file or a fragmented mp4 that was recorded
  live, may end anywhere; whatever is left of them counts as whole.
- flac and ogg carry checksums. Native flac is read by libFLAC, which verifies them. FFmpeg does not
  verify them unless it is told to (of 300 files with one flipped bit, 236 gave other sound), and
  then its parser takes the end of 1 good file in 6,000 for a broken frame. `shards.media.ogg`
  verifies those of ogg.
- mp3 and aac carry no checksums: a flipped bit in a frame is just other sound.

Where the times of a stream leave a hole, nothing was recorded; it is silence of that length. A mp4
states where its sound ends, to the sample; what the last frame of the codec holds behind is cut.
"""

import io
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np
import soundfile
from av import AudioFrame, AudioResampler
from numpy.typing import NDArray

from shards.errors import BadSample
from shards.media.blocks import Clock, file_blocks
from shards.media.container import open_media
from shards.media.downmix import Downmix
from shards.media.joined import separate_files
from shards.media.mpeg_audio import begins_with_frame
from shards.media.native_flac import check_flac_end, flac_length
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.media.sound_track import sound_track

# One frame of a speech model lasts 25 ms. In less, nothing can be heard and nothing computed.
MIN_SECONDS = 0.025
# A third of the smallest step of 16-bit sound.
SILENCE_PEAK = 1e-5
# -60 dBFS, in the loudest tenth of a second. The quietest of 1,439 acted utterances (RAVDESS) has
# -56 dBFS there; by the RMS of the whole utterance, which counts the pauses, it has -64.
NEAR_SILENCE_RMS = 1e-3
_LOUDNESS_SECONDS = 0.1

# The last frame of a codec holds 2,048 samples at most; at 22 kHz these last 93 ms.
_MAX_PADDING_SECONDS = 0.1


def decode_audio(data: bytes, *, max_seconds: float = 600.0) -> NDArray[np.float32]:
    """The sound of `data` as `[num_samples]` at 16 kHz.

    `data` is a flac, wav, mp3, ogg, opus or m4a file, or a video with a sound track, or several of
    these one behind another. Full scale is 1; a floating-point file keeps samples beyond it. Raises
    BadSample: `empty_audio`, `unknown_audio_format`, `corrupt_audio`, `truncated_audio`,
    `no_audio_track`, `unsupported_codec`, `bad_sample_rate`, `audio_too_long`, `audio_too_short`,
    `non_finite_audio`, `silent_audio`, `near_silent_audio`.
    """
    files = separate_files(data, code="corrupt_audio")

    downmix = Downmix()
    samples = _heard(files, downmix, max_seconds)
    weights = downmix.corrections()
    if weights:
        samples = _heard(files, Downmix(weights), max_seconds)

    _check_sound(samples)
    return samples


def encode_flac(samples: NDArray[np.float32], sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """`samples` `[num_samples]`, full scale 1, as 16-bit FLAC; louder samples are clipped."""
    integers = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, integers, sample_rate_hz, format="FLAC", subtype="PCM_16")

    return buffer.getvalue()


def check_audio_header(data: bytes) -> int:
    """The number of sound tracks; BadSample unless `data` is whole and has one of a known codec.

    (Almost) nothing is decoded. A file that passes is one that `decode_audio` reads, unless its
    samples are damaged inside, or are nothing to hear.
    """
    num_tracks = 1
    for file in separate_files(data, code="corrupt_audio"):
        if flac_length(file):
            check_flac_end(file)
        # The frames of an mp3 were found one by one; FFmpeg would look at the first of them again.
        elif not begins_with_frame(file):
            with open_media(file, kind="audio") as container:
                sound_track(container)
                num_tracks = len(container.streams.audio)

    return num_tracks


def _heard(files: list[bytes], downmix: Downmix, max_seconds: float) -> NDArray[np.float32]:
    """The sound of `files`, one behind another."""
    clock = Clock(max_seconds)
    blocks = []
    for file in files:
        native = ((block.rate_hz, downmix.mixed(block)) for block in file_blocks(file, clock))
        blocks += _joined(native)

    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def _joined(native: Iterator[tuple[int, NDArray[np.float32]]]) -> list[NDArray[np.float32]]:
    """The blocks (sampling rate, mono samples) of `native`, resampled to 16 kHz."""
    # A stream may change its rate midway, and a resampler knows one rate only.
    return [
        block
        for rate_hz, run in groupby(native, key=itemgetter(0))
        for block in _resampled((samples for _, samples in run), rate_hz)
    ]


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

    if _loudest(samples) < NEAR_SILENCE_RMS:
        raise BadSample(
            "near_silent_audio",
            f"in {seconds:.3f} s no tenth of a second reaches an RMS of {NEAR_SILENCE_RMS:g} "
            "(-60 dBFS)",
        )


def _loudest(samples: NDArray[np.float32]) -> float:
    """The RMS of the loudest of the parts of a tenth of a second; at least `NEAR_SILENCE_RMS` where
    that of the whole is.
    """
    size = round(_LOUDNESS_SECONDS * SAMPLE_RATE_HZ)
    whole = float(np.sqrt(np.dot(samples, samples) / len(samples)))
    # Some part is at least as loud as the whole, and the whole is nearly always loud enough.
    if len(samples) <= size or whole >= NEAR_SILENCE_RMS:
        return whole

    parts = samples[: len(samples) // size * size].reshape(-1, size)
    loudest = np.einsum("ij,ij->i", parts, parts).max()
    # What is left over at the end makes a part with samples of the one before.
    return float(np.sqrt(max(loudest, np.dot(samples[-size:], samples[-size:])) / size))
