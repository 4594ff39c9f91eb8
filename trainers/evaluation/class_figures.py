"""The figures of classes as functions of confusion counts, of one corpus or of all its resamples.

Counts add up over utterances, speakers and folds, so that whoever has the counts has every figure.
The names are those of emotion2vec (Tables 2 to 11): weighted accuracy (WA) is the share of
utterances that are right, unweighted accuracy (UA) the mean recall over classes, and weighted F1
(WF1) the mean of the classes' F1, each weighed by its number of utterances.

Shapes: `...` any leading axes, such as resamples or folds; C classes.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

F1Over = Literal["present", "classes"]
FIGURES = ("accuracy", "unweighted_accuracy", "weighted_f1", "macro_f1", "f1_bias")


def class_figures(
    counts_CC: NDArray[np.float64], *, f1_over: F1Over = "present"
) -> dict[str, NDArray[np.float64]]:
    """Every figure of FIGURES [...], from the counts [..., C, C] of truth by prediction.

    Macro-F1 and F1 bias are over the classes that occur in the truth or in the predictions
    (`present`), or over all (`classes`), where a class that nobody has counts 0. A figure without
    any utterance is NaN.
    """
    truth_C, predicted_C = counts_CC.sum(axis=-1), counts_CC.sum(axis=-2)
    right_C = np.diagonal(counts_CC, axis1=-2, axis2=-1)
    number = truth_C.sum(axis=-1)

    involved_C = truth_C + predicted_C
    counted_C = involved_C > 0 if f1_over == "present" else np.ones_like(involved_C, dtype=bool)
    recall_C, f1_C = _ratio(right_C, truth_C), _ratio(2 * right_C, involved_C)

    found = {
        "accuracy": right_C.sum(axis=-1) / np.where(number > 0, number, 1.0),
        "unweighted_accuracy": _mean(recall_C, truth_C > 0),
        "weighted_f1": (truth_C * f1_C).sum(axis=-1) / np.where(number > 0, number, 1.0),
        "macro_f1": _mean(f1_C, counted_C),
        "f1_bias": bias(f1_C, counted_C),
    }
    return {name: np.where(number > 0, values, np.nan) for name, values in found.items()}


def bias(
    figures_G: NDArray[np.float64], counted_G: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """The mean over pairs of groups of the absolute difference of their figures [..., G].

    With the F1 of classes for `figures_G`, this is F1 bias (multimodal-adaptive-pretraining,
    section IV-E); with a figure of groups of people, it is the bias of two-stage-aver (Eq. 2).
    Groups that `counted_G` leaves out take no part. It is 0 where fewer than two groups are left.
    """
    counted_G = np.ones_like(figures_G, dtype=bool) if counted_G is None else counted_G
    apart_GG = np.abs(figures_G[..., :, None] - figures_G[..., None, :])
    both_GG = counted_G[..., :, None] & counted_G[..., None, :]

    # Both orders of a pair are in the square, and the diagonal is 0.
    number = counted_G.sum(axis=-1)
    pairs = np.maximum(number * (number - 1), 1)
    return np.asarray(np.where(both_GG, apart_GG, 0.0).sum(axis=(-2, -1)) / pairs)


def confusion_counts(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    num_classes: int,
    *axes: tuple[NDArray[np.int64], int],
) -> NDArray[np.float64]:
    """The counts [..., C, C] of N utterances, of truth by prediction.

    Each of `axes` is a leading axis: the place of each utterance [N] on it, and its length.
    """
    shape = (*(length for _, length in axes), num_classes, num_classes)
    cells = np.ravel_multi_index((*(places for places, _ in axes), truth, predicted), shape)
    counts = np.bincount(cells, minlength=int(np.prod(shape)))
    return np.asarray(counts.reshape(shape).astype(np.float64))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """`part / whole`, and 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def _mean(values_C: NDArray[np.float64], counted_C: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean over the classes that count, 0 where none does."""
    total = np.where(counted_C, values_C, 0.0).sum(axis=-1)
    return np.asarray(total / np.maximum(counted_C.sum(axis=-1), 1))
