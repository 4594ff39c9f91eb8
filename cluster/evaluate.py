"""`emostream evaluate`: a trained recogniser on a split, over utterances and over speakers.

Writes metrics.json and predictions.parquet. The truth is the corpus' own where it has one, else the weak label; the
metrics say which. With --pldc, predictions are calibrated by the training speakers of the same shards.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.config import ConfigError, option, to_mapping
from shards.corpus_index import CorpusIndex, read_index
from shards.storage import atomic_write

if TYPE_CHECKING:
    from trainers.models.recognizer import EmotionRecognizer  # with torch, which the help text does not need
    from trainers.predicting import Predicted

METRICS_NAME, PREDICTIONS_NAME = "metrics.json", "predictions.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Options of `emostream evaluate`."""

    checkpoint: str = option(help="Exported model: RUN/best or RUN/last.")
    shards: str = option(help="Packed shards: a glob, folder or file.")
    out: str = option(help="Folder for metrics.json and predictions.parquet.")
    split: str = option(default="test", help="Split to evaluate.")
    set_size: int = option(default=8, help="Utterances of a speaker recognised together, at most; 0: all of them.")
    support: Literal["same", "disjoint", "wrong"] = option(
        default="same",
        help="What a personalised model's speaker embedding is made from: the utterances themselves, others of the "
        "same speaker, or another speaker's (controls).",
    )
    pldc: Literal["mu", "sigma", "both"] | None = option(
        default=None, help="Calibrate predictions by similar training speakers: their label mean, spread, or both."
    )
    neighbours: int = option(default=5, help="Similar speakers PLDC averages over.")
    seed: int = option(default=0, help="Which utterances make a set.")

    def __post_init__(self) -> None:
        if self.set_size < 0:
            raise ConfigError(f"--set-size: got {self.set_size}, expected 0 or more")
        if self.neighbours < 1:
            raise ConfigError(f"--neighbours: got {self.neighbours}, expected at least 1")


def run_evaluate(config: EvaluateConfig) -> int:
    """Evaluate and print the figures."""
    metrics = evaluate(config)
    for name, value in metrics["scores"].items():
        sys.stdout.write(f"{name:28s} {_shown(value)}\n")
    sys.stdout.write(
        f"{metrics['number']} utterances of {metrics['num_speakers']} speakers, against the {metrics['truth']}; "
        f"in {config.out}\n"
    )
    return 0


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Predict, compare, write; returns what metrics.json holds."""
    from trainers.predicting import load_recognizer, predict, truth_of

    model = load_recognizer(config.checkpoint)
    names = tuple(model.config.names)
    corpus = read_index(config.shards)
    everything = corpus.split(config.split)
    targets, truth_name = truth_of(everything, names, is_values=model.config.is_values)
    known = np.flatnonzero(targets.known)
    if not len(known):
        raise ConfigError(f"--split {config.split}: no utterance has one of {', '.join(names)} as its truth")
    # All utterances of a speaker may support; those without a usable truth are only not counted.
    predicted = predict(model, everything, set_size=config.set_size, support=config.support, seed=config.seed)
    scores = predicted.scores
    if config.pldc is not None:
        scores = _calibrated(config, model, corpus, everything, predicted)
    metrics = _measure(everything.take(known), config, model, scores[known], truth_name)
    if predicted.codes is not None:
        metrics["codes_used"] = len(predicted.codes)
    _write(config, everything, names, scores, metrics)
    return metrics


def _calibrated(
    config: EvaluateConfig, model: "EmotionRecognizer", corpus: CorpusIndex, index: CorpusIndex, found: "Predicted"
) -> NDArray[np.float32]:
    from trainers.pldc import calibrate_speakers
    from trainers.predicting import predict, truth_of
    from trainers.speaker_table import SpeakerTable

    names = tuple(model.config.names)
    train = corpus.split("train")
    # The training labels are what the model learnt from: the weak ones, where there are any.
    targets, _ = truth_of(train, names, is_values=model.config.is_values)
    train = train.take(np.flatnonzero(targets.known))
    targets, _ = truth_of(train, names, is_values=model.config.is_values)
    labels = targets.values if model.config.is_values else targets.probs
    features = predict(model, train, set_size=config.set_size, seed=config.seed).features
    table = SpeakerTable.build(_speakers(train), features, labels)
    assert config.pldc is not None  # noqa: S101 (the caller asked)
    calibrated = calibrate_speakers(
        table, _speakers(index), found.features, found.scores, neighbours=config.neighbours, mode=config.pldc
    )
    return calibrated.astype(np.float32)


def _measure(
    index: CorpusIndex, config: EvaluateConfig, model: "EmotionRecognizer", scores: NDArray[np.float32], truth: str
) -> dict[str, Any]:
    from trainers.metrics import score_classes, score_values
    from trainers.predicting import truth_of

    names, is_values = tuple(model.config.names), bool(model.config.is_values)
    targets, _ = truth_of(index, names, is_values=is_values)
    found: Any
    if is_values:
        found = score_values(targets.values, scores, _speakers(index))
    else:
        found = score_classes(targets.labels, scores.argmax(axis=1), _speakers(index), names)
    details = asdict(found)
    lists: dict[str, Any] = {name: details.pop(name) for name in ("per_speaker", "confusion") if name in details}
    number = details.pop("number")
    return {
        "number": number,
        "num_speakers": len(lists["per_speaker"]),
        "truth": truth,
        "names": list(names),
        "scores": details,
        **lists,
        "config": to_mapping(config),
    }


def _write(
    config: EvaluateConfig,
    index: CorpusIndex,
    names: tuple[str, ...],
    scores: NDArray[np.float32],
    metrics: dict[str, Any],
) -> None:
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    table = index.table.select(["key", "shard", "speaker", "label", "emotion"])
    for place, name in enumerate(names):
        table = table.append_column(f"score_{name}", pa.array(scores[:, place]))
    with atomic_write(str(out / PREDICTIONS_NAME)) as stream:
        pq.write_table(table, stream)
    with atomic_write(str(out / METRICS_NAME)) as stream:
        stream.write((json.dumps(metrics, indent=2) + "\n").encode())


def _speakers(index: CorpusIndex) -> NDArray[np.object_]:
    return np.asarray(index.table["speaker"].to_pylist(), dtype=object)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return ", ".join(f"{number:.4f}" for number in value) if isinstance(value, list) else str(value)
