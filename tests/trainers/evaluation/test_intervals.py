"""Intervals equal those from repeating the rows of each resample and scoring them elsewhere."""

from collections.abc import Callable
from itertools import combinations
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score

from shards.resampling import SpeakerResamples
from trainers.evaluation.intervals import class_intervals, value_intervals
from trainers.evaluation.metrics import concordance, score_classes, score_values

SPEAKERS = np.repeat(np.asarray(["d", "a", "c", "b", "e"], dtype=object), [9, 3, 6, 4, 8])
NAMES = ("w", "x", "y", "z")


def by_repeating(figure: Callable[[NDArray[np.int64]], float]) -> list[float]:
    """The interval of `figure`, a function of rows, of which a resample repeats some."""
    number = np.unique(SPEAKERS.astype(str), return_inverse=True)[1]
    resamples = SpeakerResamples(number, 0)
    times = resamples.totals(np.eye(5)).round().astype(int)
    values = [figure(np.repeat(np.arange(len(number)), mine[number])) for mine in times]
    return np.quantile(values, [0.025, 0.975]).tolist()


@pytest.mark.parametrize("f1_over", ["present", "classes"])
def test_intervals_of_classes(f1_over: Literal["present", "classes"]) -> None:
    """Accuracy and macro-F1 equal scikit-learn's on repeated rows; the class z is absent."""
    rng = np.random.default_rng(1)
    truth = rng.integers(3, size=30)
    predicted = np.where(rng.random(30) < 0.5, truth, rng.integers(3, size=30))
    scores = score_classes(truth, predicted, SPEAKERS, NAMES, f1_over=f1_over)
    found = class_intervals(scores, truth, predicted, SPEAKERS, f1_over=f1_over, seed=0)

    labels = range(4) if f1_over == "classes" else None
    assert found["accuracy"] == pytest.approx(
        by_repeating(lambda rows: accuracy_score(truth[rows], predicted[rows])), abs=1e-6
    )
    expected = by_repeating(
        lambda rows: f1_score(
            truth[rows], predicted[rows], labels=labels, average="macro", zero_division=0.0
        )
    )
    assert found["macro_f1"] == pytest.approx(expected, abs=1e-6)


def test_the_interval_of_f1_bias() -> None:
    """It is that of scikit-learn's F1 of each class, compared pair by pair, on repeated rows."""
    rng = np.random.default_rng(4)
    truth = rng.integers(3, size=30)
    predicted = np.where(rng.random(30) < 0.5, truth, rng.integers(3, size=30))
    scores = score_classes(truth, predicted, SPEAKERS, NAMES)
    found = class_intervals(scores, truth, predicted, SPEAKERS, f1_over="present", seed=0)

    def f1_bias(rows: NDArray[np.int64]) -> float:
        of_classes = f1_score(truth[rows], predicted[rows], average=None, zero_division=0.0)
        return float(np.mean([abs(one - other) for one, other in combinations(of_classes, 2)]))

    assert scores.f1_bias == pytest.approx(f1_bias(np.arange(30)))
    assert found["f1_bias"] == pytest.approx(by_repeating(f1_bias), abs=1e-6)


def test_intervals_over_speakers_are_those_of_scipy() -> None:
    """A mean over speakers has nearly the percentile interval that scipy's own draws give."""
    rng = np.random.default_rng(2)
    speakers = np.repeat(np.asarray([f"s{n}" for n in range(40)], dtype=object), 5)
    truth, predicted = rng.integers(2, size=200), rng.integers(2, size=200)
    scores = score_classes(truth, predicted, speakers, NAMES)
    found = class_intervals(scores, truth, predicted, speakers, f1_over="present", seed=0)

    own = [mine.accuracy for mine in scores.per_speaker.values()]
    theirs = bootstrap((own,), np.mean, method="percentile", rng=rng).confidence_interval
    assert found["speaker_accuracy"] == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_intervals_of_values() -> None:
    """CCC from sums equals CCC of the repeated rows, far from the origin too."""
    rng = np.random.default_rng(3)
    truth = (1000 + rng.standard_normal((30, 2))).astype(np.float32)
    predicted = (truth + rng.standard_normal((30, 2))).astype(np.float32)
    scores = score_values(truth, predicted, SPEAKERS)
    found = value_intervals(scores, truth, predicted, SPEAKERS, seed=0)

    for place in range(2):
        t, p = truth[:, place], predicted[:, place]
        expected = by_repeating(lambda rows, t=t, p=p: concordance(t[rows], p[rows]))  # type: ignore[misc]
        assert found["overall"][place] == pytest.approx(expected, abs=1e-5)


def test_one_speaker_has_no_interval() -> None:
    """One speaker shows nothing of how others differ."""
    truth, speakers = np.asarray([0, 1]), np.asarray(["a", "a"], dtype=object)
    scores = score_classes(truth, truth, speakers, NAMES)
    found = class_intervals(scores, truth, truth, speakers, f1_over="present", seed=0)
    assert found["accuracy"] == [None, None]
    assert found["speaker_f1"] == [None, None]
