"""One shard from utterances to a committed prediction table: the unit of work, without Ray.

Utterances are gathered into windows (bounded in number and bytes), and each window goes through the
panel. Utterances whose results are in an earlier table take these over instead.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.reading.utterance import Utterance
from actors.work.task import (
    ShardOutcome,
    ShardProgress,
    ShardTask,
    rows_of_window,
    summarize,
    windows,
)
from shards.tables.predictions import (
    MODALITIES,
    OBJECTIVES,
    Prediction,
    TableInfo,
    write_predictions,
)

if TYPE_CHECKING:
    from actors.labeling.panel import Panel  # with torch; the driver imports this module too


def label_shard(
    task: ShardTask,
    panel: "Panel",
    utterances: Iterable[Utterance],
    *,
    shard_error: str | None,
    progress: ShardProgress,
) -> ShardOutcome:
    """Label `utterances` and commit the table of `task` (temporary name, flush, rename)."""
    rows: list[Prediction] = []
    num_carried_over = 0

    for window in windows(utterances, progress):
        rows += rows_of_window(window, partial(_label, task, panel), partial(_carry_over, task))
        num_carried_over += sum(utterance.earlier is not None for utterance in window)

    write_predictions(task.table_url, rows, _table_info(task, panel, shard_error, len(rows)))
    return summarize(task.name, rows, shard_error, num_carried_over)


def _label(task: ShardTask, panel: "Panel", fresh: Sequence[Utterance]) -> list[Prediction]:
    pairs = zip(fresh, panel.label(fresh), strict=True)
    return [_finish(task, utterance, prediction) for utterance, prediction in pairs]


def _finish(task: ShardTask, utterance: Utterance, prediction: Prediction) -> Prediction:
    """Name the shard, and add the reader's remark to the labelers' reasons."""
    reasons = dict.fromkeys(reason for reason in (prediction.error, utterance.remark) if reason)
    return dataclasses.replace(
        prediction,
        shard=task.name,
        error="; ".join(reasons) or None,
        content=utterance.content if _has_result(prediction) else None,
    )


def _has_result(prediction: Prediction) -> bool:
    """Whether a model has said anything: only then is there something worth taking over.

    A sample that could not be read is tried again, because another release may read it. A labeler's
    reason beside other predictions, such as a video without a face, is a result like these.
    """
    return bool(prediction.objectives) or any(
        getattr(prediction, modality) is not None for modality in MODALITIES
    )


def _carry_over(task: ShardTask, utterance: Utterance, row: Mapping[str, Any]) -> Prediction:
    """The results of an earlier row for the sample as it is now.

    The transcript is the row's: the sample's own is part of its content, and if there was none, the
    transcript comes from speech recognition.
    """
    results = {name: _values(row[name]) for name in (*MODALITIES, *OBJECTIVES) if name in row}
    return Prediction(
        key=utterance.key,
        shard=task.name,
        offset=utterance.offset,
        size=utterance.size,
        speaker=utterance.speaker,
        duration_seconds=utterance.duration_seconds,
        audio=results["audio"],
        vision=results["vision"],
        text=results["text"],
        transcript=row["transcript"],
        emotion=utterance.emotion,
        metadata=utterance.metadata,
        objectives={
            name: values
            for name, values in results.items()
            if name in OBJECTIVES and values is not None
        },
        error=row["error"],
        content=utterance.content,
    )


def _values(cell: list[float] | None) -> NDArray[np.float32] | None:
    return None if cell is None else np.array(cell, dtype=np.float32)


def _table_info(
    task: ShardTask, panel: "Panel", shard_error: str | None, num_rows: int
) -> TableInfo:
    return TableInfo(
        panel_digest=task.maker,
        panel=panel.resolved_config,
        labelers=panel.labelers,
        shard=task.name,
        shard_url=task.url,
        shard_size=task.size,
        shard_version=task.version,
        shard_error=shard_error,
        num_rows=num_rows,
    )
