"""The papers' figures: over all utterances, and averaged over speakers.

ACC and macro-F1 over all utterances; A-ACC and A-F1 their means over speakers (setpeer-emoceleb,
section V-C), so that a speaker with many utterances counts no more than another. For values O-CCC
over all utterances and A-CCC over speakers (papt-pldc, section 5), with the standard deviation over
speakers. The F1 of a speaker is macro-averaged over the classes that occur in the speaker's truth
or predictions, as scikit-learn does; a speaker whose truth and prediction are both constant has CCC
0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from shards.grouping import group_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerClassScores:
    """One speaker's figures over `number` utterances."""

    number: int
    accuracy: float
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerValueScores:
    """One speaker's CCC of each value over `number` utterances."""

    number: int
    ccc: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """Accuracy and macro-F1; `confusion` counts truth by prediction."""

    number: int
    accuracy: float
    macro_f1: float
    speaker_accuracy: float
    speaker_accuracy_std: float
    speaker_f1: float
    speaker_f1_std: float
    per_speaker: Mapping[str, SpeakerClassScores]
    confusion: Sequence[Sequence[int]]

    def summary(self) -> dict[str, float]:
        """The figures a validation logs."""
        names = ("accuracy", "macro_f1", "speaker_accuracy", "speaker_f1")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueScores:
    """CCC of each value, overall and over speakers; `ccc` and `speaker_ccc` are means over the
    values.
    """

    number: int
    overall: Sequence[float]
    over_speakers: Sequence[float]
    over_speakers_std: Sequence[float]
    per_speaker: Mapping[str, SpeakerValueScores]

    def summary(self) -> dict[str, float]:
        """The figures a validation logs."""
        return {
            "ccc": float(np.mean(self.overall)),
            "speaker_ccc": float(np.mean(self.over_speakers)),
        }


def score_classes(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    speakers: NDArray[np.object_],
    names: Sequence[str],
) -> ClassScores:
    """Compare class numbers [N]; every class of `names` counts in the overall macro-F1."""
    labels = list(range(len(names)))
    per_speaker = {}
    for speaker, mine in group_rows(speakers).items():
        accuracy, f1 = (
            accuracy_score(truth[mine], predicted[mine]),
            _f1(truth[mine], predicted[mine], None),
        )
        per_speaker[str(speaker)] = SpeakerClassScores(
            number=len(mine), accuracy=float(accuracy), f1=f1
        )
    accuracies = np.asarray([scores.accuracy for scores in per_speaker.values()])
    f1s = np.asarray([scores.f1 for scores in per_speaker.values()])
    return ClassScores(
        number=len(truth),
        accuracy=float(accuracy_score(truth, predicted)),
        macro_f1=_f1(truth, predicted, labels),
        speaker_accuracy=float(accuracies.mean()),
        speaker_accuracy_std=float(accuracies.std()),
        speaker_f1=float(f1s.mean()),
        speaker_f1_std=float(f1s.std()),
        per_speaker=per_speaker,
        confusion=confusion_matrix(truth, predicted, labels=labels).tolist(),
    )


def score_values(
    truth: NDArray[np.float32], predicted: NDArray[np.float32], speakers: NDArray[np.object_]
) -> ValueScores:
    """Compare values [N, V]."""
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
    """CCC with population variances; 0 when both are constant."""
    truth, predicted = truth.astype(np.float64), predicted.astype(np.float64)
    covariance = float(np.mean((truth - truth.mean()) * (predicted - predicted.mean())))
    spread = float(truth.var() + predicted.var() + (truth.mean() - predicted.mean()) ** 2)
    return 2 * covariance / spread if spread > 0 else 0.0


def _cccs(truth: NDArray[np.float32], predicted: NDArray[np.float32]) -> list[float]:
    return [concordance(truth[:, place], predicted[:, place]) for place in range(truth.shape[1])]


def _f1(truth: NDArray[np.int64], predicted: NDArray[np.int64], labels: list[int] | None) -> float:
    return float(f1_score(truth, predicted, labels=labels, average="macro", zero_division=0.0))
