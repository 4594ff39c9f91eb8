"""What a probe works with: labeled utterances, their inputs and divisions, and trained heads.

Utterances without a label take no part. Divisions are made of all labeled ones, and only then are
those without an input left out, so that the divisions are the same for every method.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex, read_index
from shards.loading.targets import (
    Targets,
    read_targets,
    require_known_labels,
    resolve_classes,
)
from trainers.probing.config import ProbeConfig, TruthName
from trainers.probing.conversations import ConversationInputs
from trainers.probing.divisions import Division, kept_apart, make_divisions
from trainers.probing.inputs import Inputs, Origin, open_inputs
from trainers.probing.loop import Fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What is probed: labeled utterances, their inputs, and their divisions.

    `reasons` [N] says why an utterance has no input; no division has such an utterance. `labels`
    [N] are places in `names`: the likeliest classes of `targets`.
    """

    index: CorpusIndex
    names: Sequence[str]
    labels: NDArray[np.int64]
    targets: Targets
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


def prepare(config: ProbeConfig) -> Material:
    """Read labels, divide the labeled utterances, and open their inputs."""
    corpus = read_index(config.shards)
    truth: TruthName = config.truth or (
        "emotion" if corpus.table["emotion"].null_count < len(corpus) else "label"
    )
    target = config.target(truth)
    names = resolve_classes(corpus, target)
    require_known_labels(corpus, target, names, "of all")
    labeled = np.flatnonzero(read_targets(corpus, target, names).known)

    index = corpus.take(labeled)
    inputs, origin = _open(config, corpus, labeled)
    reasons = [inputs.problem(row) for row in range(len(index))]
    dialogues = inputs.dialogues if isinstance(inputs, ConversationInputs) else None
    divisions = make_divisions(
        index,
        config.folds,
        seed=config.seed,
        select_on_test=config.select_on == "test",
        dialogues=dialogues,
    )
    divisions = [_usable(division, reasons) for division in divisions]
    if dialogues is not None:
        divisions = [kept_apart(division, dialogues) for division in divisions]

    targets = read_targets(index, target, names)
    return Material(
        index=index,
        names=names,
        labels=targets.labels,
        targets=targets,
        inputs=inputs,
        origin=origin,
        divisions=divisions,
        reasons=reasons,
        truth=f"{config.stimulus} {truth}" if truth == "ratings" else truth,
        num_without_label=len(corpus) - len(index),
    )


def _open(
    config: ProbeConfig, corpus: CorpusIndex, labeled: NDArray[np.int64]
) -> tuple[Inputs, Origin]:
    """The inputs of the labeled utterances; the past may have others too."""
    if config.history is None:
        return open_inputs(config, corpus.take(labeled))

    heard, origin = open_inputs(config, corpus)
    return ConversationInputs(heard, corpus, labeled, config.history), origin


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
