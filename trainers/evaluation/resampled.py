"""Figures of finished evaluations in each resample of their speakers, for comparing methods.

Evaluations of the same speakers are resampled alike, because the resamples depend on nothing but
the number of speakers: so the difference of two methods is taken within each resample. What makes
some speakers easy for both methods drops out of it, and its interval is narrower than those of the
methods let expect. The intervals say how other speakers could differ, and nothing about other
seeds, over which figures are averaged.

Shapes: N utterances, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.loading.targets import Targets
from shards.resampling import SpeakerResamples
from trainers.evaluation.intervals import class_resamples, rating_resamples, value_resamples
from trainers.evaluation.metrics import score_classes, score_ratings, score_values
from trainers.evaluation.multilabel.rated_target import RatedTarget
from trainers.evaluation.targets import ClassTarget, target_of

Interval = tuple[float, float]
SEED = 0


@dataclass(frozen=True, slots=True)
class ResampledRun:
    """The figures [R] of one evaluation in each resample, by the names that people see.

    `speakers` are those of the utterances that count, in order.
    """

    speakers: tuple[str, ...]
    resamples: SpeakerResamples
    figures: Mapping[str, NDArray[np.float64]]


def resampled_run(
    metrics: Mapping[str, Any], table: pa.Table, f1_over: Literal["present", "classes"]
) -> ResampledRun:
    """Resample an evaluation: what its metrics.json holds, and its predictions.parquet."""
    target = target_of(metrics)
    if isinstance(target, ClassTarget):
        return _of_classes(target, table, f1_over)
    if isinstance(target, RatedTarget):
        return _of_ratings(target, table, f1_over)
    return _of_values(target.names, table)


def interval(runs: Sequence[ResampledRun], figure: str) -> Interval | None:
    """The 95 % interval of a method's mean over its runs; None when their speakers differ."""
    return _interval(runs, figure, _mean(runs, figure))


def difference_interval(
    mine: Sequence[ResampledRun], theirs: Sequence[ResampledRun], figure: str
) -> Interval | None:
    """The 95 % interval of the difference of two methods' means, paired by speaker.

    None when the methods were not measured on the same speakers.
    """
    return _interval([*mine, *theirs], figure, _mean(mine, figure) - _mean(theirs, figure))


def _of_classes(
    target: ClassTarget, table: pa.Table, f1_over: Literal["present", "classes"]
) -> ResampledRun:
    known = table.filter(table["truth"].is_valid())
    number = {name: place for place, name in enumerate(target.names)}
    truth, predicted = (
        np.asarray([number[name] for name in known[column].to_pylist()], dtype=np.int64)
        for column in ("truth", "predicted")
    )
    speakers = _speakers(known)

    scores = score_classes(truth, predicted, speakers, target.names, f1_over=f1_over)
    resamples, found = class_resamples(
        scores, truth, predicted, speakers, f1_over=f1_over, seed=SEED
    )
    figures = {target.FIGURES[name]: values for name, values in found.items()}
    return ResampledRun(tuple(np.unique(speakers.astype(str))), resamples, figures)


def _of_ratings(
    target: RatedTarget, table: pa.Table, f1_over: Literal["present", "classes"]
) -> ResampledRun:
    known = table.filter(table["truth"].is_valid())
    truth, answers = (_columns(known, side, target.names) for side in ("truth", "score"))
    judged = target.one_vs_rest(Targets("ratings", target.names, truth), answers)
    speakers = _speakers(known)

    scores = score_ratings(judged, speakers, f1_over=f1_over)
    resamples, found = rating_resamples(scores, judged, speakers, f1_over=f1_over, seed=SEED)
    figures = {target.FIGURES[name]: values for name, values in found.items()}
    return ResampledRun(tuple(np.unique(speakers.astype(str))), resamples, figures)


def _of_values(names: Sequence[str], table: pa.Table) -> ResampledRun:
    columns = [f"truth_{name}" for name in names]
    for column in columns:
        table = table.filter(table[column].is_valid())
    truth, predicted = (_columns(table, side, names) for side in ("truth", "score"))
    speakers = _speakers(table)

    scores = score_values(truth, predicted, speakers)
    resamples, found = value_resamples(scores, truth, predicted, speakers, seed=SEED)
    figures = {
        f"{shown} {name}": found[key][:, place]
        for place, name in enumerate(names)
        for key, shown in (("overall", "O-CCC"), ("over_speakers", "A-CCC"))
    }
    return ResampledRun(tuple(np.unique(speakers.astype(str))), resamples, figures)


def _columns(table: pa.Table, side: str, names: Sequence[str]) -> NDArray[np.float32]:
    """The columns `SIDE_NAME` [N, W]."""
    return np.stack([table[f"{side}_{name}"].to_numpy() for name in names], axis=1).astype(
        np.float32
    )


def _speakers(table: pa.Table) -> NDArray[np.object_]:
    return np.asarray(table["speaker"].to_pylist(), dtype=object)


def _mean(runs: Sequence[ResampledRun], figure: str) -> NDArray[np.float64]:
    return np.asarray(np.mean([run.figures[figure] for run in runs], axis=0))


def _interval(
    runs: Sequence[ResampledRun], figure: str, values_R: NDArray[np.float64]
) -> Interval | None:
    if len({run.speakers for run in runs}) > 1:
        return None

    low, high = runs[0].resamples.interval(values_R)
    return None if np.isnan(low) else (low, high)
