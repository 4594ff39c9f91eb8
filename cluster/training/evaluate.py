"""`emostream evaluate`: a trained recogniser on a split, over utterances and over speakers.

Writes metrics.json, predictions.parquet and a page. The truth is the corpus' own where it has one, else the weak label;
the metrics say which. With --pldc, predictions are calibrated by the training speakers of the same shards.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.config import ConfigError, to_mapping
from shards.grouping import group_rows
from shards.loading.index import CorpusIndex, read_index
from shards.loading.known_speakers import known_utterances
from shards.loading.targets import Targets
from shards.storage.files import atomic_write
from trainers.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from trainers.evaluation.predicting import Predicted
    from trainers.models.recognizer import EmotionRecognizer  # with torch, which the help text does not need

CLASS_FIGURES = {
    "accuracy": "ACC",
    "speaker_accuracy": "A-ACC",
    "speaker_accuracy_std": "A-ACC std",
    "macro_f1": "F1",
    "speaker_f1": "A-F1",
    "speaker_f1_std": "A-F1 std",
}
VALUE_FIGURES = {"overall": "O-CCC", "over_speakers": "A-CCC", "over_speakers_std": "A-CCC std"}
METRICS_NAME, PREDICTIONS_NAME, PAGE_NAME = "metrics.json", "predictions.parquet", "evaluation.html"


def run_evaluate(config: EvaluateConfig) -> int:
    """Evaluate and print the figures."""
    metrics = evaluate(config)
    for name, value in papers_figures(metrics).items():
        sys.stdout.write(f"{name:28s} {value:.4f}\n")
    sys.stdout.write(
        f"{metrics['number']} utterances of {metrics['num_speakers']} speakers, against the {metrics['truth']}; "
        f"in {config.out}\n{without_truth(metrics)}"
    )
    if metrics["num_left_out"]:
        why = "training heard them" if config.known_seconds else "their speakers have no other to support them"
        sys.stdout.write(f"{metrics['num_left_out']} more are left out: {why}\n")
    return 0


def without_truth(metrics: Mapping[str, Any]) -> str:
    """A line about what could not count; nothing when all did."""
    number = metrics["num_without_truth"]
    names = ", ".join(metrics["names"])
    return f"{number} more are not counted: their {metrics['truth']} is unknown or none of {names}\n" if number else ""


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Predict, compare, write; returns what metrics.json holds."""
    from trainers.evaluation.predicting import load_recognizer, predict, truth_of

    model = load_recognizer(config.checkpoint)
    _require_unknown(config, model)
    names = tuple(model.config.names)
    corpus = read_index(config.shards)
    split = corpus.split(config.split)
    everything, num_left_out = _measured(config, split)
    columns = _columns(config, everything)
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
    metrics |= {"num_left_out": num_left_out, "num_without_truth": len(everything) - len(known)}
    metrics["split_digest"] = split.digest
    if predicted.codes is not None:
        metrics["codes_used"] = len(predicted.codes)
    _write(config, everything, targets, scores, metrics)
    _write_page(config, everything, columns, predicted, metrics)
    return metrics


def _require_unknown(config: EvaluateConfig, model: "EmotionRecognizer") -> None:
    """Raise ConfigError when the model would be measured on what it was trained on."""
    from trainers.evaluation.predicting import seconds_heard

    heard = seconds_heard(model, config.split)
    if heard and heard != config.known_seconds:
        raise ConfigError(
            f"--known-seconds: got {config.known_seconds:g}, but this model was trained on {heard:g} s of each speaker "
            f"of {config.split}; give --known-seconds {heard:g}, which leaves them out"
        )


def _measured(config: EvaluateConfig, index: CorpusIndex) -> tuple[CorpusIndex, int]:
    """The utterances to measure on, and how many of the split are left out."""
    from trainers.evaluation.predicting import can_support

    chosen = np.ones(len(index), dtype=bool)
    if config.known_seconds:
        chosen &= ~known_utterances(index, config.known_seconds)
    if config.support == "disjoint":
        chosen[np.flatnonzero(chosen)] = can_support(index.take(np.flatnonzero(chosen)))
    if not chosen.any():
        raise ConfigError(f"--support disjoint: every speaker of {config.split} has one utterance only")
    return index.take(np.flatnonzero(chosen)), int(len(index) - chosen.sum())


def _columns(config: EvaluateConfig, index: CorpusIndex) -> dict[str, list[str | None]]:
    """What the page's map is coloured by. Raises ConfigError for a field that no utterance has."""
    columns = {name: index.texts(name) for name in config.colour_by}
    for name, texts in columns.items():
        if not any(texts):
            known = ", ".join(json.loads(index.table["json"][0].as_py()))
            raise ConfigError(f"--colour-by {name}: no utterance has it in its json, where one holds {known}")
    return columns


def _write_page(
    config: EvaluateConfig,
    index: CorpusIndex,
    columns: Mapping[str, Sequence[str | None]],
    predicted: "Predicted",
    metrics: Mapping[str, Any],
) -> None:
    from cluster.pages.embedding_map import place_embeddings
    from cluster.pages.evaluation import evaluation_page

    personalised = predicted.set_embeddings is not None
    if predicted.set_embeddings is not None:
        groups, vectors = list(group_rows(predicted.sets).values()), predicted.set_embeddings
    else:
        groups = list(index.rows_by_speaker().values())
        vectors = np.stack([predicted.features[rows].mean(axis=0) for rows in groups])
    places = place_embeddings(vectors, groups, config.seed)
    page = evaluation_page(metrics, places, columns, personalised=personalised)
    with atomic_write(str(Path(config.out) / PAGE_NAME)) as stream:
        stream.write(page.encode())


def _calibrated(
    config: EvaluateConfig, model: "EmotionRecognizer", corpus: CorpusIndex, index: CorpusIndex, found: "Predicted"
) -> NDArray[np.float32]:
    from shards.speakers.pldc import calibrate_speakers
    from shards.speakers.statistics import build_speakers
    from trainers.evaluation.predicting import labels_learnt, predict, utterances_learnt

    names = tuple(model.config.names)
    train = utterances_learnt(model, corpus)
    train = train.take(np.flatnonzero(labels_learnt(model, train).known))
    targets = labels_learnt(model, train)
    labels = targets.values if model.config.is_values else targets.probs
    features = predict(model, train, set_size=config.set_size, seed=config.seed).features
    table = build_speakers(lambda: [(train.speaker_of_rows, features, labels)], names)
    assert config.pldc is not None  # noqa: S101 (the caller asked)
    calibrated = calibrate_speakers(
        table, index.speaker_of_rows, found.features, found.scores, neighbours=config.neighbours, mode=config.pldc
    )
    return calibrated.astype(np.float32)


def _measure(
    index: CorpusIndex, config: EvaluateConfig, model: "EmotionRecognizer", scores: NDArray[np.float32], truth: str
) -> dict[str, Any]:
    from trainers.evaluation.metrics import score_classes, score_values
    from trainers.evaluation.predicting import truth_of

    names, is_values = tuple(model.config.names), bool(model.config.is_values)
    targets, _ = truth_of(index, names, is_values=is_values)
    found: Any
    if is_values:
        found = score_values(targets.values, scores, index.speaker_of_rows)
    else:
        found = score_classes(targets.labels, scores.argmax(axis=1), index.speaker_of_rows, names)
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
    targets: Targets,
    scores: NDArray[np.float32],
    metrics: dict[str, Any],
) -> None:
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    table = index.table.select(["key", "shard", "speaker", "label", "emotion"])
    names = np.asarray(targets.names, dtype=object)
    if targets.is_values:
        for place, name in enumerate(targets.names):
            truth = pa.array(targets.values[:, place], from_pandas=True)  # null where it is not known
            table = table.append_column(f"truth_{name}", truth)
    else:
        truth = pa.array(names[targets.labels], pa.string(), mask=targets.labels < 0)
        table = table.append_column("truth", truth).append_column("predicted", pa.array(names[scores.argmax(axis=1)]))
    for place, name in enumerate(targets.names):
        table = table.append_column(f"score_{name}", pa.array(scores[:, place]))
    with atomic_write(str(out / PREDICTIONS_NAME)) as stream:
        pq.write_table(table, stream)
    with atomic_write(str(out / METRICS_NAME)) as stream:
        stream.write((json.dumps(metrics, indent=2) + "\n").encode())


def papers_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures of metrics.json under the papers' names: ACC, A-ACC, F1, A-F1, or O-CCC and A-CCC of each value."""
    scores = metrics["scores"]
    if "overall" not in scores:
        return {shown: float(scores[name]) for name, shown in CLASS_FIGURES.items()}
    named: dict[str, float] = {}
    for place, value in enumerate(metrics["names"]):
        named |= {f"{shown} {value}": float(scores[name][place]) for name, shown in VALUE_FIGURES.items()}
    return named
