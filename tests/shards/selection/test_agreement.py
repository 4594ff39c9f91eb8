"""The distances between teachers, against scipy and against values worked out by hand."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from scipy.stats import entropy

from shards.selection.agreement import (
    js_divergence,
    kl_divergence,
    matched_threshold,
    pairwise_distance,
)
from tests.shards.selection.inputs import draw_distributions


def draw(seed: int, num: int = 50) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    return draw_distributions(generator.integers(0, 7, num), generator)


def row(*values: float) -> NDArray[np.float64]:
    return np.array([[*values, *[0.0] * (7 - len(values))]])


def test_kl_by_hand() -> None:
    """The KL divergence of (1/2, 1/2) from (1/4, 3/4) is ln 2 - ln 3 / 2, in nats."""
    assert kl_divergence(row(0.5, 0.5), row(0.25, 0.75))[0] == pytest.approx(
        math.log(2) - math.log(3) / 2
    )


def test_js_by_hand() -> None:
    """Distributions with nothing in common are ln 2 apart: the divergence, not its square root."""
    assert js_divergence(row(1, 0), row(0, 1))[0] == pytest.approx(math.log(2))


def test_kl_agrees_with_scipy() -> None:
    """Each row is scipy's relative entropy, in the direction first || second."""
    first, second = draw(0), draw(1)
    expected = [entropy(p, q) for p, q in zip(first, second, strict=True)]
    np.testing.assert_allclose(kl_divergence(first, second), expected, rtol=1e-9)
    np.testing.assert_allclose(kl_divergence(first, second), rel_entr(first, second).sum(axis=1))
    assert not np.allclose(kl_divergence(first, second), kl_divergence(second, first))


def test_js_agrees_with_scipy() -> None:
    """Each row is the square of scipy's Jensen-Shannon distance."""
    first, second = draw(0), draw(1)
    expected = [jensenshannon(p, q) ** 2 for p, q in zip(first, second, strict=True)]
    np.testing.assert_allclose(js_divergence(first, second), expected, rtol=1e-9)


def test_zeros_of_the_first_count_nothing_and_of_the_second_everything() -> None:
    """Without an epsilon, a class that only the first teacher sees makes KL infinite.

    A class that only the second teacher sees leaves it finite.
    """
    certain, torn = row(1.0, 0.0), row(0.5, 0.5)
    assert kl_divergence(certain, torn)[0] == pytest.approx(math.log(2))
    assert kl_divergence(torn, certain)[0] == math.inf
    assert js_divergence(torn, certain)[0] < math.log(2)


def test_three_teachers_are_as_far_apart_as_their_worst_pair() -> None:
    """The distance of three teachers is the largest of their pairs, each in the order given."""
    first, second, third = draw(0), draw(1), draw(2)
    pairs = [
        kl_divergence(first, second),
        kl_divergence(first, third),
        kl_divergence(second, third),
    ]

    np.testing.assert_array_equal(
        pairwise_distance([first, second, third], "kl"), np.max(pairs, axis=0)
    )


def test_one_teacher_has_no_distance() -> None:
    """One teacher has nothing to be compared with."""
    assert np.isnan(pairwise_distance([draw(0)], "js")).all()


def test_missing_prediction_has_no_distance() -> None:
    """A row on which one teacher is silent has no distance, whatever the others say."""
    first, second = draw(0), draw(1)
    first[3] = np.nan
    for distance in ("kl", "js"):
        assert np.flatnonzero(np.isnan(pairwise_distance([first, second], distance))).tolist() == [
            3
        ]  # type: ignore[arg-type]


@pytest.mark.parametrize("num_kept", [1, 7, 49, 50])
def test_matched_threshold_keeps_exactly_as_many(num_kept: int) -> None:
    """The JS threshold matched to a count keeps exactly that many, NaN rows aside."""
    distances = np.append(js_divergence(draw(0), draw(1)), np.nan)
    assert (distances <= matched_threshold(distances, num_kept)).sum() == num_kept


def test_matched_threshold_of_nothing_keeps_nothing() -> None:
    """Where KL keeps nothing, so does the matched threshold."""
    distances = js_divergence(draw(0), draw(1))
    assert not (distances <= matched_threshold(distances, 0)).any()
    assert matched_threshold(np.array([np.nan]), 0) == 0.0
