"""The papers' table of several methods over several seeds: means, spreads and significance.

A difference to the baseline is significant when a paired t-test gives p < .05 (the star in the
papers). The test pairs the runs of equal seeds, so it uses only seeds that both methods were run
with. With fewer than three such seeds nothing is tested, and the table has no p.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

MIN_SEEDS = 3
SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of one method, over all seeds of this method.

    `std` is the sample standard deviation, None with one seed. `p` belongs to the paired t-test
    against the baseline; None when nothing was tested.
    """

    mean: float
    std: float | None
    p: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the difference to the baseline is significant."""
        return self.p is not None and self.p < SIGNIFICANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The mean difference of two methods over the seeds that both were run with.

    `interval` is the 95 % interval of the paired t-test; None with fewer than three seeds.
    """

    mean: float
    interval: tuple[float, float] | None


def compare(
    runs: Mapping[str, Mapping[int, Mapping[str, float]]], baseline: str, figures: Sequence[str]
) -> dict[str, dict[str, Cell]]:
    """Summarize runs: `runs` is method -> seed -> figure -> value.

    Returns method -> figure -> Cell, for the figures named in `figures`. Without runs of the
    baseline nothing is tested.
    """
    table: dict[str, dict[str, Cell]] = {}
    for method, by_seed in runs.items():
        table[method] = {}
        for figure in figures:
            values = [scores[figure] for scores in by_seed.values()]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            p = None if method == baseline else _paired_p(by_seed, runs.get(baseline, {}), figure)
            table[method][figure] = Cell(mean=float(np.mean(values)), std=spread, p=p)

    return table


def paired_gain(
    mine: Mapping[int, Mapping[str, float]], theirs: Mapping[int, Mapping[str, float]], figure: str
) -> Gain | None:
    """The gain of one method over another in a figure; None when they share no seed.

    Both are seed -> figure -> value.
    """
    seeds = sorted(set(mine) & set(theirs))
    if not seeds:
        return None

    ours, others = (np.asarray([side[seed][figure] for seed in seeds]) for side in (mine, theirs))
    differences = ours - others
    mean = float(np.mean(differences))
    if len(seeds) < MIN_SEEDS:
        return Gain(mean=mean, interval=None)
    if np.ptp(differences) == 0:
        return Gain(mean=mean, interval=(mean, mean))

    low, high = ttest_rel(ours, others).confidence_interval(1 - SIGNIFICANCE)
    return Gain(mean=mean, interval=(float(low), float(high)))


def _paired_p(
    mine: Mapping[int, Mapping[str, float]], theirs: Mapping[int, Mapping[str, float]], figure: str
) -> float | None:
    seeds = sorted(set(mine) & set(theirs))
    if len(seeds) < MIN_SEEDS:
        return None

    # The t-test divides by the spread of the differences, so equal differences are answered here.
    differences = [mine[seed][figure] - theirs[seed][figure] for seed in seeds]
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0

    return float(
        ttest_rel([mine[s][figure] for s in seeds], [theirs[s][figure] for s in seeds]).pvalue
    )
