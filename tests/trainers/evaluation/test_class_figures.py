"""Figures of classes equal scikit-learn's, those by hand, and a published table of bias."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    recall_score,
)

from trainers.evaluation.class_figures import FIGURES, bias, class_figures, confusion_counts

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@given(PAIRS)
def test_figures_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    """Whichever classes are absent, WA, UA, WF1 and macro-F1 are scikit-learn's."""
    truth, predicted = np.asarray(pairs).T
    counts = confusion_counts(truth, predicted, 4)
    np.testing.assert_array_equal(counts, confusion_matrix(truth, predicted, labels=range(4)))

    found = class_figures(counts)
    assert tuple(found) == FIGURES
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are only predicted
        assert found["unweighted_accuracy"] == pytest.approx(
            balanced_accuracy_score(truth, predicted)
        )
    for name, average in (("weighted_f1", "weighted"), ("macro_f1", "macro")):
        wanted = f1_score(truth, predicted, average=average, zero_division=0.0)
        assert found[name] == pytest.approx(wanted)

    whole = f1_score(truth, predicted, labels=range(4), average="macro", zero_division=0.0)
    assert class_figures(counts, f1_over="classes")["macro_f1"] == pytest.approx(whole)


def test_unweighted_accuracy_is_a_mean_of_recalls() -> None:
    """Of random predictions of 100 utterances it is macro-averaged recall."""
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(4, size=100), rng.integers(4, size=100)
    found = class_figures(confusion_counts(truth, predicted, 4))
    wanted = recall_score(truth, predicted, average="macro")
    assert found["unweighted_accuracy"] == pytest.approx(wanted)


def test_f1_bias_by_hand() -> None:
    """F1 of 0.8, 0.5 and 0.2: the pairs differ by .3, .6 and .3, .4 on average."""
    assert bias(np.asarray([0.8, 0.5, 0.2])) == pytest.approx(0.4)
    # The third class neither occurs nor is predicted: one pair is left.
    counted = np.asarray([True, True, False])
    assert bias(np.asarray([0.8, 0.5, 0.0]), counted) == pytest.approx(0.3)
    assert bias(np.asarray([0.8, 0.5, 0.0]), counted & [True, False, True]) == 0.0


# Macro-F1 of African American, Asian and Caucasian speakers and of those of unknown race, and the
# bias printed beside them, in percent (two-stage-aver, Table 4).
PRINTED_BIAS = (
    (0.646, 0.632, 0.645, 0.599, 2.60),
    (0.662, 0.677, 0.648, 0.616, 3.27),
    (0.697, 0.711, 0.694, 0.572, 7.02),
    (0.536, 0.533, 0.582, 0.438, 7.27),
    (0.638, 0.641, 0.630, 0.468, 8.79),
    (0.662, 0.653, 0.660, 0.464, 9.99),
    (0.676, 0.647, 0.677, 0.630, 2.80),
    (0.716, 0.720, 0.721, 0.566, 7.80),
    (0.759, 0.780, 0.762, 0.639, 7.15),
    (0.765, 0.752, 0.764, 0.627, 7.12),
    (0.771, 0.765, 0.770, 0.619, 7.71),
    (0.770, 0.769, 0.774, 0.668, 5.31),
)


def test_bias_over_groups_is_the_published_one() -> None:
    """From the group scores of the paper's Table 4, all twelve printed biases follow within .06."""
    table = np.asarray(PRINTED_BIAS)
    np.testing.assert_allclose(100 * bias(table[:, :4]), table[:, 4], rtol=0, atol=0.06)


def test_f1_bias_compares_the_f1_of_classes() -> None:
    """Three classes, one of them absent: the F1 of the others are 2/3 and 4/5."""
    truth, predicted = np.asarray([0, 0, 1, 1]), np.asarray([0, 1, 1, 1])
    counts = confusion_counts(truth, predicted, 3)
    assert class_figures(counts)["f1_bias"] == pytest.approx(4 / 5 - 2 / 3)
    # With the absent class, of F1 0: the differences are 2/15, 2/3 and 4/5.
    whole = class_figures(counts, f1_over="classes")["f1_bias"]
    assert whole == pytest.approx((2 / 15 + 2 / 3 + 4 / 5) / 3)


def test_leading_axes_are_independent() -> None:
    """Counts by fold give the figures of each fold; a fold without utterances has none."""
    rng = np.random.default_rng(1)
    truth, predicted, fold = (rng.integers(3, size=60) for _ in range(3))
    fold[fold == 1] = 2
    counts = confusion_counts(truth, predicted, 3, (fold, 3))
    assert counts.shape == (3, 3, 3)

    found = class_figures(counts)
    for number in (0, 2):
        mine = class_figures(confusion_counts(truth[fold == number], predicted[fold == number], 3))
        for name in FIGURES:
            assert found[name][number] == pytest.approx(mine[name])
    assert all(np.isnan(found[name][1]) for name in FIGURES)
