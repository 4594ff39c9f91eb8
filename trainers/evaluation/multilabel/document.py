"""What metrics.json says of answers class by class: F1, calibration, reliability diagram."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.evaluation.class_figures import F1Over
from trainers.evaluation.multilabel.figures import emotion_figures, overall_figures, reliability
from trainers.evaluation.multilabel.one_vs_rest import (
    NUM_BINS,
    TRUE,
    Axis,
    OneVsRest,
    count_bins,
    count_sums,
)
from trainers.evaluation.multilabel.units import Figures, Units


def one_vs_rest_document(answers: OneVsRest, units: Units, *, f1_over: F1Over) -> dict[str, Any]:
    """Figures over all classes and of each, with intervals, and the points of the diagram.

    `units` resample the same utterances.
    """

    def count(*axes: Axis) -> tuple[NDArray[np.float64], ...]:
        return count_sums(answers, *axes), count_bins(answers, *axes)

    def overall(sums_C: NDArray[np.float64], bins_C: NDArray[np.float64]) -> Figures:
        return overall_figures(sums_C, bins_C, f1_over=f1_over)

    sums_C, bins_C = count()
    by_class = units.measure(count, emotion_figures)
    return {
        "rule": answers.rule,
        "num_bins": NUM_BINS,
        "overall": units.measure(count, overall),
        "emotions": {
            name: {
                "number": int(sums_C[place, TRUE]),
                **{figure: entries[place] for figure, entries in by_class.items()},
            }
            for place, name in enumerate(answers.names)
        },
        "reliability": {
            "all": reliability(bins_C.sum(axis=0)),
            **{name: reliability(bins_C[place]) for place, name in enumerate(answers.names)},
        },
    }
