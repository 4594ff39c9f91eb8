"""The figures of several labels at once, as functions of sums over utterances.

F1 and its means are those of scikit-learn for multi-label targets. The Brier score is Eq. 1 of
two-stage-aver. The calibration error is that of Guo et al. (2017) for each class against the rest,
averaged over the classes: the mean distance between what was answered and how often it was true,
over NUM_BINS bins of equal width, each weighed by its utterances.

Shapes: `...` any leading axes, such as resamples or groups; C classes, B bins.
"""

import numpy as np
from numpy.typing import NDArray

from trainers.evaluation.class_figures import F1Over
from trainers.evaluation.multilabel.one_vs_rest import (
    CHOSEN,
    HITS,
    IN_BIN,
    NUMBER,
    PROBABILITY,
    SQUARED,
    TRUE,
    TRUE_IN_BIN,
)

Figures = dict[str, NDArray[np.float64]]


def emotion_figures(sums_C: NDArray[np.float64], bins_C: NDArray[np.float64]) -> Figures:
    """The figures of each class [..., C]: `f1`, `brier_score` and `calibration_error`.

    `sums_C` [..., C, 5] are those of `count_sums`, `bins_C` [..., C, B, 3] those of `count_bins`.
    The F1 of a class that is neither true nor chosen is 0, as in scikit-learn. Without any
    utterance a figure is NaN.
    """
    number_C = sums_C[..., NUMBER]
    apart_CB = np.abs(bins_C[..., PROBABILITY] - bins_C[..., TRUE_IN_BIN])

    found = {
        "f1": f1(sums_C),
        "brier_score": ratio(sums_C[..., SQUARED], number_C),
        "calibration_error": ratio(apart_CB.sum(axis=-1), number_C),
    }
    return {name: np.where(number_C > 0, values, np.nan) for name, values in found.items()}


def overall_figures(
    sums_C: NDArray[np.float64], bins_C: NDArray[np.float64], *, f1_over: F1Over = "present"
) -> Figures:
    """The figures over all classes [...]: `macro_f1`, `weighted_f1` and means of the others.

    Macro-F1 is over the classes that are true or chosen anywhere (`present`), or over all
    (`classes`). Weighted F1 weighs a class by the utterances of which it is true.
    """
    of_emotions = emotion_figures(sums_C, bins_C)
    f1_C = of_emotions["f1"]

    return {
        "macro_f1": _macro(sums_C, f1_C, f1_over),
        "weighted_f1": _weighted(sums_C, f1_C),
        "brier_score": of_emotions["brier_score"].mean(axis=-1),
        "calibration_error": of_emotions["calibration_error"].mean(axis=-1),
    }


def f1(sums_C: NDArray[np.float64]) -> NDArray[np.float64]:
    """The F1 of each class [..., C]; 0 where it is neither true nor chosen."""
    return ratio(2 * sums_C[..., HITS], sums_C[..., CHOSEN] + sums_C[..., TRUE])


def macro_f1(sums_C: NDArray[np.float64], *, f1_over: F1Over = "present") -> NDArray[np.float64]:
    """The mean F1 over the classes [...]; NaN without utterances."""
    return _macro(sums_C, f1(sums_C), f1_over)


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """`part / whole`, and 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def reliability(bins: NDArray[np.float64]) -> list[dict[str, float]]:
    """The points of a reliability diagram, from the sums [B, 3] of its bins that are not empty.

    Each has the `number` of the bin's answers, their mean `probability`, and the share `true`.
    """
    return [
        {
            "number": int(one[IN_BIN]),
            "probability": round(float(one[PROBABILITY] / one[IN_BIN]), 6),
            "true": round(float(one[TRUE_IN_BIN] / one[IN_BIN]), 6),
        }
        for one in bins
        if one[IN_BIN]
    ]


def _macro(
    sums_C: NDArray[np.float64], f1_C: NDArray[np.float64], f1_over: F1Over
) -> NDArray[np.float64]:
    involved_C = sums_C[..., CHOSEN] + sums_C[..., TRUE]
    counted_C = involved_C > 0 if f1_over == "present" else np.ones_like(involved_C, dtype=bool)

    # Utterances without any class, true or chosen, have a macro-F1 of 0; none at all have NaN.
    total = np.where(counted_C, f1_C, 0.0).sum(axis=-1)
    return np.where(_is_empty(sums_C), np.nan, total / np.maximum(counted_C.sum(axis=-1), 1))


def _weighted(sums_C: NDArray[np.float64], f1_C: NDArray[np.float64]) -> NDArray[np.float64]:
    true_C = sums_C[..., TRUE]
    total = np.where(true_C > 0, true_C * f1_C, 0.0).sum(axis=-1)
    return np.where(_is_empty(sums_C), np.nan, ratio(total, true_C.sum(axis=-1)))


def _is_empty(sums_C: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(sums_C[..., NUMBER].max(axis=-1) == 0)
