"""`emostream probe`: small models on frozen features, trained and tested fold by fold.

Writes OUT/predictions.parquet, rejected.parquet, map.parquet, probe.html, probe.yaml (the options)
and, last, probe.json. With --encoder, the features are made first, on Ray, in OUT/features, where a
later probe finds them. The probe itself is a plain loop in this process.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.exit_status import ExitStatus
from cluster.progress import progress
from cluster.training.fairness_lines import shown_ends, shown_number
from shards.config import ConfigError
from shards.samples.keys import printable
from shards.storage.files import atomic_write
from shards.storage.folder import Folder
from trainers.probing.config import LAYERS_KEPT, OF_TOKENS, ProbeConfig

if TYPE_CHECKING:
    # Why not at run time: they import torch, which the help text does not need.
    from trainers.probing.finished import FinishedProbe
    from trainers.probing.probing import Hidden

CONFIG_NAME, REJECTED_NAME, PAGE_NAME = "probe.yaml", "rejected.parquet", "probe.html"
FEATURES_NAME = "features"
SHOWN = {
    "accuracy": "WA",
    "unweighted_accuracy": "UA",
    "weighted_f1": "WF1",
    "macro_f1": "macro-F1",
    "f1_bias": "F1 bias",
}
RATED = {
    "macro_f1": "macro-F1",
    "weighted_f1": "WF1",
    "brier_score": "Brier",
    "calibration_error": "ECE",
}


def run_probe(config: ProbeConfig) -> int:
    """Run `emostream probe`: probe, print the figures, return the exit status."""
    if config.encoder is not None:
        status, config = _with_features(config)
        if status == ExitStatus.UNFINISHED:
            return status

    document = run_folds(config)
    sys.stdout.write("\n".join(_lines(document, config.out)) + "\n")
    return ExitStatus.DONE


def run_folds(config: ProbeConfig) -> dict[str, Any]:
    """Probe inputs that exist, write the folder, and return what probe.json holds."""
    from trainers.probing.finished import (
        MAP_NAME,
        PREDICTIONS_NAME,
        SUMMARY_NAME,
        FinishedProbe,
        read_finished,
    )
    from trainers.probing.probing import probe

    out = Path(config.out)
    others = [read_finished(other) for other in config.beside]
    folder = Folder(url=str(out), summary_name=SUMMARY_NAME, config_name=CONFIG_NAME)
    folder.make()
    folder.reopen()

    with progress("probe", "models") as update:
        probed = probe(config, lambda done, of: update(done, of))

    _write_table(out / PREDICTIONS_NAME, probed.predictions)
    _write_table(out / REJECTED_NAME, probed.rejected)
    places = _places(config, probed.hidden)
    if places is not None:
        _write_table(out / MAP_NAME, places)

    mine = FinishedProbe(document=probed.document, answers=probed.answers, places=places)
    _write_page(out / PAGE_NAME, mine, others, config.seed)
    folder.finish(config, probed.document)
    return probed.document


def _places(config: ProbeConfig, hidden: "Hidden") -> pa.Table | None:
    """The tested utterances of the first model on a plane; None when they are too few."""
    from cluster.pages.embedding_map import place_embeddings

    each = [np.asarray([row]) for row in range(len(hidden.vectors))]
    found = place_embeddings(hidden.vectors, each, config.seed, config.map)
    if found is None:
        return None

    table = hidden.utterances.take(pa.array(np.concatenate(found.rows)))
    for place, name in enumerate(("x", "y")):
        table = table.append_column(name, pa.array(found.points[:, place]))
    return table


def _write_page(
    path: Path, mine: "FinishedProbe", others: Sequence["FinishedProbe"], seed: int
) -> None:
    from cluster.pages.probe import probe_page
    from trainers.probing.results import compare_answers

    differences = [compare_answers(mine.answers, other.answers, seed=seed) for other in others]
    page = probe_page(
        [mine.document, *(other.document for other in others)],
        differences,
        [mine.places, *(other.places for other in others)],
    )
    with atomic_write(str(path)) as stream:
        stream.write(page.encode())


def _with_features(config: ProbeConfig) -> tuple[int, ProbeConfig]:
    """Make the features of --encoder, and name them in the options in place of it."""
    from cluster.jobs.features import FeaturesConfig, make_features

    if config.encoder is None:
        raise ConfigError("--encoder: got none")

    folder = f"{config.out}/{FEATURES_NAME}"
    summary = make_features(
        FeaturesConfig(
            shards=config.shards,
            encoder=config.encoder,
            revision=config.revision,
            out=folder,
            layers=LAYERS_KEPT[config.layers],
            tokens=config.view in OF_TOKENS,
            address=config.address,
        )
    )

    sys.stdout.write("\n".join(summary.job.lines("done", "without features")) + "\n")
    return summary.job.exit_status, replace(
        config, encoder=None, features=folder, input=config.view
    )


def _write_table(path: Path, table: pa.Table) -> None:
    with atomic_write(str(path)) as stream:
        pq.write_table(table, stream)


def _lines(document: Mapping[str, Any], out: str) -> Iterator[str]:
    """The figures, for a person."""
    figures = document["figures"]
    star = "*" if document["selected_on"] == "test" else ""
    yield f"{printable(document['name'], 80)}{star}: {document['num_parameters']:,} parameters"
    yield f"{'':10s} {'mean of folds':>14s}  {'pooled':>7s}  95 % over speakers   over utterances"

    for name, shown in SHOWN.items():
        folds, pooled = figures["folds"][name], figures["pooled"][name]
        yield (
            f"{shown:10s} {100 * folds['value']:14.2f}  {100 * pooled['value']:7.2f}  "
            f"{_interval(pooled['by_speaker']):18s}   {_interval(pooled['by_utterance'])}"
        )

    if "one_vs_rest" in document:
        yield from _rated_lines(document["one_vs_rest"])
    yield from _remarks(document)
    number, speakers = document["num_utterances"], document["num_speakers"]
    yield f"{number} utterances of {speakers} speakers; in {out}"


def _rated_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The figures of several labels at once, which are as they are and not in percent."""
    yield f"several labels, by the rule: {document['rule']}"
    for name, shown in RATED.items():
        entry = document["overall"][name]
        yield (
            f"{shown:10s} {'':14s}  {shown_number(entry['value'], 4):>7s}  "
            f"{shown_ends(entry['by_speaker'], 4):18s}   {shown_ends(entry['by_utterance'], 4)}"
        )


def _remarks(document: Mapping[str, Any]) -> Iterator[str]:
    if document["selected_on"] == "test":
        yield "* the best epoch was chosen on the tested utterances: these figures are too good"
    if document["shares_speakers"]:
        yield "tested speakers are among the training speakers: no figures about strangers"
    if document["num_without_label"]:
        yield f"{document['num_without_label']} more utterances have no label that counts"
    if document["conversation"] is not None:
        yield from _conversation(document["conversation"])
    for code, number in document["rejected"].items():
        yield f"left out: {number} x {code}; the reasons are in {REJECTED_NAME}"


def _conversation(found: Mapping[str, int]) -> Iterator[str]:
    yield (
        f"predicted from {found['history']} turns before; {found['num_short']} utterances have "
        "fewer, but at least 1"
    )
    if found["num_apart"]:
        yield (
            f"left out of training and validation: {found['num_apart']} utterances (summed over "
            "folds) whose dialogue is tested, or validates"
        )


def _interval(ends: list[float | None]) -> str:
    if ends[0] is None or ends[1] is None:
        return "not known"
    return f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f}"
