"""Small two-stage models with random weights, and batches of sound and faces for them.

Shapes: N utterances, S samples, T frames, F features of a face.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from shards.loading.inputs import InputName
from shards.loading.loader import Padded
from shards.media.padding import pad
from trainers.models.encoders.sequence import SequenceEncoderConfig
from trainers.models.two_stage.configuration import BranchConfig, TwoStageConfig
from trainers.models.two_stage.recognizer import TwoStageRecognizer

NAMES = ("neutral", "anger", "happiness")
NUM_FEATURES = 5
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "head_width": 8,
}


def sound_branch(labels: str = "voice", **changes: Any) -> BranchConfig:
    """A branch of sound for the encoder of `small_model`."""
    sizes = SIZES | {"feature_size": 8, "num_states": 3, "encoder": 0} | changes
    return BranchConfig(input="sound", labels=labels, **sizes)


def face_branch(labels: str = "face", **changes: Any) -> BranchConfig:
    """A branch of faces."""
    return BranchConfig(
        input="face", labels=labels, **(SIZES | {"feature_size": NUM_FEATURES} | changes)
    )


def small_model(*branches: BranchConfig, seed: int = 0, **changes: Any) -> TwoStageRecognizer:
    """A model of these branches with random weights, in evaluation."""
    torch.manual_seed(seed)
    encoder = SequenceEncoderConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    hears = any(branch.input == "sound" for branch in branches)
    values: dict[str, Any] = {
        "names": NAMES,
        "encoders": [encoder.to_dict()] if hears else [],
        "normalizes": [False] if hears else [],
        "branches": [branch.as_values() for branch in branches],
        "fusion": "shared" if len(branches) > 1 else "none",
        "head_width": 8,
    }
    return TwoStageRecognizer(TwoStageConfig(**(values | changes))).eval()


def four_streams(seed: int = 0, **changes: Any) -> TwoStageRecognizer:
    """A model of the branches 1, 3, 5 and 6 of the paper."""
    return small_model(
        sound_branch("voice"),
        sound_branch("audiovisual"),
        face_branch("face"),
        face_branch("audiovisual"),
        seed=seed,
        **changes,
    )


def utterance(number: int) -> dict[InputName, np.ndarray]:
    """Sound of 0.1 to 0.4 s and a face of 3 to 12 frames."""
    rng = np.random.default_rng(number)
    samples, frames = int(rng.integers(1600, 6400)), int(rng.integers(3, 13))
    return {
        "sound": 0.1 * rng.standard_normal(samples).astype(np.float32),
        "face": rng.standard_normal((frames, NUM_FEATURES)).astype(np.float32),
    }


def without(name: InputName, one: dict[InputName, np.ndarray]) -> dict[InputName, np.ndarray]:
    """The same utterance without one of its inputs."""
    return one | {name: one[name][:0]}


def batch_of(
    utterances: Sequence[dict[InputName, np.ndarray]], *, extra: int = 0
) -> dict[InputName, Padded]:
    """A batch of utterances; `extra` is further padding, which holds large numbers."""
    names: list[InputName] = ["sound", "face"]
    found: dict[InputName, Padded] = {}
    for name in names:
        values, lengths = pad([one[name] for one in utterances])
        if extra:
            more = np.full((len(values), extra, *values.shape[2:]), 7.0, dtype=np.float32)
            values = np.concatenate([values, more], axis=1)
        found[name] = Padded(torch.from_numpy(values), torch.from_numpy(lengths))

    return found
