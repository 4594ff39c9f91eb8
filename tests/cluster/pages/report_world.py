"""A selection folder without models: predictions are drawn at random for a real corpus of tars."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.samples.sample import Sample, parse_sample
from shards.selection.job import select
from shards.selection.rule import SelectConfig
from shards.storage.files import open_ranged
from shards.tables.predictions import Prediction, TableInfo, write_predictions
from shards.tar.reader import SampleEntry, index_shard, read_members

# Log-odds that a teacher gives the truth over the other emotions.
SKILL = {"text": 1.6, "vision": 1.5, "audio": 1.0}
NOISE = 1.0
DIGEST = "0123456789abcdef" * 4


@dataclass(frozen=True, slots=True)
class Selected:
    """The folders of the shards, the predictions and the selection."""

    shards: Path
    predictions: Path
    selection: Path


def make_selected(
    root: Path, shards: Path, *, with_truth: bool = True, **options: object
) -> Selected:
    """Draw predictions for every shard in `shards`, and select from them with `options`."""
    predictions = root / "predictions"
    predictions.mkdir(parents=True)

    for number, path in enumerate(sorted(shards.glob("*.tar"))):
        write_table(
            path,
            predictions / f"{path.stem}-0123456789ab.parquet",
            seed=number,
            with_truth=with_truth,
        )

    settings = {"teachers": ("text", "vision"), "min_per_speaker": 2} | options
    select(SelectConfig(predictions=str(predictions), out=str(root / "selection"), **settings))  # type: ignore[arg-type]

    return Selected(shards, predictions, root / "selection")


def write_table(shard: Path, url: Path, *, seed: int, with_truth: bool = True) -> None:
    """Write the prediction table of one shard."""
    generator = np.random.default_rng(seed)
    with open_ranged(str(shard)) as reader:
        index = index_shard(reader)
        rows = [
            _row(
                shard.name,
                entry,
                parse_sample(entry.key, read_members(reader, entry)),
                generator,
                with_truth,
            )
            for entry in index.entries
        ]

    info = TableInfo(
        panel_digest="0" * 64,
        panel={},
        labelers={
            name: {"checkpoint": f"teachers/{name}", "weights": f"sha256:{DIGEST}"}
            for name in SKILL
        },
        shard=shard.name,
        shard_url=str(shard),
        shard_size=shard.stat().st_size,
        shard_version="1",
        shard_error=index.error,
        num_rows=len(rows),
    )

    write_predictions(str(url), rows, info)


def _row(
    shard: str, entry: SampleEntry, sample: Sample, generator: np.random.Generator, with_truth: bool
) -> Prediction:
    place = {"key": entry.key, "shard": shard, "offset": entry.offset, "size": entry.size}
    if generator.random() < 0.02:
        return Prediction(
            **place, speaker=sample.speaker, error="corrupt_audio: the flac stream ends in a frame"
        )

    truth = EMOTIONS.index(sample.emotion or "neutral")
    return Prediction(
        **place,
        speaker=sample.speaker,
        duration_seconds=1.3,
        **{name: _draw(truth, skill, generator) for name, skill in SKILL.items()},  # type: ignore[arg-type]
        transcript=sample.transcript,
        emotion=sample.emotion if with_truth else None,
    )


def _draw(truth: int, skill: float, generator: np.random.Generator) -> NDArray[np.float32]:
    logits = generator.standard_normal(NUM_EMOTIONS) * NOISE
    logits[truth] += skill * generator.exponential(1.6)
    weights = np.exp(logits * 1.3)
    return np.asarray(weights / weights.sum(), dtype=np.float32)
