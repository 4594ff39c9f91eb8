"""`emostream evaluate`: measure a trained recognizer on a split, over utterances and over speakers.

Writes metrics.json, predictions.parquet and a page. The truth is the true emotion where the corpus
has one, else the label, which is weak if teachers gave it; the metrics say which. With --pldc,
predictions are calibrated by the training speakers of the same shards.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.training.fairness_lines import emotion_lines, fairness_lines, shown_number
from shards.grouping import group_rows
from shards.loading.targets import shown_counts
from shards.samples.keys import printable
from shards.storage.documents import write_json
from shards.storage.files import atomic_write
from trainers.evaluation.config import METRICS_NAME, PREDICTIONS_NAME, EvaluateConfig
from trainers.evaluation.fairness.compared import GROUP_PREFIX
from trainers.evaluation.fairness.grouping import divide
from trainers.evaluation.target import Target
from trainers.evaluation.targets import target_of

if TYPE_CHECKING:
    # Why not at run time: it imports torch, which the help text does not need.
    from trainers.evaluation.measuring import Measured

PAGE_NAME = "evaluation.html"
# The inputs that an utterance had, for models that take several: sound+face, or only one of them.
ANSWERED_FROM = "answered_from"
COPIED_COLUMNS = ["key", "shard", "speaker", "label", "emotion"]


def run_evaluate(config: EvaluateConfig) -> int:
    """Run `emostream evaluate`: evaluate, and print the figures."""
    metrics = evaluate(config)
    target = target_of(metrics)
    intervals = target.shown_intervals(metrics)
    for name, value in target.figures(metrics).items():
        sys.stdout.write(f"{name:28s} {value:.4f}{_shown_interval(intervals.get(name))}\n")
    if "start" in metrics:
        moved = metrics["start"]
        sys.stdout.write(
            f"{'cosine distance from start':28s} {moved['cosine_distance']:.4f}"
            f"{_shown_interval(moved['interval'])}\n"
        )

    if target.kind == "ratings":
        for line in emotion_lines(metrics["one_vs_rest"]):
            sys.stdout.write(f"{line}\n")
    for line in _group_lines(metrics, target):
        sys.stdout.write(f"{line}\n")

    sys.stdout.write(
        f"{metrics['number']} utterances of {metrics['num_speakers']} speakers, against the "
        f"{metrics['truth']}; in {config.out}\n{without_truth(metrics)}{_over_shared(metrics)}"
    )

    if metrics.get("num_parameters"):
        sys.stdout.write(f"{metrics['num_parameters']:,} parameters in the model\n")
    if len(metrics.get("answered_from", {})) > 1:
        sys.stdout.write(f"answered from {shown_counts(metrics['answered_from'])}\n")

    if metrics["num_shared_speakers"]:
        sys.stdout.write(
            f"{metrics['num_shared_speakers']} speakers are in several splits: these are no "
            "figures about people whom the model does not know\n"
        )
    if metrics["num_left_out"]:
        why = (
            "training heard them"
            if config.known_seconds
            else "their speakers have no other utterances as support"
        )
        sys.stdout.write(f"{metrics['num_left_out']} more are left out: {why}\n")

    return 0


def _group_lines(metrics: Mapping[str, Any], target: Target) -> Iterator[str]:
    """A table for each field of --groups: a line for each of its values, and their bias."""
    for field, groups in metrics["groups"].items():
        names = [name for name in target.figures(metrics) if " std" not in name]
        yield f"{printable(field, 28):28s} {'utterances':>10s} {'speakers':>8s} " + " ".join(
            f"{name:>8s}" for name in names
        )

        for value, group in groups.items():
            figures = target.figures(group)
            yield (
                f"  {printable(value, 26):26s} {group['number']:10d} {group['num_speakers']:8d} "
                + " ".join(f"{figures[name]:{max(8, len(name))}.4f}" for name in names)
            )

        biases = metrics["group_bias"][field]
        yield f"  {'bias between groups, %':46s} " + " ".join(
            f"{shown_number(biases[name], 2):>{max(8, len(name))}s}" for name in names
        )
        if metrics.get("fairness"):
            yield from fairness_lines(metrics["fairness"], field)


def _shown_interval(ends: Sequence[float | None] | None) -> str:
    """The 95 % interval over speakers; nothing for a figure without one."""
    if ends is None or ends[0] is None or ends[1] is None:
        return ""
    return f"  (95 % over speakers: {ends[0]:.4f} to {ends[1]:.4f})"


def without_truth(metrics: Mapping[str, Any]) -> str:
    """Return a line about the utterances that could not count, empty when all could."""
    number = metrics["num_without_truth"]
    names = ", ".join(metrics["names"])
    # Metrics of before 2026-11-28 do not name the labels.
    unknown = metrics.get("unknown_truths")
    which = f" ({shown_counts(unknown)})" if unknown else ""

    return (
        f"{number} more are not counted: their {metrics['truth']} is unknown or none of "
        f"{names}{which}\n"
        if number
        else ""
    )


def _over_shared(metrics: Mapping[str, Any]) -> str:
    """A line about the classes of another corpus, empty where that is not asked for."""
    if "other_corpus" not in metrics:
        return ""
    found = metrics["other_corpus"]
    shared = f"another corpus, over the classes that the model shares: {', '.join(found['shared'])}"
    if not found["dropped"]:
        return f"{shared}; it has all of the model's\n"

    return (
        f"{shared}; scores of {', '.join(found['dropped'])} are dropped and the rest is "
        f"renormalized ({found['num_dropped_answers']} utterances would have been one of these)\n"
    )


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Predict, compare and write; return what metrics.json holds."""
    from trainers.evaluation.measuring import measure

    measured = measure(config)
    _write(Path(config.out), measured, config.groups)
    _write_page(config, measured)

    return measured.metrics


def _write(out: Path, measured: "Measured", groups: Sequence[str]) -> None:
    """Write metrics.json and predictions.parquet, with a column for each field of `groups`."""
    table = measured.index.table.select(COPIED_COLUMNS)
    for name, column in measured.target.columns(measured.truth, measured.answers).items():
        table = table.append_column(name, column)
    if measured.start_distances is not None:
        table = table.append_column("start_distance", pa.array(measured.start_distances))
    for grouping in (divide(measured.index, field) for field in groups):
        names = np.asarray(grouping.names, dtype=object)
        table = table.append_column(
            f"{GROUP_PREFIX}{grouping.field}", pa.array(names[grouping.place], pa.string())
        )
    if measured.predicted.answered_from is not None:
        inputs = pa.array(measured.predicted.answered_from, pa.string())
        table = table.append_column(ANSWERED_FROM, inputs)

    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(str(out / PREDICTIONS_NAME)) as stream:
        pq.write_table(table, stream)
    write_json(str(out / METRICS_NAME), measured.metrics)


def _write_page(config: EvaluateConfig, measured: "Measured") -> None:
    from cluster.pages.embedding_map import place_embeddings
    from cluster.pages.evaluation import evaluation_page

    predicted = measured.predicted
    personalized = predicted.set_embeddings is not None
    if predicted.set_embeddings is not None:
        groups, vectors = list(group_rows(predicted.sets).values()), predicted.set_embeddings
    else:
        groups = list(measured.index.rows_by_speaker().values())
        vectors = np.stack([predicted.features[rows].mean(axis=0) for rows in groups])

    # The embeddings of several models cannot be compared.
    is_pooled = len(config.checkpoint) > 1
    places = None if is_pooled else place_embeddings(vectors, groups, config.seed)
    page = evaluation_page(
        measured.metrics, measured.target.kind, places, measured.colors, personalized=personalized
    )
    with atomic_write(str(Path(config.out) / PAGE_NAME)) as stream:
        stream.write(page.encode())
