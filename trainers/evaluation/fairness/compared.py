"""Differences between groups as figures of an evaluation, so that methods can be compared by them.

They are computed again from the table of a finished evaluation, in each resample of its speakers.
The columns `group_FIELD` of the table say who is in which group.

Shapes: R resamples, K groups, C classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.resampling import SpeakerResamples
from trainers.evaluation.class_figures import F1Over
from trainers.evaluation.fairness.differences import differences, over_classes
from trainers.evaluation.fairness.document import judged_by
from trainers.evaluation.fairness.grouping import group_by
from trainers.evaluation.multilabel.one_vs_rest import OneVsRest, count_sums

GROUP_PREFIX = "group_"
# How differences are called for people, after the name of the field; all as shares.
_SHOWN: Mapping[str, str] = {
    "macro_f1_bias": "bias",
    "demographic_parity_mean": "DPD",
    "equalized_odds_mean": "EOD",
}


def fairness_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Bias, DPD and EOD of each field in metrics.json, called "sex bias", as far as known."""
    return {
        f"{field} {shown}": entry["value"] / _divisor(name)
        for field, found in metrics.get("fairness", {}).get("fields", {}).items()
        for name, shown in _SHOWN.items()
        if (entry := found["differences"][name])["value"] is not None
    }


def resampled_fairness(
    answers: OneVsRest,
    table: pa.Table,
    speakers: NDArray[np.object_],
    resamples: SpeakerResamples,
    *,
    f1_over: F1Over,
) -> dict[str, NDArray[np.float64]]:
    """The figures of `fairness_figures` in each of `resamples` [R].

    `answers` and `speakers` are of the utterances of `table`, in its order.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for column in table.column_names:
        if not column.startswith(GROUP_PREFIX):
            continue

        field = column.removeprefix(GROUP_PREFIX)
        grouping = group_by(field, table[column].to_pylist(), speakers)
        by_speaker = (resamples.group, resamples.num_groups)
        sums_GKC = count_sums(answers, by_speaker, (grouping.place, len(grouping.names)))
        apart = differences(
            resamples.totals(sums_GKC), judged_by(answers, grouping), f1_over=f1_over
        )
        values = {**apart, **over_classes(apart)}
        found |= {
            f"{field} {shown}": values[name] / _divisor(name) for name, shown in _SHOWN.items()
        }

    return found


def _divisor(name: str) -> float:
    """Bias is in percent."""
    return 100.0 if "bias" in name else 1.0
