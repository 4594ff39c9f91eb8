"""The papers' table has means, deviations and significance over seeds."""

import pytest
from scipy.stats import ttest_rel

from trainers.evaluation.comparison import compare, paired_gain

SEEDS = {0: 0.70, 1: 0.72, 2: 0.74, 3: 0.71}
GAINS = {0: 0.02, 1: 0.03, 2: 0.025, 3: 0.03}


def runs(values: dict[int, float]) -> dict[int, dict[str, float]]:
    return {seed: {"ACC": value} for seed, value in values.items()}


def test_significance_is_that_of_a_paired_t_test() -> None:
    """Significance is that of scipy's paired t-test over the seeds that both have.

    Seeds differ by more than methods do, so an unpaired test would find nothing.
    """
    ours = runs({seed: SEEDS[seed] + gain for seed, gain in GAINS.items()} | {9: 0.1})
    table = compare({"plain": runs(SEEDS), "ours": ours}, "plain", ["ACC"])

    expected = ttest_rel([ours[seed]["ACC"] for seed in SEEDS], list(SEEDS.values())).pvalue
    assert table["ours"]["ACC"].p == pytest.approx(expected)
    assert table["ours"]["ACC"].is_significant
    assert table["plain"]["ACC"].p is None
    assert not table["plain"]["ACC"].is_significant


def test_a_cell_is_mean_and_sample_deviation_over_seeds() -> None:
    """By hand, 1, 2, 3 have mean 2 and deviation 1; one seed has no deviation."""
    table = compare({"a": runs({0: 1.0, 1: 2.0, 2: 3.0}), "b": runs({0: 5.0})}, "a", ["ACC"])
    assert (table["a"]["ACC"].mean, table["a"]["ACC"].std) == (
        pytest.approx(2.0),
        pytest.approx(1.0),
    )
    assert (table["b"]["ACC"].mean, table["b"]["ACC"].std) == (5.0, None)


@pytest.mark.parametrize(
    ("gain", "seeds", "expected"), [(0.1, 2, None), (0.0, 3, 1.0), (0.5, 3, 0.0)]
)
def test_where_a_t_test_says_nothing(gain: float, seeds: int, expected: float | None) -> None:
    """There is no p-value for two seeds, and equal gains have no spread to divide by."""
    plain = {seed: float(seed) for seed in range(seeds)}
    table = compare(
        {"a": runs(plain), "b": runs({s: value + gain for s, value in plain.items()})}, "a", ["ACC"]
    )
    assert table["b"]["ACC"].p == expected


def test_without_the_baseline_nothing_is_tested() -> None:
    """A baseline that has no runs leaves the others their means."""
    cell = compare({"ours": runs(SEEDS)}, "plain", ["ACC"])["ours"]["ACC"]
    assert (cell.mean, cell.p) == (pytest.approx(0.7175), None)


def test_a_gain_is_over_shared_seeds_with_the_interval_of_the_t_test() -> None:
    """By hand, differences of 1, 2, 3 have mean 2 and 2 +- 4.303 / sqrt(3) (t of 2 degrees)."""
    plain, ours = {0: 1.0, 1: 1.0, 2: 1.0, 7: 9.0}, {0: 2.0, 1: 3.0, 2: 4.0, 8: 0.0}
    gain = paired_gain(runs(ours), runs(plain), "ACC")
    assert gain is not None
    assert gain.interval is not None
    assert gain.mean == pytest.approx(2.0)
    assert gain.interval == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)

    equal = paired_gain(runs({0: 2.0, 1: 2.0, 2: 2.0}), runs(plain), "ACC")
    assert equal is not None
    assert equal.interval == (1.0, 1.0)
    two = paired_gain(runs({0: 2.0, 1: 3.0}), runs(plain), "ACC")
    assert two is not None
    assert (two.mean, two.interval) == (1.5, None)
    assert paired_gain(runs({5: 1.0}), runs(plain), "ACC") is None
