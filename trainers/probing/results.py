"""The figures of a probe: mean over folds and pooled, with intervals, and against another probe.

Published figures are means of the folds' figures; pooled ones are computed once over all tested
utterances. Both are functions of confusion counts by fold, so one set of resamples gives the
intervals of both, by speaker or by utterance. In a resample, a fold weighs as many times as its
utterances are drawn on average: where each speaker is a fold, that is how often the speaker was
drawn.

Two probes that tested the same utterances are compared in the same resamples, so that the interval
is that of their difference.

Shapes: M answers, R resamples, S choices of training utterances, F folds, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.resampling import SpeakerResamples
from trainers.evaluation.class_figures import FIGURES, class_figures, confusion_counts

UNITS = ("speaker", "utterance")
MEANS = ("folds", "pooled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What all models of a probe answered: M of them, sorted by utterance, subset and fold.

    `utterance` [M] names an utterance by its shard and key. `subset` [M] is the number of the
    choice of training utterances, and `fold` [M] that of the division; `truth` and `predicted` [M]
    are places in `names`.
    """

    names: Sequence[str]
    utterance: NDArray[np.str_]
    speaker: NDArray[np.str_]
    subset: NDArray[np.int64]
    fold: NDArray[np.int64]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]

    def counts(self, resamples: SpeakerResamples) -> NDArray[np.float64]:
        """Confusion counts [G, S, F, C, C] of the groups of `resamples`."""
        axes = (
            (resamples.group, resamples.num_groups),
            (self.subset, int(self.subset.max()) + 1),
            (self.fold, int(self.fold.max()) + 1),
        )
        return confusion_counts(self.truth, self.predicted, len(self.names), *axes)


def summarize_answers(answers: Answers, *, seed: int) -> dict[str, Any]:
    """The figures and their intervals: {"folds" | "pooled": {figure: {...}}}.

    Each figure has its `value`, `std` over the folds' figures (None with one fold; not of pooled
    figures), and `by_speaker` and `by_utterance`: [low, high], None where an end is not known.
    """
    resampled = {unit: _resampled(answers, unit, seed) for unit in UNITS}
    exact = _figures(_totals(answers), _totals(answers))
    spreads = _spreads(answers)

    return {
        mean: {
            name: {
                "value": round(float(exact[mean][name][0]), 6),
                "std": spreads[name] if mean == "folds" else None,
                **{f"by_{unit}": _interval(*resampled[unit], mean, name) for unit in UNITS},
            }
            for name in FIGURES
        }
        for mean in MEANS
    }


def compare_answers(mine: Answers, theirs: Answers, *, seed: int) -> dict[str, Any] | None:
    """The differences of figures, mine minus theirs, in the form of `summarize_answers`.

    None when the two probes did not test the same utterances in the same folds.
    """
    if not _is_paired(mine, theirs):
        return None

    found: dict[str, Any] = {mean: {name: {} for name in FIGURES} for mean in MEANS}
    exact = [_figures(_totals(one), _totals(one)) for one in (mine, theirs)]
    for mean in MEANS:
        for name in FIGURES:
            difference = float(exact[0][mean][name][0] - exact[1][mean][name][0])
            found[mean][name] = {"value": round(difference, 6)}

    for unit in UNITS:
        resamples, here = _resampled(mine, unit, seed)
        _, there = _resampled(theirs, unit, seed)
        for mean in MEANS:
            for name in FIGURES:
                apart_R = here[mean][name] - there[mean][name]
                found[mean][name][f"by_{unit}"] = _ends(resamples, apart_R)

    return found


def fold_figures(answers: Answers, fold: int) -> dict[str, float]:
    """The figures of one fold, the mean over the choices of training utterances."""
    totals_SCC = _totals(answers)[0, :, fold]
    return {
        name: round(float(values.mean()), 6) for name, values in class_figures(totals_SCC).items()
    }


def confusion(answers: Answers) -> list[list[int]]:
    """The counts of truth by prediction over all answers."""
    counts = confusion_counts(answers.truth, answers.predicted, len(answers.names))
    table: list[list[int]] = counts.astype(int).tolist()
    return table


Figures = Mapping[str, Mapping[str, NDArray[np.float64]]]


def _figures(totals_RSFCC: NDArray[np.float64], base_1SFCC: NDArray[np.float64]) -> Figures:
    """Both means [R] of every figure; `base_1SFCC` are the counts without resampling."""
    drawn_RSF = totals_RSFCC.sum(axis=(-1, -2)) / base_1SFCC.sum(axis=(-1, -2))
    by_fold = class_figures(totals_RSFCC)
    pooled = class_figures(totals_RSFCC.sum(axis=2))

    # A fold of which nothing was drawn has no figure, and weighs nothing.
    folds = {
        name: (np.nan_to_num(values) * drawn_RSF).sum(axis=2) / drawn_RSF.sum(axis=2)
        for name, values in by_fold.items()
    }
    return {
        "folds": {name: values.mean(axis=1) for name, values in folds.items()},
        "pooled": {name: values.mean(axis=1) for name, values in pooled.items()},
    }


def _totals(answers: Answers) -> NDArray[np.float64]:
    """The counts [1, S, F, C, C] of all answers, each once."""
    axes = (
        (np.zeros(len(answers.truth), dtype=np.int64), 1),
        (answers.subset, int(answers.subset.max()) + 1),
        (answers.fold, int(answers.fold.max()) + 1),
    )
    return confusion_counts(answers.truth, answers.predicted, len(answers.names), *axes)


def _resampled(answers: Answers, unit: str, seed: int) -> tuple[SpeakerResamples, Figures]:
    """The figures in resamples of speakers or utterances; equal units give equal resamples."""
    units = answers.speaker if unit == "speaker" else answers.utterance
    number = np.unique(units, return_inverse=True)[1].astype(np.int64)
    resamples = SpeakerResamples(number, seed)
    totals_RSFCC = resamples.totals(answers.counts(resamples))
    return resamples, _figures(totals_RSFCC, _totals(answers))


def _spreads(answers: Answers) -> dict[str, float | None]:
    """The sample standard deviation of the folds' figures, the mean over the subsets."""
    by_fold = class_figures(_totals(answers)[0])
    return {
        name: round(float(values.std(axis=1, ddof=1).mean()), 6) if values.shape[1] > 1 else None
        for name, values in by_fold.items()
    }


def _is_paired(mine: Answers, theirs: Answers) -> bool:
    if tuple(mine.names) != tuple(theirs.names):
        return False
    columns = ("utterance", "speaker", "subset", "fold", "truth")
    return all(np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in columns)


def _interval(
    resamples: SpeakerResamples, figures: Figures, mean: str, name: str
) -> list[float | None]:
    return _ends(resamples, figures[mean][name])


def _ends(resamples: SpeakerResamples, values_R: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(end) else round(end, 6) for end in resamples.interval(values_R)]
