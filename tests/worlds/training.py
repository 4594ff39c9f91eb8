"""Packed shards small enough to train on in a test, of six speakers a split.

They hold tones whose pitch tells the class, or films without sound, in which the way of a bright
square tells the class and its shade the speaker.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from shards.config_values import from_mapping
from shards.loading.loader import Batch
from shards.media.audio import encode_flac
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.sample import Sample
from tests.shards.media.pieces import encode_video, gray
from tests.worlds.small import write_shard
from trainers.config import TrainConfig

CLASSES = ("neutral", "anger", "happiness")
PER_SPEAKER = 6


def make_utterance(split: str, speaker: int, number: int) -> Sample:
    """Make a tone of 0.2 to 0.4 s whose class, pitch and values follow from `number`."""
    rng = np.random.default_rng([speaker, number, len(split)])
    seconds = 0.2 + 0.2 * rng.random()
    times = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ

    label = number % len(CLASSES)
    tone = 0.2 * np.sin(
        2 * np.pi * (200 * (1 + label) + 10 * speaker) * times
    ) + 0.01 * rng.standard_normal(len(times))

    name = f"{split}-{speaker}"
    return Sample(
        key=f"{name}-{number:03d}",
        audio=encode_flac(tone.astype(np.float32)),
        audio_format="flac",
        face_features=rng.standard_normal((5, 4)).astype(np.float32) + label,
        metadata={
            "speaker": name,
            "split": split,
            "label": CLASSES[label],
            "emotion": CLASSES[label],
            "duration_seconds": len(times) / SAMPLE_RATE_HZ,
            "arousal": label + 0.1 * speaker,
            "demographics": {"sex": "female" if speaker % 2 else "male"},
        },
    )


def write_training_world(folder: Path) -> str:
    """Write one shard a split, and return the pattern that matches them."""
    return _write_splits(folder, make_utterance)


def make_film(split: str, speaker: int, number: int) -> Sample:
    """Make a film of eight pictures in which the square stays, goes to the right or goes down.

    The pictures are 48 x 32 and span 0.8 s.
    """
    rng = np.random.default_rng([speaker, number, len(split)])
    label = number % len(CLASSES)

    pictures = []
    for frame in range(8):
        picture = gray(30, width=48, height=32)
        top, left = 2 + int(rng.integers(3)), 10 + int(rng.integers(3))
        top, left = top + 2 * frame * (label == 2), left + 2 * frame * (label == 1)
        picture[top : top + 10, left : left + 10] = 150 + 10 * speaker
        pictures.append(picture)

    name = f"{split}-{speaker}"
    labels = {"label": CLASSES[label], "emotion": CLASSES[label], "duration_seconds": 0.8}
    return Sample(
        key=f"{name}-{number:03d}",
        video=encode_video(pictures, frames_per_second=10),
        video_format="mp4",
        metadata={"speaker": name, "split": split, **labels},
    )


def write_video_world(folder: Path) -> str:
    """Write one shard of films a split, and return the pattern that matches them."""
    return _write_splits(folder, make_film)


def _write_splits(folder: Path, make: Callable[[str, int, int], Sample]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        samples = [
            make(split, speaker, number) for speaker in range(6) for number in range(PER_SPEAKER)
        ]
        write_shard(folder / f"{split}-000000.tar", samples)
    return f"{folder}/*.tar"


def video_values(shards: str, out: Path, recipe: str = "setpeer", **engine: Any) -> dict[str, Any]:
    """Options of a short run on films, from nothing, with four pictures of 32 x 32."""
    values = small_values(shards, out, recipe, **engine)
    values["encoder"] |= {"num_frames": 4, "image_size": 32, "patch_size": 8}
    values["data"] |= {"modality": "video", "utterances": {"batch_seconds": 10.0}}
    return values


def heard(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the values and lengths of a batch's only input."""
    (padded,) = batch.inputs.values()
    return padded.values, padded.lengths


def classes(batch: Batch) -> Tensor:
    """Return the class of each utterance [N]."""
    return batch.targets["classes"].argmax(dim=1)


def small_values(shards: str, out: Path, recipe: str = "setpeer", **engine: Any) -> dict[str, Any]:
    """Options of a run that takes seconds."""
    values: dict[str, Any] = {
        "recipe": recipe,
        "shards": shards,
        "out": str(out),
        "encoder": {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 32},
        "data": {"sets": {"num_sets": 2, "set_size": 4}, "utterances": {"batch_seconds": 3.0}},
        "engine": {"num_steps": 12, "validate_every": 6, "checkpoint_every": 4, "log_every": 1}
        | engine,
    }

    if recipe == "setpeer":
        values["model"] = {"code_width": 8, "num_codes": 16, "num_prefixes": 2}
    return values


def small_config(shards: str, out: Path, recipe: str = "setpeer", **engine: Any) -> TrainConfig:
    """`small_values` as a configuration."""
    return from_mapping(TrainConfig, small_values(shards, out, recipe, **engine))
