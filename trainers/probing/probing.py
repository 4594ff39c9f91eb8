"""From labeled shards and frozen inputs to the answers of all folds: the work of `emostream probe`.

Utterances without a label take no part, and those without an input are listed with the reason.
Divisions are made before the latter are left out, so that they are the same for every method.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.config_values import to_mapping
from shards.errors import count_reasons
from shards.loading.index import CorpusIndex, read_index
from shards.loading.targets import (
    TargetConfig,
    read_targets,
    require_known_labels,
    resolve_classes,
)
from trainers.probing.config import ProbeConfig
from trainers.probing.divisions import Division, draw_subset, make_divisions
from trainers.probing.finished import utterance_name
from trainers.probing.inputs import Inputs, Origin, open_inputs
from trainers.probing.loop import Fitted, fit
from trainers.probing.results import Answers, confusion, fold_figures, summarize_answers

log = logging.getLogger(__name__)

OnFold = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What is probed: labeled utterances, their inputs, and their divisions.

    `reasons` [N] says why an utterance has no input; no division has such an utterance. `labels`
    [N] are places in `names`.
    """

    index: CorpusIndex
    names: Sequence[str]
    labels: NDArray[np.int64]
    inputs: Inputs
    origin: Origin
    divisions: Sequence[Division]
    reasons: Sequence[str | None]
    truth: str
    num_without_label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One trained head: its place among the folds and subsets, and what it answered."""

    fold: int
    subset: int
    division: Division
    fitted: Fitted


@dataclass(frozen=True, slots=True)
class Hidden:
    """The hidden vectors [N, H] of the tested utterances of the first model, and who they are.

    Vectors of two models cannot be compared, so that a map shows those of one.
    """

    vectors: NDArray[np.float32]
    utterances: pa.Table  # key, shard, speaker, truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A finished probe: the document of probe.json, its answers, and the tables beside it."""

    document: dict[str, Any]
    answers: Answers
    predictions: pa.Table
    rejected: pa.Table
    hidden: Hidden


def probe(config: ProbeConfig, on_fold: OnFold = lambda done, of: None) -> Probed:
    """Train and test a head for each division, and for each choice of training utterances.

    `on_fold` is told how many models are done. Raises ConfigError when the corpus, its labels or
    the inputs cannot be used.
    """
    material = prepare(config)
    jobs = [
        (subset, fold, division)
        for subset in range(len(config.subset_seeds))
        for fold, division in enumerate(material.divisions)
    ]

    models = []
    for done, (subset, fold, division) in enumerate(jobs):
        on_fold(done, len(jobs))
        models.append(_model(config, material, subset, fold, division))
    on_fold(len(jobs), len(jobs))

    answers, predictions = _collect(config, material, models)
    return Probed(
        document=_document(config, material, models, answers),
        answers=answers,
        predictions=predictions,
        rejected=_rejected(material),
        hidden=_hidden(material, models[0]),
    )


def prepare(config: ProbeConfig) -> Material:
    """Read labels, divide the labeled utterances, and open their inputs."""
    corpus = read_index(config.shards)
    truth = config.truth or (
        "emotion" if corpus.table["emotion"].null_count < len(corpus) else "label"
    )
    target = config.target(truth)
    names = resolve_classes(corpus, target)
    require_known_labels(corpus, target, names, "of all")
    labeled = np.flatnonzero(read_targets(corpus, target, names).known)

    index = corpus.take(labeled)
    inputs, origin = open_inputs(config, index)
    reasons = [inputs.problem(row) for row in range(len(index))]
    divisions = make_divisions(
        index, config.folds, seed=config.seed, select_on_test=config.select_on == "test"
    )

    return Material(
        index=index,
        names=names,
        labels=_labels(index, target, names),
        inputs=inputs,
        origin=origin,
        divisions=[_usable(division, reasons) for division in divisions],
        reasons=reasons,
        truth=truth,
        num_without_label=len(corpus) - len(index),
    )


def _labels(index: CorpusIndex, target: TargetConfig, names: tuple[str, ...]) -> NDArray[np.int64]:
    return read_targets(index, target, names).labels


def _usable(division: Division, reasons: Sequence[str | None]) -> Division:
    """The division without utterances that have no input."""
    has_input = np.asarray([reason is None for reason in reasons])
    parts = {
        name: getattr(division, name)[has_input[getattr(division, name)]]
        for name in ("train", "validation", "test")
    }

    for name, rows in parts.items():
        if not len(rows):
            first = next((reason for reason in reasons if reason is not None), "")
            raise ConfigError(
                f"--folds: fold {division.name} has no utterance with an input to {name}; choose "
                f"other folds, or look into the reasons ({first})"
            )
    return replace(division, **parts)


def _model(
    config: ProbeConfig, material: Material, subset: int, fold: int, division: Division
) -> Model:
    if config.num_utterances is not None:
        train = draw_subset(
            division.train,
            material.labels,
            material.index.table["key"].to_pylist(),
            config.num_utterances,
            config.subset_seeds[subset],
        )
        division = replace(division, train=train)

    fitted = fit(
        material.inputs,
        material.labels,
        len(material.names),
        division,
        config.head,
        config.training,
        seed=config.seed,
    )
    log.info(
        "fold %s: validation accuracy %.3f at %d",
        division.name,
        fitted.validation_accuracy,
        fitted.best_round,
    )
    return Model(fold=fold, subset=subset, division=division, fitted=fitted)


def _collect(
    config: ProbeConfig, material: Material, models: Sequence[Model]
) -> tuple[Answers, pa.Table]:
    """All answers, and the same as a table with one row for each."""
    rows = np.concatenate([model.division.test for model in models])
    sizes = [len(model.division.test) for model in models]
    fold, subset = (
        np.repeat([getattr(model, name) for model in models], sizes) for name in ("fold", "subset")
    )
    probs_MC = np.concatenate([model.fitted.probs_NC for model in models])

    order = np.lexsort((fold, subset, rows))
    rows, fold, subset, probs_MC = rows[order], fold[order], subset[order], probs_MC[order]
    index = material.index
    named = map(utterance_name, index.table["shard"].to_pylist(), index.table["key"].to_pylist())
    answers = Answers(
        names=material.names,
        utterance=np.asarray(list(named))[rows],
        speaker=index.speaker_of_rows.astype(str)[rows],
        subset=subset,
        fold=fold,
        truth=material.labels[rows],
        predicted=probs_MC.argmax(axis=1),
    )
    return answers, _table(config, material, answers, rows, probs_MC)


def _table(
    config: ProbeConfig,
    material: Material,
    answers: Answers,
    rows: NDArray[np.int64],
    probs_MC: NDArray[np.float32],
) -> pa.Table:
    names = np.asarray(material.names, dtype=object)
    divisions = np.asarray([division.name for division in material.divisions], dtype=object)
    seeds = np.asarray(config.subset_seeds)
    table = material.index.table.select(["key", "shard", "offset", "speaker"]).take(pa.array(rows))

    columns: dict[str, Any] = {
        "fold": pa.array(divisions[answers.fold], pa.string()),
        "subset_seed": pa.array(seeds[answers.subset], pa.int64()),
        "truth": pa.array(names[answers.truth], pa.string()),
        "predicted": pa.array(names[answers.predicted], pa.string()),
    }
    columns |= {f"score_{name}": probs_MC[:, at] for at, name in enumerate(material.names)}
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column))
    return table


def _hidden(material: Material, model: Model) -> Hidden:
    rows = model.division.test
    table = material.index.table.select(["key", "shard", "speaker"]).take(pa.array(rows))
    truth = np.asarray(material.names, dtype=object)[material.labels[rows]]
    return Hidden(
        model.fitted.hidden_NH, table.append_column("truth", pa.array(truth, pa.string()))
    )


def _rejected(material: Material) -> pa.Table:
    places = [row for row, reason in enumerate(material.reasons) if reason is not None]
    table = material.index.table.select(["key", "shard"]).take(pa.array(places, pa.int64()))
    reasons = [material.reasons[place] for place in places]
    return table.append_column("reason", pa.array(reasons, pa.string()))


def _document(
    config: ProbeConfig, material: Material, models: Sequence[Model], answers: Answers
) -> dict[str, Any]:
    """What probe.json holds."""
    index = material.index
    return {
        "name": config.name or _default_name(config, material.origin),
        "config": to_mapping(config),
        "encoder": material.origin.encoder,
        "fingerprint": material.origin.fingerprint,
        "input": config.view,
        "corpus_digest": index.digest,
        "truth": material.truth,
        "names": list(material.names),
        "selected_on": config.select_on,
        "shares_speakers": _shares_speakers(material),
        "num_parameters": models[0].fitted.num_parameters,
        "num_utterances": len(index),
        "num_speakers": len(index.speakers),
        "num_without_label": material.num_without_label,
        "rejected": count_reasons(material.reasons),
        "figures": summarize_answers(answers, seed=config.seed),
        "confusion": confusion(answers),
        "models": [_model_document(config, model) for model in models],
        "folds": [
            {"name": division.name, **fold_figures(answers, fold)}
            for fold, division in enumerate(material.divisions)
        ],
    }


def _model_document(config: ProbeConfig, model: Model) -> dict[str, Any]:
    return {
        "fold": model.division.name,
        "subset_seed": config.subset_seeds[model.subset],
        "num_train": len(model.division.train),
        "num_validation": len(model.division.validation),
        "num_test": len(model.division.test),
        "best_round": model.fitted.best_round,
        "validation_accuracy": round(model.fitted.validation_accuracy, 6),
        "layer_weights": [round(weight, 6) for weight in model.fitted.layer_weights],
    }


def _shares_speakers(material: Material) -> bool:
    """Whether a tested speaker is among the training speakers of the same model."""
    speakers = material.index.speaker_of_rows
    return any(
        bool(set(speakers[division.train]) & set(speakers[division.test]))
        for division in material.divisions
    )


def _default_name(config: ProbeConfig, origin: Origin) -> str:
    encoder = origin.encoder.rstrip("/").rpartition("/")[2]
    parts = [encoder, config.view, config.head]
    if config.layers != "last":
        parts.insert(1, config.layers)
    return ", ".join(dict.fromkeys(parts))
