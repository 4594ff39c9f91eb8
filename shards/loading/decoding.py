"""Decoders take one input of a model out of a sample and make it ready for a batch.

An input is decoded once, kept in memory as small as it comes, and made float32 for every batch.

Shapes: S samples, F frames, D features, T pictures of side x side.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.errors import BadSample
from shards.loading.inputs import InputName
from shards.media.audio import decode_audio
from shards.media.clip_format import ClipFormat
from shards.media.clips import ClipReader
from shards.samples.sample import Sample

MAX_AUDIO_SECONDS = 600.0


class Decoder(Protocol):
    """Takes one input out of samples."""

    # Of what stands at each place of the sequence; () until a sample has told.
    shape: tuple[int, ...]

    def decode(self, sample: Sample) -> NDArray[Any] | None:
        """Return what is kept in memory, or None where the sample lacks the input.

        Raises BadSample where the input is there and cannot be decoded.
        """

    def ready(self, kept: NDArray[Any]) -> NDArray[np.float32]:
        """Turn what was kept into what a batch holds."""

    def missing(self) -> BadSample:
        """The error of a sample that has none of the inputs that were asked for."""


class SoundDecoder:
    """Waveforms [S]; a video's sound track where a sample has no sound of its own."""

    shape: tuple[int, ...] = ()

    def decode(self, sample: Sample) -> NDArray[np.float32] | None:
        sound = sample.audio if sample.audio is not None else sample.video
        return None if sound is None else decode_audio(sound, max_seconds=MAX_AUDIO_SECONDS)

    def ready(self, kept: NDArray[Any]) -> NDArray[np.float32]:
        return kept

    def missing(self) -> BadSample:
        return BadSample("no_audio", "the sample has no sound, which this training needs")


class FaceDecoder:
    """Face features [F, D]."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()

    def decode(self, sample: Sample) -> NDArray[np.float32] | None:
        features = sample.face_features
        if features is not None:
            self.shape = features.shape[1:]
        return features

    def ready(self, kept: NDArray[Any]) -> NDArray[np.float32]:
        return kept

    def missing(self) -> BadSample:
        return BadSample(
            "no_face_features", "the sample has no face.npy, which this training needs"
        )


class ClipDecoder:
    """Clips [T, 3, side, side]: bytes in memory, standardized numbers in a batch."""

    def __init__(self, clip: ClipFormat) -> None:
        self.shape: tuple[int, ...] = (3, clip.side_pixels, clip.side_pixels)
        self._clips = ClipReader(clip)

    def decode(self, sample: Sample) -> NDArray[np.uint8] | None:
        return None if sample.video is None else self._clips.read(sample.video)

    def ready(self, kept: NDArray[Any]) -> NDArray[np.float32]:
        return self._clips.standardized(kept)

    def missing(self) -> BadSample:
        return BadSample("no_video", "the sample has no video, which this training needs")


def make_decoder(name: InputName, clip: ClipFormat | None) -> Decoder:
    """The decoder of an input. Raises ConfigError for clips whose format is not given."""
    if name == "sound":
        return SoundDecoder()
    if name == "face":
        return FaceDecoder()

    if clip is None:
        raise ConfigError("clip: got none for an input of clips, expected their format")
    return ClipDecoder(clip)
