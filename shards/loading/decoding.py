"""Decoders take one input of a model out of a sample and make it ready for a batch.

An input is decoded once, kept in memory as small as it comes, and made float32 for every batch.

Shapes: S samples, F frames, D features, T pictures of side x side, L hidden states.
"""

from collections.abc import Sequence
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
from shards.tables.feature_store import FeatureStore

MAX_AUDIO_SECONDS = 600.0

# The URL of a sample's shard, and the sample's offset there.
Place = tuple[str, int]


class Decoder(Protocol):
    """Takes one input out of samples."""

    # Of what stands at each place of the sequence; () until a sample has told.
    shape: tuple[int, ...]

    def decode(self, sample: Sample, place: Place) -> NDArray[Any] | None:
        """Return what is kept in memory, or None where the sample, at `place`, lacks the input.

        Raises BadSample where the input is there and cannot be decoded.
        """

    def ready(self, kept: NDArray[Any]) -> NDArray[np.float32]:
        """Turn what was kept into what a batch holds."""

    def missing(self) -> BadSample:
        """The error of a sample that has none of the inputs that were asked for."""


class SoundDecoder:
    """Waveforms [S]; a video's sound track where a sample has no sound of its own."""

    shape: tuple[int, ...] = ()

    def decode(self, sample: Sample, place: Place) -> NDArray[np.float32] | None:
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

    def decode(self, sample: Sample, place: Place) -> NDArray[np.float32] | None:
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

    def decode(self, sample: Sample, place: Place) -> NDArray[np.uint8] | None:
        return None if sample.video is None else self._clips.read(sample.video)

    def ready(self, kept: NDArray[Any]) -> NDArray[np.float32]:
        return self._clips.standardized(kept)

    def missing(self) -> BadSample:
        return BadSample("no_video", "the sample has no video, which this training needs")


class StoredStates:
    """Hidden states [F, L, D] of a frozen encoder, read from feature files and not from the sample.

    They are kept as float16, as they are stored.
    """

    def __init__(self, features: FeatureStore) -> None:
        self._features = features
        self.shape: tuple[int, ...] = (len(features.info.layers), features.info.width)

    def decode(self, sample: Sample, place: Place) -> NDArray[np.float16] | None:
        row = self._features.find(*place)
        if row is not None and row.error is not None:
            return None
        return self._features.read(*place)

    def ready(self, kept: NDArray[Any]) -> NDArray[np.float32]:
        return kept.astype(np.float32)

    def missing(self) -> BadSample:
        return BadSample("no_features", "the sample has no stored features: see their file for why")


def make_decoders(
    inputs: Sequence[InputName], clip: ClipFormat | None, features: FeatureStore | None
) -> dict[InputName, Decoder]:
    """The decoder of each of `inputs`.

    Raises ConfigError unless `clip` is given exactly when clips are among them, and `features` when
    stored states are.
    """
    for given, name in ((clip, "clip"), (features, "states")):
        if (given is not None) != (name in inputs):
            raise ConfigError(
                f"{name}: got {given} for the inputs {', '.join(inputs)}, expected what {name} is "
                f"made with if {name} is one of them, and none otherwise"
            )

    found: dict[InputName, Decoder] = {}
    for name in inputs:
        if name == "states" and features is not None:
            found[name] = StoredStates(features)
        else:
            found[name] = make_decoder(name, clip)
    return found


def make_decoder(name: InputName, clip: ClipFormat | None) -> Decoder:
    """The decoder of an input. Raises ConfigError for clips whose format is not given."""
    if name == "sound":
        return SoundDecoder()
    if name == "face":
        return FaceDecoder()

    if clip is None:
        raise ConfigError("clip: got none for an input of clips, expected their format")
    return ClipDecoder(clip)
