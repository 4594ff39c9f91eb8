"""The content of summary.json: counts, agreement and label quality of a selection.

Its layout follows Tables I, II and V and Figure 4 of the paper (setpeer-emoceleb). It is a plain
mapping, not a record class, because it is the JSON document itself: it has a format version, and
`report` reads it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.config_values import to_mapping
from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.errors import reason_code
from shards.selection.advice import advice
from shards.selection.coverage import missing_emotions
from shards.selection.label_quality import Evaluation
from shards.selection.rule import (
    SPLITS,
    Candidates,
    SelectConfig,
    Selection,
    class_numbers,
    labels_of,
)
from shards.storage.urls import absolute
from shards.tables.predictions import TableInfo

FORMAT_VERSION = 2
NUM_DISTANCE_BINS = 40
NUM_GINI_BINS = 20
# Larger distances are counted in the last bin: KL has no upper end, and beyond 4 nats teachers only
# differ even more. JS is never above ln 2.
HISTOGRAM_LIMIT = {"kl": 4.0, "js": math.log(2)}


def gini(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Gini coefficient of each row of class counts [S, C], one row for each of S speakers.

    It is 0 when all classes are equally frequent, and 1 - 1/C when there is only one class. It is
    the mean absolute difference between classes over twice their mean (setpeer-emoceleb, Figure 4).
    """
    num_classes = counts.shape[1]
    ordered = np.sort(counts, axis=1)

    # The sum of all pairwise differences, without the pairs: in rising order, the count of rank r
    # is the larger one in r - 1 pairs and the smaller one in C - r pairs.
    ranks = np.arange(1, num_classes + 1)
    return np.asarray(
        ((2 * ranks - num_classes - 1) * ordered).sum(axis=1) / (num_classes * ordered.sum(axis=1))
    )


def summarize(
    candidates: Candidates,
    selection: Selection,
    config: SelectConfig,
    infos: Sequence[TableInfo],
    *,
    unfinished: str | None = None,
) -> dict[str, Any]:
    """The whole content of summary.json, without NaN and infinity.

    `unfinished` says why tables may be missing; None when all are there.
    """
    kept, evaluation = selection.kept, Evaluation(candidates, selection, config)
    rejected = _reasons(selection.reason[~kept])

    summary = {
        "format_version": FORMAT_VERSION,
        # The folder is made absolute because `report` may run in another directory.
        "config": to_mapping(config) | {"predictions": absolute(config.predictions)},
        "num_utterances": len(candidates),
        "num_kept": int(kept.sum()),
        "num_rejected": int((~kept).sum()),
        "rejected": rejected,
        "advice": advice(int(kept.sum()), len(candidates), rejected, config),
        "num_speakers_in": _num_speakers(candidates.speaker),
        "num_speakers_kept": _num_speakers(candidates.speaker[kept]),
        "shards": {
            "num": len(infos),
            "unfinished": unfinished,
            "unreadable": [
                {"shard": info.shard, "error": info.shard_error}
                for info in infos
                if info.shard_error
            ],
        },
        "panel": {
            name: dict(labeler) for info in infos[:1] for name, labeler in info.labelers.items()
        },
        "missing_emotions": missing_emotions(candidates.known_by(config.teachers)),
        "hours": {"in": _hours(candidates.seconds), "kept": _hours(candidates.seconds[kept])},
        "keep_rates": dict(selection.rates),
        "classes": {
            "counts": _class_counts(selection.label[kept], config.classes),
            "counts_before": _class_counts(selection.label, EMOTIONS),
        },
        "splits": {name: _split(candidates, selection.split == name) for name in SPLITS},
        **_speaker_statistics(candidates, selection, config),
        "agreement": _agreement(selection, config),
        "pairs": _same_label(candidates, config),
        "retention": evaluation.retention(),
        "quality": evaluation.quality(),
    }

    return {name: _json_ready(value) for name, value in summary.items()}


def _reasons(reasons: Iterable[str]) -> dict[str, int]:
    """How often each reason code occurs, the most frequent first."""
    # Few reasons differ, so equal ones are counted first and each is parsed only once.
    counts: Counter[str] = Counter()
    for reason, number in Counter(reasons).items():
        counts[reason_code(reason)] += number

    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _num_speakers(speaker: NDArray[np.int64]) -> int:
    return len(np.unique(speaker[speaker >= 0]))


def _hours(seconds: NDArray[np.float64]) -> float:
    return round(float(np.nansum(seconds)) / 3600, 4)


def _class_counts(label: NDArray[np.int64], names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(label[label >= 0], minlength=NUM_EMOTIONS)

    return {name: int(counts[EMOTIONS.index(name)]) for name in names}


def _split(candidates: Candidates, rows: NDArray[np.bool_]) -> dict[str, int]:
    return {"utterances": int(rows.sum()), "speakers": _num_speakers(candidates.speaker[rows])}


def _speaker_statistics(
    candidates: Candidates, selection: Selection, config: SelectConfig
) -> dict[str, Any]:
    """The entries about utterances and Gini coefficients of kept speakers; None without any."""
    kept = selection.kept
    if not kept.any():
        return {"utterances_per_speaker": None, "gini": None}

    # Speaker and label of an utterance become the number of one cell, so that one bincount gives
    # the counts of all speakers. Speakers without a kept utterance are left out again.
    shape = (len(candidates.speakers), NUM_EMOTIONS)
    cells = np.ravel_multi_index((candidates.speaker[kept], selection.label[kept]), shape)
    counts = np.bincount(cells, minlength=math.prod(shape)).reshape(shape)[:, class_numbers(config)]
    counts = counts[counts.any(axis=1)]

    numbers, values = counts.sum(axis=1), gini(counts.astype(np.float64))
    return {
        "utterances_per_speaker": {
            "min": int(numbers.min()),
            "median": float(np.median(numbers)),
            "mean": round(float(numbers.mean()), 2),
            "max": int(numbers.max()),
        },
        "gini": {
            "mean": round(float(values.mean()), 4),
            "histogram": _histogram(values, NUM_GINI_BINS, 1.0),
        },
    }


def _agreement(selection: Selection, config: SelectConfig) -> dict[str, Any] | None:
    """The distances of all utterances that every teacher has a prediction for.

    None for one teacher, which has no distances.
    """
    if selection.threshold is None:
        return None

    limit = HISTOGRAM_LIMIT[config.distance]
    known = selection.distance[~np.isnan(selection.distance)]

    return {
        "distance": config.distance,
        "threshold": selection.threshold,
        "histogram": _histogram(known, NUM_DISTANCE_BINS, limit),
        "num_beyond": int((known > limit).sum()),
    }


def _histogram(values: NDArray[np.float64], num_bins: int, limit: float) -> dict[str, list[float]]:
    """The numbers of `values` in equal bins from 0 to `limit`.

    Values below 0 are counted in the first bin, and values above `limit` in the last.
    """
    heights, edges = np.histogram(np.clip(values, 0.0, limit), bins=num_bins, range=(0.0, limit))

    return {
        "edges": [round(float(edge), 6) for edge in edges],
        "counts": [int(height) for height in heights],
    }


def _same_label(candidates: Candidates, config: SelectConfig) -> dict[str, float | None]:
    """How often each pair of teachers gives the same label, as a share.

    The share is over the utterances that both have a prediction for; None where there are none.
    """
    label = {name: labels_of(candidates.teachers[name]) for name in config.teachers}

    shares: dict[str, float | None] = {}
    for first, second in combinations(config.teachers, 2):
        both = (label[first] >= 0) & (label[second] >= 0)
        same = label[first][both] == label[second][both]
        shares[f"{first},{second}"] = round(float(same.mean()), 4) if len(same) else None

    return shares


def _json_ready(value: Any) -> Any:
    """`value` with None for NaN and infinity, which strict JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _json_ready(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
