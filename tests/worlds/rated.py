"""Packed shards of tones and faces with people's votes, of six speakers a split.

The tone and the face both tell the class. Those who heard the voice alone vote as the tone says,
those who saw the face as the face says, each with one vote for another class.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from shards.config_values import from_mapping
from shards.samples.sample import Sample
from tests.worlds.small import write_shard
from tests.worlds.training import CLASSES, PER_SPEAKER, make_utterance, small_values
from trainers.config import TrainConfig

SMALL = {
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "feed_forward": 32,
    "head_width": 16,
    "dropout": 0.1,
}
RATED = {"kind": "ratings"}
Change = Callable[[Sample], Sample]


def votes(label: int, other: int) -> dict[str, int]:
    """Ratings of five people, one of whom has another opinion."""
    counts = dict.fromkeys(CLASSES, 0)
    counts[CLASSES[label]] += 4
    counts[CLASSES[other]] += 1
    return counts


def make_rated(split: str, speaker: int, number: int) -> Sample:
    """Make an utterance with ratings by voice, face and both."""
    sample = make_utterance(split, speaker, number)
    label, others = number % len(CLASSES), (number + 1, number + 2, number + speaker)
    ratings = {
        stimulus: votes(label, other % len(CLASSES))
        for stimulus, other in zip(("voice", "face", "audiovisual"), others, strict=True)
    }
    return replace(sample, metadata=sample.metadata | {"ratings": ratings})


def write_rated_world(folder: Path, *, change: Change = lambda sample: sample) -> str:
    """Write one shard a split, and return the pattern that matches them.

    `change` changes samples of the split test, for example by taking their faces away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        samples = [
            make_rated(split, speaker, number)
            for speaker in range(6)
            for number in range(PER_SPEAKER)
        ]
        if split == "test":
            samples = [change(sample) for sample in samples]
        write_shard(folder / f"{split}-000000.tar", samples)

    return f"{folder}/*.tar"


def rated_values(shards: str, out: Path, *, data: Any = None, **model: Any) -> dict[str, Any]:
    """Options of a run of `two-stage` that takes seconds."""
    values = small_values(
        shards, out, "two-stage", num_steps=30, validate_every=10, learning_rate=1e-2
    )
    values["data"] = {"target": RATED, "utterances": {"max_utterances": 12}} | (data or {})
    if "branches" in model:
        del values["encoder"]
        values["model"] = {"head_width": 16, **model}
    else:
        values["model"] = SMALL | model
        if model.get("inputs") == "face":
            del values["encoder"]

    return values


def rated_config(shards: str, out: Path, *, data: Any = None, **model: Any) -> TrainConfig:
    """`rated_values` as a configuration."""
    return from_mapping(TrainConfig, rated_values(shards, out, data=data, **model))
