"""One shard from utterances to a committed prediction table: the unit of work, without Ray.

Utterances are gathered into windows (bounded in number and bytes), and each window goes through the
panel.
"""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

from actors.reading.utterance import Utterance
from actors.work.task import ShardOutcome, ShardProgress, ShardTask, summarize, windows
from shards.tables.predictions import Prediction, TableInfo, write_predictions

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
    for window in windows(utterances, progress):
        predictions = panel.label(window)
        rows.extend(_finish(task, *pair) for pair in zip(window, predictions, strict=True))
    write_predictions(task.table_url, rows, _table_info(task, panel, shard_error, len(rows)))
    return summarize(task.name, rows, shard_error)


def _finish(task: ShardTask, utterance: Utterance, prediction: Prediction) -> Prediction:
    """Name the shard, and add the reader's remark to the labelers' reasons."""
    reasons = dict.fromkeys(reason for reason in (prediction.error, utterance.remark) if reason)
    return dataclasses.replace(prediction, shard=task.name, error="; ".join(reasons) or None)


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
