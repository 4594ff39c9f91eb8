"""How far groups of people are apart, one class against the rest (two-stage-aver, section V-B).

Demographic parity compares how often a class is answered, equalized odds how often it is answered
where it is true, and where it is not: each is the largest difference of two groups, and equalized
odds is the larger of its two. Bias (Eq. 2) is the mean difference of F1 over pairs of groups.

A group in which a class is never true has no rate of true positives, so this class is judged
without the group. A rate of 0 in its place, as in fairlearn, would be a large difference made of
nothing.

Shapes: `...` any leading axes, such as resamples; K groups, C classes.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trainers.evaluation.class_figures import F1Over, bias
from trainers.evaluation.multilabel.figures import f1, macro_f1, ratio
from trainers.evaluation.multilabel.one_vs_rest import CHOSEN, HITS, NUMBER, TRUE

# What is compared class by class.
BY_CLASS = ("emotion_f1_bias", "demographic_parity", "equalized_odds")

Differences = dict[str, NDArray[np.float64]]


def rates(sums_KC: NDArray[np.float64]) -> Differences:
    """How often each class is answered [..., K, C]: in all, where it is true, where it is not.

    `sums_KC` [..., K, C, 5] are those of `count_sums`. A rate over no utterances is NaN.
    """
    number, true = sums_KC[..., NUMBER], sums_KC[..., TRUE]
    chosen, hits = sums_KC[..., CHOSEN], sums_KC[..., HITS]
    return {
        "selection_rate": _rate(chosen, number),
        "true_positive_rate": _rate(hits, true),
        "false_positive_rate": _rate(chosen - hits, number - true),
    }


def differences(
    sums_KC: NDArray[np.float64], usable_KC: NDArray[np.bool_], *, f1_over: F1Over
) -> Differences:
    """How far the groups are apart: `macro_f1_bias` [...], and each of BY_CLASS [..., C].

    Bias is in percent. `usable_KC` [K, C] says which groups are judged by which class; macro-F1
    compares the groups that are judged by every class that any group is judged by. A difference
    between fewer than two groups is NaN.
    """
    found = rates(sums_KC)
    usable_KC = usable_KC & (sums_KC[..., TRUE] > 0)
    wrongly = found["false_positive_rate"]

    odds = np.fmax(
        _largest(found["true_positive_rate"], usable_KC),
        _largest(wrongly, usable_KC & ~np.isnan(wrongly)),
    )
    return {
        "macro_f1_bias": _bias(macro_f1(sums_KC, f1_over=f1_over), is_complete(usable_KC)),
        "emotion_f1_bias": _bias(np.swapaxes(f1(sums_KC), -1, -2), np.swapaxes(usable_KC, -1, -2)),
        "demographic_parity": _largest(found["selection_rate"], usable_KC),
        "equalized_odds": odds,
    }


def is_complete(usable_KC: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which groups [..., K] are judged by every class that any group is judged by."""
    wanted_C = usable_KC.any(axis=-2, keepdims=True)
    return np.asarray((usable_KC | ~wanted_C).all(axis=-1) & usable_KC.any(axis=-1))


def over_classes(found: Mapping[str, NDArray[np.float64]]) -> Differences:
    """Each of BY_CLASS as its mean and its worst over the classes that could be judged [...]."""
    summary = {}
    for name in BY_CLASS:
        values_C = found[name]
        known_C = ~np.isnan(values_C)
        number = known_C.sum(axis=-1)
        mean = ratio(np.where(known_C, values_C, 0.0).sum(axis=-1), number.astype(np.float64))
        worst = np.where(known_C, values_C, -np.inf).max(axis=-1)

        summary[f"{name}_mean"] = np.where(number > 0, mean, np.nan)
        summary[f"{name}_worst"] = np.where(number > 0, worst, np.nan)

    return summary


def _rate(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(whole > 0, ratio(part, whole), np.nan)


def _largest(rates_KC: NDArray[np.float64], usable_KC: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The largest difference of two groups [..., C]."""
    high = np.where(usable_KC, rates_KC, -np.inf).max(axis=-2)
    low = np.where(usable_KC, rates_KC, np.inf).min(axis=-2)
    enough = usable_KC.sum(axis=-2) > 1
    return np.where(enough, np.where(enough, high, 0.0) - np.where(enough, low, 0.0), np.nan)


def _bias(figures_K: NDArray[np.float64], counted_K: NDArray[np.bool_]) -> NDArray[np.float64]:
    counted_K = np.broadcast_to(counted_K, figures_K.shape) & ~np.isnan(figures_K)
    percent = 100 * bias(np.nan_to_num(figures_K), counted_K)
    return np.where(counted_K.sum(axis=-1) > 1, percent, np.nan)
