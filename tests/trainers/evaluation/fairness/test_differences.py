"""Differences between groups equal fairlearn's one class at a time, and those by hand."""

import numpy as np
import pytest

from tests.trainers.evaluation.fairness.made_answers import make_answers, make_grouping
from trainers.evaluation.fairness.differences import (
    BY_CLASS,
    differences,
    is_complete,
    over_classes,
    rates,
)
from trainers.evaluation.multilabel.one_vs_rest import count_sums

# Macro-F1 of male and female speakers, and the bias printed beside it, in percent (two-stage-aver,
# Table 5).
PRINTED_BIAS = (
    (0.634, 0.653, 1.86),
    (0.634, 0.672, 3.81),
    (0.680, 0.708, 2.80),
    (0.544, 0.587, 4.32),
    (0.617, 0.646, 2.90),
    (0.643, 0.672, 2.86),
    (0.662, 0.683, 2.08),
    (0.697, 0.739, 4.12),
    (0.747, 0.776, 2.89),
    (0.750, 0.774, 2.37),
    (0.757, 0.780, 2.35),
    (0.762, 0.781, 1.86),
)


def sums_by_hand(rows: list[list[tuple[int, int, int, int]]]) -> np.ndarray:
    """Sums [K, C, 5] from (hits, chosen, true, number) of each class of each group."""
    table = np.asarray(rows, dtype=np.float64)
    return np.concatenate([table, np.zeros((*table.shape[:2], 1))], axis=2)


def test_differences_are_those_of_fairlearn() -> None:
    """Each class against the rest, over three groups; then the mean and the worst class."""
    metrics = pytest.importorskip("fairlearn.metrics")
    answers, _, _ = make_answers(20, 20, shift=0.7)
    place = np.arange(len(answers)) % 3
    sums = count_sums(answers, (place, 3))
    found = differences(sums, np.ones((3, 3), dtype=bool), f1_over="present")

    for name, function in (
        ("demographic_parity", metrics.demographic_parity_difference),
        ("equalized_odds", metrics.equalized_odds_difference),
    ):
        wanted = [
            function(
                answers.truth_NC[:, at].astype(int),
                answers.chosen_NC[:, at].astype(int),
                sensitive_features=place,
            )
            for at in range(3)
        ]
        np.testing.assert_allclose(found[name], wanted)
        summary = over_classes(found)
        assert summary[f"{name}_mean"] == pytest.approx(np.mean(wanted))
        assert summary[f"{name}_worst"] == pytest.approx(max(wanted))


def test_rates_and_differences_by_hand() -> None:
    """Groups of 10: 4 of 5 and 2 of 4 found, 1 of 5 and 0 of 6 wrongly, 5 and 2 of 10 answered."""
    sums = sums_by_hand([[(4, 5, 5, 10)], [(2, 2, 4, 10)]])
    found = rates(sums)
    assert found["selection_rate"][:, 0].tolist() == [0.5, 0.2]
    assert found["true_positive_rate"][:, 0].tolist() == [0.8, 0.5]
    assert found["false_positive_rate"][:, 0].tolist() == [0.2, 0.0]

    apart = differences(sums, np.ones((2, 1), dtype=bool), f1_over="present")
    assert apart["demographic_parity"] == pytest.approx([0.3])
    assert apart["equalized_odds"] == pytest.approx([0.3])
    # F1 of 8/10 and 4/6.
    assert apart["macro_f1_bias"] == pytest.approx(100 * (0.8 - 2 / 3))
    assert apart["emotion_f1_bias"] == pytest.approx([100 * (0.8 - 2 / 3)])


def test_a_group_without_positives_is_left_out_of_the_class() -> None:
    """Where fairlearn takes a rate of 0, the class is judged by the two other groups."""
    sums = sums_by_hand(
        [
            [(4, 5, 5, 10), (5, 5, 5, 10)],
            [(2, 2, 4, 10), (4, 5, 5, 10)],
            [(0, 9, 0, 10), (3, 5, 5, 10)],
        ]
    )
    usable = np.ones((3, 2), dtype=bool)
    found = differences(sums, usable, f1_over="present")
    np.testing.assert_allclose(found["demographic_parity"], [0.3, 0.0], atol=1e-12)
    np.testing.assert_allclose(found["equalized_odds"], [0.3, 0.4])
    # Macro-F1 is compared between those groups that can be judged by both classes.
    first, second = (0.8 + 1.0) / 2, (2 / 3 + 0.8) / 2
    assert found["macro_f1_bias"] == pytest.approx(100 * (first - second))
    assert is_complete(usable & (sums[..., 2] > 0)).tolist() == [True, True, False]


def test_one_group_is_not_apart_from_any() -> None:
    """With fewer than two groups to judge, no difference is known."""
    sums = sums_by_hand([[(4, 5, 5, 10)], [(2, 2, 4, 10)]])
    for usable in ([[True], [False]], [[False], [False]]):
        found = differences(sums, np.asarray(usable), f1_over="present")
        summary = over_classes(found)
        assert np.isnan([found["macro_f1_bias"], *summary.values()]).all()
        assert np.isnan([found[name] for name in BY_CLASS]).all()


def test_a_class_that_is_true_of_everybody_has_no_false_positives_to_compare() -> None:
    """The rate of false positives is not known, and odds differ by true positives alone."""
    sums = sums_by_hand([[(4, 4, 10, 10)], [(9, 9, 10, 10)]])
    found = differences(sums, np.ones((2, 1), dtype=bool), f1_over="present")
    assert found["equalized_odds"] == pytest.approx([0.5])


def test_bias_between_the_sexes_is_the_published_one() -> None:
    """Group scores of the paper's Table 5, as F1 of one class, give the biases within .1."""
    table = np.asarray(PRINTED_BIAS)
    # F1 is 2 hits / (chosen + true): with 1,000 of each it is hits / 1,000.
    sums = np.zeros((len(table), 2, 1, 5))
    sums[..., 0, 0] = 1000 * table[:, :2]
    sums[..., 1:3], sums[..., 3] = 1000, 2000
    found = differences(sums, np.ones((2, 1), dtype=bool), f1_over="present")
    np.testing.assert_allclose(found["macro_f1_bias"], table[:, 2], rtol=0, atol=0.1)


def test_groups_of_any_order_are_as_far_apart() -> None:
    """Differences do not depend on which group is first."""
    answers, _, _ = make_answers(12, 10, shift=1.0)
    place = np.arange(len(answers)) % 3
    swapped = np.asarray([2, 0, 1])[place]
    usable = np.ones((3, 3), dtype=bool)
    one, other = (
        differences(count_sums(answers, (groups, 3)), usable, f1_over="present")
        for groups in (place, swapped)
    )
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name])
    assert make_grouping("f", ["a", "b", "c"], place, place).num_speakers.tolist() == [1, 1, 1]
