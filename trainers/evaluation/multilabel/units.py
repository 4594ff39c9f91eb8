"""Figures with two intervals each, by speaker and by utterance, from one set of resamples a unit.

By speaker, the interval says how other people could differ. By utterance, it is what two-stage-aver
prints, and too narrow for that: the utterances of one speaker are alike.

Shapes: N utterances, R resamples, `...` axes of a figure, such as classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.resampling import SpeakerResamples
from trainers.evaluation.multilabel.one_vs_rest import Axis

DIGITS = 6
Figures = Mapping[str, NDArray[np.float64]]


class Counts(Protocol):
    """Sums over utterances, as several arrays that share their leading axes."""

    def __call__(self, *axes: Axis) -> tuple[NDArray[np.float64], ...]:
        """The sums for each place on `axes`."""


class Units:
    """Resamples of N utterances by speaker, and by utterance."""

    def __init__(self, speakers: NDArray[np.object_], seed: int) -> None:
        _, numbers = np.unique(speakers.astype(str), return_inverse=True)
        self._resamples = {
            "by_speaker": SpeakerResamples(numbers.astype(np.int64), seed),
            "by_utterance": SpeakerResamples(np.full(len(speakers), -1, dtype=np.int64), seed),
        }

    def measure(self, count: Counts, compute: Callable[..., Figures]) -> dict[str, Any]:
        """Each figure as {"value", "by_speaker", "by_utterance"}; a list of these for one by class.

        `compute` makes figures [..., ] of what `count` gives, for any leading axes of it. What is
        not known (NaN) is None.
        """
        exact = compute(*count())
        resampled = {
            unit: compute(*map(resamples.totals, count((resamples.group, resamples.num_groups))))
            for unit, resamples in self._resamples.items()
        }

        return {
            name: self._entry(value, {unit: found[name] for unit, found in resampled.items()})
            for name, value in exact.items()
        }

    def _entry(self, value: NDArray[np.float64], resampled: Figures) -> Any:
        if value.ndim:
            return [
                self._entry(one, {unit: values[:, place] for unit, values in resampled.items()})
                for place, one in enumerate(value)
            ]

        ends = {
            unit: list(map(rounded, self._resamples[unit].interval(values)))
            for unit, values in resampled.items()
        }
        return {"value": rounded(value), **ends}


def rounded(value: float | NDArray[np.float64]) -> float | None:
    """The value for a document; None for what is not known (NaN)."""
    return None if np.isnan(value) else round(float(value), DIGITS)
