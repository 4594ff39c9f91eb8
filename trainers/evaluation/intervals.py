"""95 % intervals over speakers for the figures of an evaluation, from one set of resamples.

Every figure is a function of sums that add up over speakers: confusion counts, the moments of
values, and the speakers' own figures with their number.

Shapes: N utterances, G groups of speakers, R resamples, C classes, V values.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shards.resampling import SpeakerResamples
from trainers.evaluation.class_figures import F1Over, class_figures, confusion_counts
from trainers.evaluation.metrics import ClassScores, RatedScores, ValueScores
from trainers.evaluation.multilabel.figures import overall_figures
from trainers.evaluation.multilabel.one_vs_rest import OneVsRest, count_bins, count_sums

Interval = list[float | None]


def class_intervals(
    scores: ClassScores,
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    speakers: NDArray[np.object_],
    *,
    f1_over: F1Over,
    seed: int,
) -> dict[str, Interval]:
    """[low, high] of each figure of `scores`, which compare `predicted` [N] with `truth` [N].

    None stands for an end that is not known, because there is only one speaker.
    """
    resamples, figures = class_resamples(
        scores, truth, predicted, speakers, f1_over=f1_over, seed=seed
    )
    return {name: _ends(resamples, values) for name, values in figures.items()}


def class_resamples(
    scores: ClassScores,
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    speakers: NDArray[np.object_],
    *,
    f1_over: F1Over,
    seed: int,
) -> tuple[SpeakerResamples, dict[str, NDArray[np.float64]]]:
    """The resamples of the speakers, and each figure of `class_intervals` in each of them [R]."""
    resamples, names = _resamples(speakers, seed)
    by_group = (resamples.group, resamples.num_groups)
    counts_GCC = confusion_counts(truth, predicted, len(scores.confusion), by_group)

    figures = class_figures(resamples.totals(counts_GCC), f1_over=f1_over)
    for figure, field in (("speaker_accuracy", "accuracy"), ("speaker_f1", "f1")):
        own = {name: getattr(mine, field) for name, mine in scores.per_speaker.items()}
        figures[figure] = _over_speakers(resamples, names, own)

    return resamples, figures


def rating_intervals(
    scores: RatedScores,
    answers: OneVsRest,
    speakers: NDArray[np.object_],
    *,
    f1_over: F1Over,
    seed: int,
) -> dict[str, Interval]:
    """[low, high] of each figure of `scores`, which are those of `answers`."""
    resamples, figures = rating_resamples(scores, answers, speakers, f1_over=f1_over, seed=seed)
    return {name: _ends(resamples, values) for name, values in figures.items()}


def rating_resamples(
    scores: RatedScores,
    answers: OneVsRest,
    speakers: NDArray[np.object_],
    *,
    f1_over: F1Over,
    seed: int,
) -> tuple[SpeakerResamples, dict[str, NDArray[np.float64]]]:
    """The resamples of the speakers, and each figure of `rating_intervals` in each of them [R]."""
    resamples, names = _resamples(speakers, seed)
    by_group = (resamples.group, resamples.num_groups)
    sums_R = resamples.totals(count_sums(answers, by_group))
    bins_R = resamples.totals(count_bins(answers, by_group))

    figures = overall_figures(sums_R, bins_R, f1_over=f1_over)
    own = {name: mine.f1 for name, mine in scores.per_speaker.items()}
    figures["speaker_f1"] = _over_speakers(resamples, names, own)
    return resamples, figures


def value_intervals(
    scores: ValueScores,
    truth: NDArray[np.float32],
    predicted: NDArray[np.float32],
    speakers: NDArray[np.object_],
    *,
    seed: int,
) -> dict[str, list[Interval]]:
    """[low, high] of each value's CCC in `scores`, overall and over speakers."""
    resamples, figures = value_resamples(scores, truth, predicted, speakers, seed=seed)
    return {
        name: [_ends(resamples, values_R) for values_R in values_RV.T]
        for name, values_RV in figures.items()
    }


def value_resamples(
    scores: ValueScores,
    truth: NDArray[np.float32],
    predicted: NDArray[np.float32],
    speakers: NDArray[np.object_],
    *,
    seed: int,
) -> tuple[SpeakerResamples, dict[str, NDArray[np.float64]]]:
    """The resamples of the speakers, and the figures of `value_intervals` in each of them [R,V]."""
    resamples, names = _resamples(speakers, seed)
    # The CCC does not change with the origin, and moments about the middle lose no digits.
    middle = truth.mean(axis=0, dtype=np.float64)
    t, p = truth.astype(np.float64) - middle, predicted.astype(np.float64) - middle

    moments_NVS = np.stack([np.ones_like(t), t, p, t * t, p * p, t * p], axis=-1)
    moments_GVS = np.zeros((resamples.num_groups, *moments_NVS.shape[1:]))
    np.add.at(moments_GVS, resamples.group, moments_NVS)
    overall_RV = _concordance(resamples.totals(moments_GVS))

    over_speakers = [
        _over_speakers(
            resamples, names, {name: mine.ccc[place] for name, mine in scores.per_speaker.items()}
        )
        for place in range(truth.shape[1])
    ]
    return resamples, {
        "overall": overall_RV,
        "over_speakers": np.stack(over_speakers, axis=1),
    }


def _resamples(
    speakers: NDArray[np.object_], seed: int
) -> tuple[SpeakerResamples, Mapping[str, int]]:
    """The resamples, and the group of each speaker."""
    distinct, number = np.unique(speakers.astype(str), return_inverse=True)
    resamples = SpeakerResamples(number.astype(np.int64), seed)

    first = {int(speaker): place for place, speaker in reversed(list(enumerate(number)))}
    groups = {str(name): int(resamples.group[first[n]]) for n, name in enumerate(distinct)}
    return resamples, groups


def _over_speakers(
    resamples: SpeakerResamples, groups: Mapping[str, int], own: Mapping[str, float]
) -> NDArray[np.float64]:
    """The mean over speakers in each resample [R] of the speakers' `own` figures."""
    sums_G2 = np.zeros((resamples.num_groups, 2))
    for name, figure in own.items():
        sums_G2[groups[name]] += (figure, 1.0)

    sums_R2 = resamples.totals(sums_G2)
    return np.asarray(sums_R2[:, 0] / sums_R2[:, 1])


def _concordance(moments_RVS: NDArray[np.float64]) -> NDArray[np.float64]:
    """CCC [R, V] from the number and the sums of t, p, tt, pp and tp; 0 if all is constant."""
    means = moments_RVS[..., 1:] / moments_RVS[..., :1]
    t, p, tt, pp, tp = np.moveaxis(means, -1, 0)

    # Rounding can leave a tiny spread where all is constant.
    spread = tt - t * t + pp - p * p + (t - p) ** 2
    constant = spread <= 1e-12 * (tt + pp)
    return np.where(constant, 0.0, 2 * (tp - t * p) / np.where(constant, 1.0, spread))


def _ends(resamples: SpeakerResamples, values_R: NDArray[np.float64]) -> Interval:
    ends = resamples.interval(values_R)
    return [None if np.isnan(end) else round(end, 6) for end in ends]
