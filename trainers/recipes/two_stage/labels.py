"""What a two-stage model learns: the shares of the votes of one stimulus, and their class weights.

Shapes: N utterances, C classes.
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex
from shards.loading.ratings import class_weights
from shards.loading.targets import Stimulus, TargetConfig, Targets, read_stimuli
from trainers.evaluation.multilabel.one_vs_rest import labels_of_shares

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rated:
    """Utterances whose ratings are learned.

    `shares` [N, C] are learned, and `truth` is what answers are measured against; it may be unknown
    where `shares` are not.
    """

    index: CorpusIndex
    shares: NDArray[np.float32]
    truth: Targets


def rated_utterances(
    index: CorpusIndex,
    target: TargetConfig,
    names: tuple[str, ...],
    *,
    labels: Stimulus,
    split: str,
    permuted_by: int | None = None,
) -> Rated:
    """The utterances of `index`, the split `split`, that have votes of the stimulus `labels`.

    Says how many have none. With `permuted_by`, a seed, each learns the shares of another one.
    Raises ConfigError when none has votes for one of the classes `names`.
    """
    by_stimulus = read_stimuli(index, target, names)
    learned, truth = by_stimulus[labels], by_stimulus[target.stimulus]
    rows = np.flatnonzero(learned.known)
    if not len(rows):
        raise ConfigError(
            f"model.labels: no utterance of the split {split} has votes in `ratings.{labels}` of "
            f"its json for one of {', '.join(names)}; import them with `emostream import "
            "--ratings`, or give other model.labels"
        )
    if len(rows) < len(index):
        log.warning(
            "%d of %d utterances of the split %s are left out: no %s ratings",
            len(index) - len(rows),
            len(index),
            split,
            labels,
        )

    shares = learned.array[rows]
    if permuted_by is not None:
        shares = shares[np.random.default_rng(permuted_by).permutation(len(rows))]
    return Rated(index.take(rows), shares, truth.take(rows))


def weights_of(
    shares_NC: NDArray[np.float32], names: tuple[str, ...], beta: float | None
) -> NDArray[np.float64]:
    """The weight of each class [C] by its number of training utterances above 1/C."""
    is_label_NC = labels_of_shares(shares_NC).astype(np.float32)
    return class_weights(is_label_NC, names, beta)
