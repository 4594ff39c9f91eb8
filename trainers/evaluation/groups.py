"""Figures for groups of utterances, such as women and men, or speakers younger and older than 40.

A group is all utterances whose json has the same value in one field, the layout of Table IX of the
SetPeER paper. Utterances without the field are a group of their own, so that nobody vanishes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.grouping import group_rows
from shards.loading.index import CorpusIndex
from shards.loading.targets import Targets
from trainers.evaluation.class_figures import bias
from trainers.evaluation.target import Target

UNKNOWN = "unknown"
# More values than this are names or numbers, and no groups.
MAX_GROUPS = 50
_TABLES = ("number", "per_speaker", "confusion")


def figures_of_groups(
    target: Target,
    truth: Targets,
    answers: NDArray[np.float32],
    index: CorpusIndex,
    fields: Sequence[str],
    *,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """For each field and each of its values: `number`, `num_speakers`, `scores` and `intervals`.

    All utterances of `index` have a known `truth`, and `answers` [N, W]. `fields` are names in the
    json, or paths such as `demographics.sex`. Raises ConfigError for a field that no utterance has,
    or that has too many values.
    """
    return {field: _by_value(target, truth, answers, index, field, seed) for field in fields}


def bias_over_groups(target: Target, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """How far the groups of one field are apart in each figure, in percent (two-stage-aver, Eq. 2).

    `groups` are those of `figures_of_groups` for the field. Figures have the names that people see;
    deviations over speakers are left out. A group whose figure is NaN takes no part.
    """
    of_groups = [target.figures(group) for group in groups.values()]
    names = [name for name in of_groups[0] if not name.endswith(" std")]
    figures_FG = np.asarray([[figures[name] for figures in of_groups] for name in names])

    known_FG = np.isfinite(figures_FG)
    percent_F = 100 * bias(np.where(known_FG, figures_FG, 0.0), known_FG)
    return dict(zip(names, percent_F.tolist(), strict=True))


def _by_value(
    target: Target,
    truth: Targets,
    answers: NDArray[np.float32],
    index: CorpusIndex,
    field: str,
    seed: int,
) -> dict[str, Any]:
    values = index.texts(field)
    if not any(value is not None for value in values):
        raise ConfigError(
            f"--groups {field}: no utterance has this field in its json; give a field, or a path "
            "such as demographics.sex"
        )

    named = np.asarray([UNKNOWN if value is None else value for value in values], dtype=object)
    groups = group_rows(named.astype(str))
    if len(groups) > MAX_GROUPS:
        raise ConfigError(
            f"--groups {field}: got {len(groups)} different values, expected at most {MAX_GROUPS}; "
            "give a field that divides the utterances into few groups"
        )

    return {
        name: _figures(target, truth, answers, index, rows, seed) for name, rows in groups.items()
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
