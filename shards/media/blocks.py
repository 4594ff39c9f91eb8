"""The decoded sound of a file in blocks of some frames each, with all of its channels.

A block has a steady size, so that memory is bounded and no step is done frame by frame.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from av import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import DTypeLike, NDArray

from shards.errors import BadSample
from shards.media.container import DECODER_OPTIONS, open_media
from shards.media.native_flac import flac_blocks, flac_length
from shards.media.sound_track import sound_track
from shards.media.source_ends import STATES_DURATION

BLOCK_SAMPLES = 32_768

# A header that claims a rate outside this range is wrong. Such a rate must not reach the resampler,
# whose filter grows with it: a filter for 2^31 Hz would need 17 GB.
_MIN_RATE_HZ, _MAX_RATE_HZ = 1_000, 768_000
# The lengths of frames are added up as floating-point seconds, whose rounding must not make a
# recording too long that has exactly the allowed length.
_TIME_TOLERANCE_SECONDS = 1e-6
# Times in some containers are rounded, and recorders write them as packets arrive. FFmpeg's
# `aresample=async=1` too takes only what is longer than this for a hole.
_MIN_HOLE_SECONDS = 0.1
# The last frame of a codec holds 2,048 samples at most; at 22 kHz these last 93 ms.
_MAX_PADDING_SECONDS = 0.1
_DURATION_TOLERANCE_SECONDS = 0.1
# FFmpeg verifies the checksums of flac inside other containers (ogg, matroska) only when told to.
_FLAC_OPTIONS = {"err_detect": "crccheck+explode"}
# FFmpeg's integer formats, without the "p" of planar ones: (value of silence, full scale).
_INTEGER_SCALES = {"u8": (128.0, 2.0**7), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31)}


@dataclass(frozen=True, slots=True, eq=False)
class SoundBlock:
    """Samples `[num_channels, num_samples]` of one sampling rate.

    `offset` is the value of silence in them, and `full_scale` the largest distance from it.
    `dtype` is the type in which the channels can be added.
    """

    rate_hz: int
    channels: NDArray[np.generic]
    offset: float = 0.0
    full_scale: float = 1.0
    dtype: DTypeLike = np.float32

    @property
    def num_samples(self) -> int:
        """Number of samples of each channel."""
        return self.channels.shape[1]


class Clock:
    """Counts the seconds of sound that have come, against a limit."""

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self.seconds = 0.0

    def count(self, num_samples: int, rate_hz: int) -> None:
        """Add samples.

        Raises BadSample: `audio_too_long`, and `bad_sample_rate` for a rate that cannot be true.
        """
        if not _MIN_RATE_HZ <= rate_hz <= _MAX_RATE_HZ:
            raise BadSample(
                "bad_sample_rate",
                f"the sampling rate is {rate_hz} Hz, expected {_MIN_RATE_HZ} to {_MAX_RATE_HZ}",
            )

        self.seconds += num_samples / rate_hz
        if self.seconds > self._max_seconds + _TIME_TOLERANCE_SECONDS:
            raise BadSample(
                "audio_too_long", f"the sound is longer than {self._max_seconds:g} s, the limit"
            )


def file_blocks(
    data: bytes, clock: Clock, *, track_number: int | None = None, is_source: bool = False
) -> Iterator[SoundBlock]:
    """The sound of a file up to the end that the file states.

    `track_number` counts sound tracks from 1; None stands for the default one. `is_source` welcomes
    the formats that only an import reads. Where the times of a track leave a hole, it is silence.
    """
    if flac_length(data):
        for rate_hz, block in flac_blocks(data, BLOCK_SAMPLES):
            clock.count(len(block), rate_hz)
            # The sum of 32-bit samples is exact in float64 only.
            yield SoundBlock(rate_hz, block.T, full_scale=2.0**31, dtype=np.float64)
        return

    with open_media(data, kind="audio", is_source=is_source) as container:
        track = sound_track(container, track_number)
        stated = _stated_seconds(track)
        before = clock.seconds

        blocks = _track_blocks(container, track, clock)
        format_name = container.format.name
        yield from _without_padding(blocks, stated) if format_name == "mov" else blocks
        if format_name in STATES_DURATION and stated is not None:
            _check_duration(clock.seconds - before, stated)


def _stated_seconds(track: AudioStream) -> float | None:
    return float(track.duration * track.time_base) if track.duration and track.time_base else None


def _check_duration(seconds: float, stated: float) -> None:
    if seconds < stated - _DURATION_TOLERANCE_SECONDS:
        raise BadSample(
            "truncated_audio", f"got {seconds:.3f} s of sound, expected the stated {stated:.3f} s"
        )


def _without_padding(blocks: Iterator[SoundBlock], stated: float | None) -> Iterator[SoundBlock]:
    """`blocks` up to the stated end, where only the rest of the codec's last frame lies behind."""
    held: deque[SoundBlock] = deque()
    num_samples, num_held, most = 0, 0, 0

    for block in blocks:
        held.append(block)
        num_samples += block.num_samples
        num_held += block.num_samples
        most = round(_MAX_PADDING_SECONDS * block.rate_hz)
        # What is held reaches back at least as far as padding may.
        while num_held - held[0].num_samples >= most:
            num_held -= held[0].num_samples
            yield held.popleft()

    excess = num_samples - round(stated * held[-1].rate_hz) if held and stated else 0
    while held and 0 < excess <= most:
        last = held.pop()
        if last.num_samples > excess:
            held.append(replace(last, channels=last.channels[:, : last.num_samples - excess]))
        excess -= min(excess, last.num_samples)
    yield from held


def _track_blocks(
    container: InputContainer, track: AudioStream, clock: Clock
) -> Iterator[SoundBlock]:
    # A stream may change its sampling rate or its channels midway, and only frames of one kind can
    # be joined.
    for (rate_hz, kind, num_channels), run in groupby(
        _timed_frames(container, track), key=lambda timed: _layout(timed[0])
    ):
        pending: list[NDArray[np.generic]] = []
        num_pending = 0

        for frame, num_missing in run:
            if num_missing:
                if pending:
                    yield _block(pending, clock, rate_hz, kind, num_channels)
                    pending, num_pending = [], 0
                clock.count(num_missing, rate_hz)
                yield from _silence(num_missing, rate_hz, num_channels)

            pending.append(frame.to_ndarray())
            num_pending += frame.samples
            if num_pending >= BLOCK_SAMPLES:
                yield _block(pending, clock, rate_hz, kind, num_channels)
                pending, num_pending = [], 0

        if num_pending:
            yield _block(pending, clock, rate_hz, kind, num_channels)


def _timed_frames(
    container: InputContainer, track: AudioStream
) -> Iterator[tuple[AudioFrame, int]]:
    """The frames of `track`, each with the number of samples that are missing in front of it."""
    is_flac = track.codec_context.codec.name == "flac"
    track.codec_context.options = DECODER_OPTIONS | (_FLAC_OPTIONS if is_flac else {})

    due: float | None = None
    for frame in container.decode(track):
        time, rate_hz, num_missing = frame.time, frame.sample_rate, 0
        if time is not None:
            if due is not None and time - due > _MIN_HOLE_SECONDS:
                num_missing = round((time - due) * rate_hz)
            # A rate of 0 is refused by whoever takes the frame.
            due = time + frame.samples / (rate_hz or 1)
        yield frame, num_missing


def _layout(frame: AudioFrame) -> tuple[int, str, int]:
    return frame.sample_rate, frame.format.name, frame.layout.nb_channels


def _block(
    arrays: list[NDArray[np.generic]], clock: Clock, rate_hz: int, kind: str, num_channels: int
) -> SoundBlock:
    # Planar formats come as `[channels, samples]`, packed ones as `[1, samples * channels]`.
    joined = np.concatenate(arrays, axis=1)
    channels = joined if kind.endswith("p") else joined.reshape(-1, num_channels).T
    clock.count(channels.shape[1], rate_hz)

    offset, full_scale = _INTEGER_SCALES.get(kind.removesuffix("p"), (0.0, 1.0))
    return SoundBlock(rate_hz, channels, offset, full_scale)


def _silence(num_samples: int, rate_hz: int, num_channels: int) -> Iterator[SoundBlock]:
    for start in range(0, num_samples, BLOCK_SAMPLES):
        size = min(BLOCK_SAMPLES, num_samples - start)
        yield SoundBlock(rate_hz, np.zeros((num_channels, size), np.float32))
