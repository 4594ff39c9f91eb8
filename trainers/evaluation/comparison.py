"""Runs of several methods over several seeds, as the papers tabulate them: means, spreads, and
paired significance.

A method beats the baseline when a paired t-test over the seeds both were run with gives p < .05
(the papers' star). With two seeds or fewer nothing is tested, and the table says so by leaving p
out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

MIN_SEEDS = 3
SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of one method: mean and sample standard deviation over seeds (None: one seed has
    none), and p against the baseline.
    """

    mean: float
    std: float | None
    p: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the difference to the baseline is."""
        return self.p is not None and self.p < SIGNIFICANCE


def compare(
    runs: Mapping[str, Mapping[int, Mapping[str, float]]], baseline: str, figures: Sequence[str]
) -> dict[str, dict[str, Cell]]:
    """`runs` is method -> seed -> figure -> value; returns method -> figure -> Cell."""
    table: dict[str, dict[str, Cell]] = {}
    for method, by_seed in runs.items():
        table[method] = {}
        for figure in figures:
            values = [scores[figure] for scores in by_seed.values()]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            p = None if method == baseline else _paired_p(by_seed, runs[baseline], figure)
            table[method][figure] = Cell(mean=float(np.mean(values)), std=spread, p=p)
    return table


def _paired_p(
    mine: Mapping[int, Mapping[str, float]], theirs: Mapping[int, Mapping[str, float]], figure: str
) -> float | None:
    seeds = sorted(set(mine) & set(theirs))
    if len(seeds) < MIN_SEEDS:
        return None
    differences = [mine[seed][figure] - theirs[seed][figure] for seed in seeds]
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0  # the t-test divides by their spread
    return float(
        ttest_rel([mine[s][figure] for s in seeds], [theirs[s][figure] for s in seeds]).pvalue
    )
