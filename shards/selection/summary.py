"""What a selection amounts to: summary.json, whose layout follows the paper's Tables I, II and V
and Figure 4.

A plain mapping and no record class: it is the JSON document itself, with a format version, and the
report reads it.
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
# Distances beyond are counted in the last bin: KL has no upper end, and past 4 nats teachers only
# differ more.
HISTOGRAM_LIMIT = {"kl": 4.0, "js": math.log(2)}


def gini(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gini coefficient of each row of class counts [S, C]: 0 all classes alike, 1 - 1/C one class
    only.

    Mean absolute difference between classes over twice their mean (setpeer-emoceleb, Figure 4).
    """
    num_classes = counts.shape[1]
    ordered = np.sort(counts, axis=1)
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
    """The whole of summary.json; nothing in it is NaN or infinite. `unfinished` says why tables may
    be missing.
    """
    kept, evaluation = selection.kept, Evaluation(candidates, selection, config)
    summary = {
        "format_version": FORMAT_VERSION,
        "config": to_mapping(config)
        | {"predictions": absolute(config.predictions)},  # `report` runs anywhere
        "num_utterances": len(candidates),
        "num_kept": int(kept.sum()),
        "num_rejected": int((~kept).sum()),
        "rejected": _reasons(selection.reason[~kept]),
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
    """How often each code occurs, the most frequent first."""
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
    """Utterances and Gini coefficient of the kept speakers; null where there are none."""
    kept = selection.kept
    if not kept.any():
        return {"utterances_per_speaker": None, "gini": None}
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
    """The distances of all utterances on which every teacher spoke; null for one teacher."""
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
    """`values` in equal bins from 0 to `limit`, what lies outside in the first and the last."""
    heights, edges = np.histogram(np.clip(values, 0.0, limit), bins=num_bins, range=(0.0, limit))
    return {
        "edges": [round(float(edge), 6) for edge in edges],
        "counts": [int(height) for height in heights],
    }


def _same_label(candidates: Candidates, config: SelectConfig) -> dict[str, float | None]:
    """How often each pair of teachers names the same emotion, over utterances on which both
    spoke.
    """
    label = {name: labels_of(candidates.teachers[name]) for name in config.teachers}
    shares: dict[str, float | None] = {}
    for first, second in combinations(config.teachers, 2):
        both = (label[first] >= 0) & (label[second] >= 0)
        same = label[first][both] == label[second][both]
        shares[f"{first},{second}"] = round(float(same.mean()), 4) if len(same) else None
    return shares


def _json_ready(value: Any) -> Any:
    """`value` with NaN as null: the summary is strict JSON."""
    if isinstance(value, Mapping):
        return {name: _json_ready(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
