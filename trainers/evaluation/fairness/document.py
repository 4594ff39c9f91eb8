"""What metrics.json says of groups of people: their figures, their differences, who is too few.

Shapes: N utterances, K groups, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.evaluation.class_figures import F1Over
from trainers.evaluation.fairness.chance import chances
from trainers.evaluation.fairness.differences import (
    BY_CLASS,
    differences,
    is_complete,
    over_classes,
    rates,
)
from trainers.evaluation.fairness.grouping import MIN_SPEAKERS, MIN_UTTERANCES, Grouping
from trainers.evaluation.multilabel.document import one_vs_rest_document
from trainers.evaluation.multilabel.figures import f1, macro_f1
from trainers.evaluation.multilabel.one_vs_rest import NUMBER, TRUE, Axis, OneVsRest, count_sums
from trainers.evaluation.multilabel.units import Figures, Units, rounded
from trainers.evaluation.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What is known class by class and group by group.

    `document` is the part of metrics.json: `one_vs_rest` and `fairness`. `left_out` are the groups
    of each field that differences over all classes leave out.
    """

    document: Mapping[str, Any]
    left_out: Mapping[str, Sequence[str]]


def judge(
    answers: OneVsRest | None,
    groupings: Sequence[Grouping],
    speakers: NDArray[np.object_],
    target: Target,
    seed: int,
) -> Judged:
    """Judge answers class by class and group by group.

    `answers` are None for a `target` without classes: groups are then judged by their size alone.
    """
    if answers is None:
        too_few = {
            grouping.field: [
                name
                for name, reason in zip(grouping.names, grouping.reasons, strict=True)
                if reason is not None
            ]
            for grouping in groupings
        }
        return Judged(document={}, left_out=too_few)

    units, f1_over = Units(speakers, seed), target.learned.f1_over
    return Judged(
        document={
            "one_vs_rest": one_vs_rest_document(answers, units, f1_over=f1_over),
            "fairness": fairness_document(
                answers, groupings, speakers, units, f1_over=f1_over, seed=seed
            ),
        },
        left_out={
            grouping.field: [
                name
                for name, is_judged in zip(
                    grouping.names, is_complete(judged_by(answers, grouping)), strict=True
                )
                if not is_judged
            ]
            for grouping in groupings
        },
    )


def fairness_document(
    answers: OneVsRest,
    groupings: Sequence[Grouping],
    speakers: NDArray[np.object_],
    units: Units,
    *,
    f1_over: F1Over,
    seed: int,
) -> dict[str, Any]:
    """The groups of each field, how far they are apart, and what is too small to judge.

    `speakers` [N] and `units` are those of the same utterances.
    """
    return {
        "min_utterances": MIN_UTTERANCES,
        "min_speakers": MIN_SPEAKERS,
        "fields": {
            grouping.field: _field(answers, grouping, speakers, units, f1_over, seed)
            for grouping in groupings
        },
    }


def judged_by(answers: OneVsRest, grouping: Grouping) -> NDArray[np.bool_]:
    """Which groups are judged by which classes [K, C]: large ones in which the class is true."""
    sums_KC = count_sums(answers, (grouping.place, len(grouping.names)))
    return np.asarray(grouping.is_large_enough[:, None] & (sums_KC[..., TRUE] > 0))


def too_small(answers: OneVsRest, grouping: Grouping) -> list[str]:
    """A line for each group that a difference leaves out: its name, and why."""
    usable_KC = judged_by(answers, grouping)
    # A class that is true of nobody is missing from the corpus, not from a group.
    there_C = np.asarray(answers.truth_NC.any(axis=0))

    lines = []
    for name, reason, usable_C in zip(grouping.names, grouping.reasons, usable_KC, strict=True):
        missing = [
            emotion
            for emotion, is_there, is_usable in zip(answers.names, there_C, usable_C, strict=True)
            if is_there and not is_usable
        ]
        if reason is not None:
            lines.append(f"{name}: {reason}")
        elif missing:
            lines.append(f"{name}: no utterance with {', '.join(missing)}")

    return lines


def _field(
    answers: OneVsRest,
    grouping: Grouping,
    speakers: NDArray[np.object_],
    units: Units,
    f1_over: F1Over,
    seed: int,
) -> dict[str, Any]:
    by_group = (grouping.place, len(grouping.names))
    usable_KC = judged_by(answers, grouping)

    def count(*axes: Axis) -> tuple[NDArray[np.float64], ...]:
        return (count_sums(answers, *axes, by_group),)

    def scores(sums_KC: NDArray[np.float64]) -> Figures:
        return {"macro_f1": macro_f1(sums_KC, f1_over=f1_over)}

    def apart(sums_KC: NDArray[np.float64]) -> Figures:
        found = differences(sums_KC, usable_KC, f1_over=f1_over)
        return {**found, **over_classes(found)}

    found = units.measure(count, apart)
    by_chance = chances(answers, speakers, grouping, usable_KC, f1_over=f1_over, seed=seed)
    return {
        "groups": _groups(answers, grouping, units.measure(count, scores)["macro_f1"]),
        "differences": {
            name: entry | {"p": by_chance[name]}
            for name, entry in found.items()
            if name not in BY_CLASS
        },
        "emotions": {
            emotion: {name: found[name][place] for name in BY_CLASS}
            for place, emotion in enumerate(answers.names)
        },
        "too_small": too_small(answers, grouping),
    }


def _groups(
    answers: OneVsRest, grouping: Grouping, scores: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    sums_KC = count_sums(answers, (grouping.place, len(grouping.names)))
    by_class = {"f1": f1(sums_KC), **rates(sums_KC)}

    return {
        name: {
            "number": int(sums_KC[place, 0, NUMBER]),
            "num_speakers": int(grouping.num_speakers[place]),
            "macro_f1": scores[place],
            "emotions": {
                emotion: {"number": int(sums_KC[place, at, TRUE])}
                | {figure: rounded(values[place, at]) for figure, values in by_class.items()}
                for at, emotion in enumerate(answers.names)
            },
        }
        for place, name in enumerate(grouping.names)
    }
