"""How far groups of CREMA-D's actors are apart in what votes predict of them, as a printed table.

Answers are judged as `evaluate --groups` judges those of a model. What people are unequal in, a
model that learned from people may well be.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.loading.index import CorpusIndex
from shards.loading.targets import Targets
from trainers.evaluation.fairness.document import judge
from trainers.evaluation.fairness.grouping import divide
from trainers.evaluation.multilabel.rated_target import RatedTarget

DIFFERENCES = {
    "macro_f1_bias": "bias of macro-F1, in percent",
    "demographic_parity_mean": "demographic parity difference",
    "equalized_odds_mean": "equalized odds difference",
}

# The part `fairness` of metrics.json, by what the answers are made of.
Fairness = Mapping[str, Any]


def fairness_of(
    target: RatedTarget,
    index: CorpusIndex,
    truth: Targets,
    answers: NDArray[np.float32],
    fields: Sequence[str],
    seed: int,
) -> Fairness:
    """What metrics.json would say of groups, if a model had given `answers` [N, C] to `index`."""
    groupings = [divide(index, field) for field in fields]
    judged = judge(
        target.one_vs_rest(truth, answers), groupings, index.speaker_of_rows, target, seed
    )

    found: Fairness = judged.document["fairness"]
    return found


def print_groups(found: Mapping[str, Fairness], fields: Sequence[str]) -> None:
    """Print, for each field, the macro-F1 of each group and the differences between groups."""
    names = list(found)
    for field in fields:
        of_names = [found[name]["fields"][field] for name in names]
        columns = "  ".join(f"{name:>22s}" for name in names)
        sys.stdout.write(f"\n{field:34s} clips actors  {columns}\n")

        for group, sizes in of_names[0]["groups"].items():
            cells = "  ".join(_cell(one["groups"][group]["macro_f1"]) for one in of_names)
            counts = f"{sizes['number']:5d} {sizes['num_speakers']:6d}"
            sys.stdout.write(f"{'  macro-F1, ' + group:34s} {counts}  {cells}\n")

        for figure, shown in DIFFERENCES.items():
            entries = [one["differences"][figure] for one in of_names]
            cells = "  ".join(_cell(entry) for entry in entries)
            chances = ", ".join(
                "-" if entry["p"] is None else f"{entry['p']:.3f}" for entry in entries
            )
            sys.stdout.write(f"{'  ' + shown:34s} {'':12s}  {cells}   p {chances}\n")

        for line in of_names[0]["too_small"]:
            sys.stdout.write(f"  too small to judge: {line}\n")


def _cell(entry: Mapping[str, Any]) -> str:
    value, ends = entry["value"], entry["by_speaker"]
    if value is None:
        return f"{'-':>22s}"

    low, high = ("?" if end is None else f"{end:.3f}" for end in ends)
    return f"{f'{value:.3f} ({low}-{high})':>22s}"
