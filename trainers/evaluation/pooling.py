"""The evaluations of several models as one, each model with the utterances that it left out.

Figures of a cross-validation are computed over all tested utterances together. Averaging the
figures of the folds was rejected: a fold with few utterances would count as much as a large one,
and a fold that lacks a class has another macro-F1.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex
from shards.loading.targets import Targets
from trainers.evaluation.predicting import Predicted
from trainers.evaluation.target import Target


def pooled_index(indices: Sequence[CorpusIndex]) -> CorpusIndex:
    """The utterances of all models, in the order of the models.

    Raises ConfigError when an utterance was tested by two models.
    """
    whole = indices[0]
    for index in indices[1:]:
        whole = whole.followed_by(index)

    places = list(zip(*(whole.table[name].to_pylist() for name in ("shard", "key")), strict=True))
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ConfigError(
            f"--checkpoint: utterance {twice[1]} was tested by two of the models; expected models "
            "of different folds (data.folds, data.fold), each with a test split of its own"
        )
    return whole


def require_same_target(targets: Sequence[Target], truths: Sequence[str]) -> None:
    """Raise ConfigError when models learned different targets, or are compared with others."""
    for target, truth in zip(targets, truths, strict=True):
        if target.names != targets[0].names or target.learned != targets[0].learned:
            raise ConfigError(
                f"--checkpoint: got models of {', '.join(targets[0].names)} and of "
                f"{', '.join(target.names)}, or with other options of data.target; expected models "
                "that differ in their fold only (name the classes with data.target.classes)"
            )
        if truth != truths[0]:
            raise ConfigError(
                f"--checkpoint: the truth of one test split is the {truths[0]}, that of another "
                f"the {truth}; expected the same for all utterances"
            )


def pooled_truth(truths: Sequence[Targets]) -> Targets:
    """The truths of all utterances, in the order of the models."""
    return replace(truths[0], array=np.concatenate([truth.array for truth in truths]))


def pooled_predictions(parts: Sequence[Predicted]) -> Predicted:
    """What all models answered. Embeddings are left out: those of two models are not comparable."""
    before = [0, *accumulate(int(part.sets.max()) + 1 for part in parts)]

    return Predicted(
        scores=np.concatenate([part.scores for part in parts]),
        features=np.empty((sum(len(part.scores) for part in parts), 0), dtype=np.float32),
        sets=np.concatenate(
            [part.sets + first for part, first in zip(parts, before[:-1], strict=True)]
        ),
        set_embeddings=None,
        codes=None,
        answered_from=_pooled_inputs([part.answered_from for part in parts]),
    )


def _pooled_inputs(
    parts: Sequence[NDArray[np.object_] | None],
) -> NDArray[np.object_] | None:
    """The inputs of all utterances; None for models of one input."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
