"""Scores over utterances and over speakers equal those by hand and those of torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from trainers.evaluation.metrics import concordance, score_classes, score_values

NAMES = ("neutral", "anger", "happiness")
SPEAKERS = np.asarray(["a", "a", "a", "a", "b", "b"], dtype=object)
TRUTH = np.asarray([0, 0, 1, 2, 0, 1])
PREDICTED = np.asarray([0, 1, 1, 2, 1, 1])


def test_speakers_count_alike() -> None:
    """Speaker a has 3 of 4 right, speaker b 1 of 2; A-ACC is their mean, ACC is not."""
    scores = score_classes(TRUTH, PREDICTED, SPEAKERS, NAMES)
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.speaker_accuracy == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert scores.speaker_accuracy_std == pytest.approx(1 / 8)
    assert (scores.per_speaker["b"].number, scores.per_speaker["b"].accuracy) == (2, 0.5)
    # b: neutral F1 0, anger precision 1/2, recall 1: F1 2/3; happiness neither occurs nor is
    # predicted.
    assert scores.per_speaker["b"].f1 == pytest.approx((0 + 2 / 3) / 2)
    assert scores.confusion == [[1, 2, 0], [0, 2, 0], [0, 0, 1]]


def test_overall_scores_are_those_of_torchmetrics() -> None:
    """The scores of random predictions of 200 utterances equal those of torchmetrics."""
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(3, size=200), rng.integers(3, size=200)
    scores = score_classes(truth, predicted, rng.choice(["a", "b"], 200).astype(object), NAMES)
    both = torch.from_numpy(predicted), torch.from_numpy(truth)
    assert scores.accuracy == pytest.approx(multiclass_accuracy(*both, 3, average="micro").item())
    assert scores.macro_f1 == pytest.approx(multiclass_f1_score(*both, 3, average="macro").item())


def test_a_class_nobody_has_counts_only_on_request() -> None:
    """Macro-F1 averages over the classes that occur, or over all of them."""
    truth, speakers = np.asarray([0, 0]), np.asarray(["a", "a"], dtype=object)
    assert score_classes(truth, truth, speakers, NAMES).macro_f1 == 1.0

    scores = score_classes(truth, truth, speakers, NAMES, f1_over="classes")
    assert scores.macro_f1 == pytest.approx(1 / 3)
    assert scores.speaker_f1 == 1.0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_macro_f1_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    """Whichever classes are absent, both readings of macro-F1 equal scikit-learn's."""
    truth, predicted = np.asarray(pairs).T
    speakers, names = np.full(len(pairs), "a", dtype=object), tuple("vwxyz")
    default = f1_score(truth, predicted, average="macro", zero_division=0.0)
    whole = f1_score(truth, predicted, average="macro", labels=range(5), zero_division=0.0)

    assert score_classes(truth, predicted, speakers, names).macro_f1 == pytest.approx(default)
    found = score_classes(truth, predicted, speakers, names, f1_over="classes")
    assert found.macro_f1 == pytest.approx(whole)


def test_values_overall_and_over_speakers() -> None:
    """A shift of one speaker's values lowers the overall CCC and not that of the other speaker."""
    truth = np.asarray([[1.0], [2.0], [3.0], [5.0], [6.0], [7.0]], dtype=np.float32)
    predicted = truth.copy()
    predicted[3:] -= 4.0

    scores = score_values(truth, predicted, np.asarray(["a"] * 3 + ["b"] * 3, dtype=object))

    by_hand = 2 * (2 / 3) / (2 / 3 + 2 / 3 + 16)
    assert scores.per_speaker["a"].ccc == pytest.approx([1.0])
    assert scores.over_speakers == pytest.approx([(1 + by_hand) / 2])
    # Overall: means 4 and 2, variances 14/3 and 2/3, covariance 2/3.
    assert scores.overall == pytest.approx([2 * (2 / 3) / (14 / 3 + 2 / 3 + (4 - 2) ** 2)])

    assert scores.summary() == {
        "ccc": pytest.approx(1 / 7),
        "speaker_ccc": pytest.approx((1 + by_hand) / 2),
    }

    assert concordance(np.ones(3), np.ones(3)) == 0.0
    assert concordance(np.ones(1), np.zeros(1)) == 0.0


def test_spreads_are_population_deviations_over_speakers() -> None:
    """Spreads are population deviations of the speakers' F1 or CCC.

    One speaker's values are right, the other's prediction never moves.
    """
    assert score_classes(TRUTH, PREDICTED, SPEAKERS, NAMES).speaker_f1_std == pytest.approx(
        (7 / 9 - 1 / 3) / 2
    )

    truth = np.asarray([[1.0, 1.0], [2.0, 3.0], [1.0, 1.0], [2.0, 3.0]], dtype=np.float32)
    predicted = np.asarray([[1.0, 2.0], [2.0, 2.0], [1.0, 1.0], [1.0, 3.0]], dtype=np.float32)
    scores = score_values(truth, predicted, np.asarray(["a", "a", "b", "b"], dtype=object))
    assert scores.over_speakers == pytest.approx([0.5, 0.5])
    assert scores.over_speakers_std == pytest.approx([0.5, 0.5])
