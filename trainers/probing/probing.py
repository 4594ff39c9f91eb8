"""From labeled shards and frozen inputs to the answers of all folds: the work of `emostream probe`.

The answers are kept as a table with one row for each, so that every figure can be computed again;
utterances without an input are listed with the reason.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.loading.subsets import draw_subset
from trainers.probing.config import ProbeConfig
from trainers.probing.divisions import Division
from trainers.probing.document import probe_document
from trainers.probing.finished import utterance_name
from trainers.probing.loop import fit
from trainers.probing.material import Material, Model, prepare
from trainers.probing.results import Answers

log = logging.getLogger(__name__)

OnFold = Callable[[int, int], None]


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
        for subset in range(len(config.subset_seed))
        for fold, division in enumerate(material.divisions)
    ]

    models = []
    for done, (subset, fold, division) in enumerate(jobs):
        on_fold(done, len(jobs))
        models.append(_model(config, material, subset, fold, division))
    on_fold(len(jobs), len(jobs))

    answers, predictions = _collect(config, material, models)
    return Probed(
        document=probe_document(config, material, models, answers),
        answers=answers,
        predictions=predictions,
        rejected=_rejected(material),
        hidden=_hidden(material, models[0]),
    )


def _model(
    config: ProbeConfig, material: Material, subset: int, fold: int, division: Division
) -> Model:
    if config.num_utterances is not None:
        train = draw_subset(
            division.train,
            material.labels,
            material.index.table["key"].to_pylist(),
            config.num_utterances,
            config.subset_seed[subset],
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
        shares_NC=material.targets.array if material.targets.kind == "ratings" else None,
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
    seeds = np.asarray(config.subset_seed)
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
