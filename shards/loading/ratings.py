"""People's votes on an utterance, as counts by class, distributions and several labels at once.

`json.ratings` holds votes by stimulus: raters heard the voice alone, saw the face alone, or had
both. Everything here stays in whole numbers up to the last division. An emotion is a label of an
utterance when more than 1/C of the votes name it, and 94 cells of CREMA-D lie exactly on that
limit: in floats some of them would fall on its other side.

Source: two-stage-aver (label processing; class weights of Cui et al., "Class-Balanced Loss Based
on Effective Number of Samples", CVPR 2019).

Shapes: N utterances, C classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.emotions import class_name
from shards.samples.metadata import RATED_STIMULI, dig

STIMULI = RATED_STIMULI


def votes_by_label(
    metadata: Mapping[str, object], stimulus: str, merged: Mapping[str, str] | None = None
) -> dict[str, int]:
    """The votes of an utterance by label, in the project's spelling; empty where it is not rated.

    `metadata` is a json that `parse_metadata` accepted. Votes for "Happy" and "joy" are votes for
    happiness. A label that `merged` names counts as the class given there (`TargetConfig.merged`).
    Raises ValueError when `stimulus` is none of STIMULI.
    """
    if stimulus not in STIMULI:
        raise ValueError(f"stimulus: got {stimulus!r}, expected one of {', '.join(STIMULI)}")

    stated = dig(metadata, f"ratings.{stimulus}")
    votes: dict[str, int] = {}
    for label, number in stated.items() if isinstance(stated, Mapping) else ():
        if name := class_name(label):
            name = (merged or {}).get(name, name)
            votes[name] = votes.get(name, 0) + int(number)

    return votes


def count_votes(
    metadata: Mapping[str, object],
    stimulus: str,
    classes: Sequence[str],
    merged: Mapping[str, str] | None = None,
) -> NDArray[np.int64]:
    """The votes of an utterance for each of `classes` [C]; all 0 where it is not rated.

    Votes for other labels do not count: shares are shares of the votes for `classes`. The arguments
    are otherwise those of `votes_by_label`.
    """
    votes = votes_by_label(metadata, stimulus, merged)

    return np.asarray([votes.get(name, 0) for name in classes], dtype=np.int64)


def distributions(votes_NC: NDArray[np.int64]) -> NDArray[np.float32]:
    """The share of the votes that each class has [N, C]; NaN in rows without votes."""
    total_N1 = votes_NC.sum(axis=1, keepdims=True)

    shares_NC = votes_NC / np.maximum(total_N1, 1)
    return np.where(total_N1 > 0, shares_NC, np.nan).astype(np.float32)


def multi_hot(votes_NC: NDArray[np.int64]) -> NDArray[np.float32]:
    """The labels of each utterance [N, C]: 1 where C * votes > all votes; NaN without votes.

    A class with exactly 1/C of the votes is no label. So an utterance whose votes are spread evenly
    over all classes has no label at all.
    """
    total_N1 = votes_NC.sum(axis=1, keepdims=True)

    is_label_NC = votes_NC.shape[1] * votes_NC > total_N1
    return np.where(total_N1 > 0, is_label_NC, np.nan).astype(np.float32)


def class_weights(
    labels_NC: NDArray[np.float32], names: Sequence[str], beta: float | None = None
) -> NDArray[np.float64]:
    """The weight of each class [C], larger for rare ones; the weights sum to C.

    `labels_NC` are the labels of the training utterances (`multi_hot`); rows of NaN do not count.
    With n_c utterances that have label c, the weight is in proportion to (1 - beta) /
    (1 - beta^n_c), the inverse of the effective number of utterances (Cui et al., Eq. 2). `beta` is
    (N - 1) / N by default, as in the code that the authors of two-stage-aver published; Cui et al.
    use .9999. Raises ConfigError when a class is a label of no utterance: its weight is infinite.
    """
    rated_NC = labels_NC[np.isfinite(labels_NC).all(axis=1)]
    counts_C = rated_NC.sum(axis=0, dtype=np.float64)

    if absent := [name for name, count in zip(names, counts_C, strict=True) if count == 0]:
        raise ConfigError(
            f"ratings: {', '.join(absent)} has more than 1/{len(names)} of the votes of none of "
            f"{len(rated_NC)} rated training utterances, so it has no class weight; leave it out "
            "of data.target.classes, or merge it (data.target.merge=LABEL=CLASS)"
        )

    if beta is None:
        beta = (len(rated_NC) - 1) / len(rated_NC)
    weights_C = (1 - beta) / (1 - beta**counts_C)
    return np.asarray(weights_C * len(names) / weights_C.sum())
