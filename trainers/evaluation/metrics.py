"""The figures of the papers, over all utterances and averaged over speakers.

For classes, ACC and macro-F1 are computed over all utterances. A-ACC and A-F1 are their means over
speakers (setpeer-emoceleb, section V-C), so that a speaker with many utterances counts as much as
any other. For values, O-CCC is computed over all utterances and A-CCC is its mean over speakers
(papt-pldc, section 5). Means over speakers come with their standard deviation over speakers.

F1 is macro-averaged over the classes that occur in the truth or in the predictions, as scikit-learn
does by default; overall, it can be averaged over all classes of the model too, where a class that
nobody has counts 0. The F1 of one speaker is over the classes of this speaker. A speaker whose
truth and predictions are both constant has a CCC of 0.

Shapes: N utterances, V values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

from shards.grouping import group_rows
from trainers.evaluation.class_figures import F1Over, class_figures, confusion_counts
from trainers.evaluation.multilabel.figures import macro_f1, overall_figures
from trainers.evaluation.multilabel.one_vs_rest import OneVsRest, count_bins, count_sums


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerClassScores:
    """The figures of one speaker over `number` utterances."""

    number: int
    accuracy: float
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerValueScores:
    """The CCC of each value for one speaker, over `number` utterances."""

    number: int
    ccc: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerRatedScores:
    """The macro-F1 of one speaker over `number` utterances, each with any number of classes."""

    number: int
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """Accuracy and F1, overall and over speakers; the other names are those of `class_figures`.

    `confusion[i][j]` counts the utterances of class i that were taken for class j.
    """

    number: int
    accuracy: float
    unweighted_accuracy: float
    weighted_f1: float
    macro_f1: float
    f1_bias: float
    speaker_accuracy: float
    speaker_accuracy_std: float
    speaker_f1: float
    speaker_f1_std: float
    per_speaker: Mapping[str, SpeakerClassScores]
    confusion: Sequence[Sequence[int]]

    def summary(self) -> dict[str, float]:
        """The figures that a validation logs."""
        names = ("accuracy", "macro_f1", "speaker_accuracy", "speaker_f1")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueScores:
    """The CCC of each value, overall and over speakers."""

    number: int
    overall: Sequence[float]
    over_speakers: Sequence[float]
    over_speakers_std: Sequence[float]
    per_speaker: Mapping[str, SpeakerValueScores]

    def summary(self) -> dict[str, float]:
        """The figures that a validation logs: means over the values."""
        return {
            "ccc": float(np.mean(self.overall)),
            "speaker_ccc": float(np.mean(self.over_speakers)),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedScores:
    """The figures of several classes at once; the names are those of `multilabel.figures`."""

    number: int
    macro_f1: float
    weighted_f1: float
    brier_score: float
    calibration_error: float
    speaker_f1: float
    speaker_f1_std: float
    per_speaker: Mapping[str, SpeakerRatedScores]

    def summary(self) -> dict[str, float]:
        """The figures that a validation logs."""
        names = ("macro_f1", "weighted_f1", "brier_score", "speaker_f1")
        return {name: getattr(self, name) for name in names}


Scores = ClassScores | ValueScores | RatedScores


def score_classes(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    speakers: NDArray[np.object_],
    names: Sequence[str],
    *,
    f1_over: F1Over = "present",
) -> ClassScores:
    """Compare predicted class numbers [N] with the truth [N].

    The overall macro-F1 is over the classes that occur (`present`), or over all of `names`.
    """
    labels = list(range(len(names)))

    per_speaker = {}
    for speaker, mine in group_rows(speakers).items():
        accuracy, f1 = (
            accuracy_score(truth[mine], predicted[mine]),
            _f1(truth[mine], predicted[mine]),
        )
        per_speaker[str(speaker)] = SpeakerClassScores(
            number=len(mine), accuracy=float(accuracy), f1=f1
        )

    accuracies = np.asarray([scores.accuracy for scores in per_speaker.values()])
    f1s = np.asarray([scores.f1 for scores in per_speaker.values()])

    counts = confusion_counts(truth, predicted, len(labels))
    overall = {name: float(value) for name, value in class_figures(counts, f1_over=f1_over).items()}

    return ClassScores(
        number=len(truth),
        **overall,
        speaker_accuracy=float(accuracies.mean()),
        speaker_accuracy_std=float(accuracies.std()),
        speaker_f1=float(f1s.mean()),
        speaker_f1_std=float(f1s.std()),
        per_speaker=per_speaker,
        confusion=counts.astype(int).tolist(),
    )


def score_ratings(
    answers: OneVsRest, speakers: NDArray[np.object_], *, f1_over: F1Over = "present"
) -> RatedScores:
    """Compare what N answers were taken for with what is true, over all and over speakers [N].

    The overall macro-F1 is over the classes that occur (`present`), or over all.
    """
    names, places = np.unique(speakers.astype(str), return_inverse=True)
    sums_SC = count_sums(answers, (places.astype(np.int64), len(names)))
    f1s_S = macro_f1(sums_SC)
    numbers_S = np.bincount(places, minlength=len(names))

    overall = overall_figures(sums_SC.sum(axis=0), count_bins(answers), f1_over=f1_over)
    return RatedScores(
        number=len(answers),
        **{name: float(value) for name, value in overall.items()},
        speaker_f1=float(f1s_S.mean()),
        speaker_f1_std=float(f1s_S.std()),
        per_speaker={
            str(name): SpeakerRatedScores(number=int(number), f1=float(f1))
            for name, number, f1 in zip(names, numbers_S, f1s_S, strict=True)
        },
    )


def score_values(
    truth: NDArray[np.float32], predicted: NDArray[np.float32], speakers: NDArray[np.object_]
) -> ValueScores:
    """Compare predicted values [N, V] with the truth [N, V]."""
    per_speaker = {}
    for speaker, mine in group_rows(speakers).items():
        per_speaker[str(speaker)] = SpeakerValueScores(
            number=len(mine), ccc=_cccs(truth[mine], predicted[mine])
        )

    table = np.asarray([scores.ccc for scores in per_speaker.values()])

    return ValueScores(
        number=len(truth),
        overall=_cccs(truth, predicted),
        over_speakers=table.mean(axis=0).tolist(),
        over_speakers_std=table.std(axis=0).tolist(),
        per_speaker=per_speaker,
    )


def concordance(truth: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """The concordance correlation coefficient (CCC) with population variances.

    It is 0 when both are constant.
    """
    truth, predicted = truth.astype(np.float64), predicted.astype(np.float64)

    covariance = float(np.mean((truth - truth.mean()) * (predicted - predicted.mean())))
    spread = float(truth.var() + predicted.var() + (truth.mean() - predicted.mean()) ** 2)
    return 2 * covariance / spread if spread > 0 else 0.0


def _cccs(truth: NDArray[np.float32], predicted: NDArray[np.float32]) -> list[float]:
    return [concordance(truth[:, place], predicted[:, place]) for place in range(truth.shape[1])]


def _f1(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    return float(f1_score(truth, predicted, average="macro", zero_division=0.0))
