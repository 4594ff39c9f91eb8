"""Figures for groups of utterances, such as women and men, or speakers younger and older than 40.

A group is all utterances whose json has the same value in one field, the layout of Table IX of the
SetPeER paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.loading.index import CorpusIndex
from shards.loading.targets import Targets
from trainers.evaluation.class_figures import bias
from trainers.evaluation.fairness.grouping import Grouping
from trainers.evaluation.target import Target

_TABLES = ("number", "per_speaker", "confusion")


def figures_of_groups(
    target: Target,
    truth: Targets,
    answers: NDArray[np.float32],
    index: CorpusIndex,
    groupings: Sequence[Grouping],
    *,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """For each field and each of its groups: `number`, `num_speakers`, `scores` and `intervals`.

    All utterances of `index` have a known `truth`, and `answers` [N, W]; `groupings` divide them.
    """
    return {
        grouping.field: {
            name: _figures(
                target, truth, answers, index, np.flatnonzero(grouping.place == place), seed
            )
            for place, name in enumerate(grouping.names)
        }
        for grouping in groupings
    }


def bias_over_groups(
    target: Target, groups: Mapping[str, Mapping[str, Any]], left_out: Sequence[str] = ()
) -> dict[str, float | None]:
    """How far the groups of one field are apart in each figure, in percent (two-stage-aver, Eq. 2).

    `groups` are those of `figures_of_groups` for the field, of which the groups `left_out` do not
    count. Figures have the names that people see; deviations over speakers are left out. A group
    whose figure is NaN takes no part, and with fewer than two groups there is no difference (None).
    """
    of_groups = [target.figures(group) for group in groups.values()]
    names = [name for name in of_groups[0] if " std" not in name]
    figures_FG = np.asarray([[figures[name] for figures in of_groups] for name in names])

    counts_G = np.asarray([name not in left_out for name in groups])
    known_FG = np.isfinite(figures_FG) & counts_G
    percent_F = 100 * bias(np.where(known_FG, figures_FG, 0.0), known_FG)
    return {
        name: percent if is_known else None
        for name, percent, is_known in zip(
            names, percent_F.tolist(), known_FG.sum(axis=1) > 1, strict=True
        )
    }


def _figures(
    target: Target,
    truth: Targets,
    answers: NDArray[np.float32],
    index: CorpusIndex,
    rows: NDArray[np.int64],
    seed: int,
) -> dict[str, Any]:
    mine, speakers = truth.take(rows), index.speaker_of_rows[rows]
    scores = target.score(mine, answers[rows], speakers)
    figures = {name: value for name, value in asdict(scores).items() if name not in _TABLES}

    return {
        "number": len(rows),
        "num_speakers": len(scores.per_speaker),
        "scores": figures,
        "intervals": target.intervals(scores, mine, answers[rows], speakers, seed=seed),
    }
