"""Predictions drawn from a seed, and real shards and tables that hold them.

The tests of selecting and packing use them.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.samples.sample import Sample, encode_sample
from shards.selection.rule import Candidates
from shards.tables.predictions import Prediction, TableInfo, write_predictions
from shards.tar.reader import TarWriter

INFO = TableInfo(
    panel_digest="a" * 64,
    panel={"precision": "float32"},
    labelers={
        name: {"checkpoint": f"teachers/{name}", "weights": "sha256:00"}
        for name in ("audio", "vision", "text")
    },
    shard="a.tar",
    shard_url="/corpus/a.tar",
    shard_size=1024,
    shard_version="1",
    shard_error=None,
    num_rows=0,
)


def draw_distributions(
    truth: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """What a fairly good teacher says about utterances of emotion `truth`, [N, 7]."""
    logits = generator.standard_normal((len(truth), NUM_EMOTIONS))
    logits[np.arange(len(truth)), truth] += generator.exponential(2.5, len(truth))
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def draw_candidates(seed: int, num: int = 300, num_speakers: int = 6) -> Candidates:
    """Utterances of three teachers in four shards; some lack a prediction, a speaker or a truth."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(NUM_EMOTIONS, num, p=[0.5, 0.1, 0.05, 0.05, 0.2, 0.05, 0.05])
    teachers = {name: draw_distributions(truth, generator) for name in ("audio", "vision", "text")}

    for probs in teachers.values():
        probs[generator.random(num) < 0.03] = np.nan
    error = np.full(num, None, dtype=object)
    error[generator.random(num) < 0.02] = "no_face: nobody is in the picture"

    return Candidates(
        key=np.array([f"utterance-{number}" for number in range(num)], dtype=object),
        shard=np.sort(generator.integers(0, 4, num)),
        shards=("a.tar", "b.tar", "c.tar", "d.tar"),
        offset=np.arange(num) * 1024,
        speaker=generator.integers(-1, num_speakers, num),
        speakers=tuple(f"speaker-{number}" for number in range(num_speakers)),
        error=error,
        teachers=teachers,
        truth=np.where(generator.random(num) < 0.1, -1, truth),
        seconds=generator.uniform(1, 5, num),
    )


def permuted(candidates: Candidates, order: NDArray[np.int64]) -> Candidates:
    """The same utterances in another order."""
    per_row = ("key", "shard", "offset", "speaker", "error", "truth", "seconds")
    changed = {name: getattr(candidates, name)[order] for name in per_row}
    teachers = {name: probs[order] for name, probs in candidates.teachers.items()}
    return dataclasses.replace(candidates, teachers=teachers, **changed)


def one_hot(emotion: str, confidence: float = 0.94) -> NDArray[np.float32]:
    """A confident distribution."""
    probs = np.full(NUM_EMOTIONS, (1 - confidence) / (NUM_EMOTIONS - 1), dtype=np.float32)
    probs[EMOTIONS.index(emotion)] = confidence
    return probs


def write_corpus(
    folder: Path, samples: dict[str, Sequence[Sample]], *, panel_digest: str = "a" * 64
) -> None:
    """Shards of `samples` in `folder/shards`, with confident predictions of their `emotion`.

    The predictions are in `folder/predictions`.
    """
    for part in ("shards", "predictions"):
        (folder / part).mkdir(parents=True, exist_ok=True)

    for name, members in samples.items():
        path = folder / "shards" / f"{name}.tar"
        with path.open("wb") as stream, TarWriter(stream) as writer:
            places = [writer.add(sample.key, encode_sample(sample)) for sample in members]

        rows = [
            Prediction(
                key=sample.key,
                shard=path.name,
                offset=offset,
                size=size,
                speaker=sample.speaker,
                duration_seconds=2.0,
                **dict.fromkeys(("audio", "vision", "text"), one_hot(sample.emotion or "neutral")),  # type: ignore[arg-type]
                emotion=sample.emotion,
            )
            for sample, (offset, size) in zip(members, places, strict=True)
        ]

        status = path.stat()
        info = dataclasses.replace(
            INFO,
            panel_digest=panel_digest,
            shard=path.name,
            shard_url=str(path),
            shard_size=status.st_size,
            shard_version=str(status.st_mtime_ns),
            num_rows=len(rows),
        )
        write_predictions(str(folder / "predictions" / f"{name}-0123456789ab.parquet"), rows, info)


def sample(
    key: str, speaker: str, emotion: str = "neutral", *, size: int = 500, **changes: object
) -> Sample:
    """A sample whose sound is `size` bytes that nobody decodes."""
    metadata: dict[str, object] = {
        "speaker": speaker,
        "emotion": emotion,
        "language": None,
        "clip": f"{key}.wav",
    }

    fields: dict[str, object] = {
        "audio": key.encode().ljust(size, b"."),
        "audio_format": "flac",
        "transcript": "yes",
    }
    return Sample(key=key, **({"metadata": metadata} | fields | changes))  # type: ignore[arg-type]
