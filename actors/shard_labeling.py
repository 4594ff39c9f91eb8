"""One shard from utterances to a committed prediction table: the unit of work, without Ray.

Utterances are gathered into windows (bounded in number and bytes) and each window goes through the panel. Windows are
cut by what the utterances are, never by how they arrived, so a shard labeled twice gives the same bytes.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actors.reading import decoded_bytes
from shards.errors import reason_code
from shards.predictions import Prediction, TableInfo, write_predictions
from shards.utterance import Utterance

if TYPE_CHECKING:
    from actors.panel import Panel  # with torch; the driver imports this module too

WINDOW_UTTERANCES = 256
WINDOW_BYTES = 48 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard to label: where it lies, which version of it, and the table that will hold the result."""

    url: str
    name: str
    size: int
    version: str
    table_url: str
    panel_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """What a labeled shard amounts to; small enough to travel to the driver for every shard."""

    name: str
    num_utterances: int
    seconds_of_audio: float
    rejected: dict[str, int]
    shard_error: str | None


@dataclass(slots=True)
class ShardProgress:
    """How far the current shard is; read by another thread."""

    shard: str = ""
    num_labeled: int = 0
    total_labeled: int = field(default=0)


def windows(utterances: Iterable[Utterance]) -> Iterator[list[Utterance]]:
    """Cut a stream of utterances into windows of at most WINDOW_UTTERANCES and about WINDOW_BYTES."""
    window: list[Utterance] = []
    size = 0
    for utterance in utterances:
        window.append(utterance)
        size += decoded_bytes(utterance)
        if len(window) >= WINDOW_UTTERANCES or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def label_shard(
    task: ShardTask,
    panel: "Panel",
    utterances: Iterable[Utterance],
    *,
    shard_error: str | None,
    progress: ShardProgress,
) -> ShardOutcome:
    """Label `utterances` and commit the table of `task` (temporary name, flush, rename)."""
    progress.shard, progress.num_labeled = task.name, 0
    rows: list[Prediction] = []
    for window in windows(utterances):
        predictions = panel.label(window)
        rows.extend(_finish(task, *pair) for pair in zip(window, predictions, strict=True))
        progress.num_labeled += len(window)
        progress.total_labeled += len(window)
    write_predictions(task.table_url, rows, _table_info(task, panel, shard_error, len(rows)))
    return summarise(task.name, rows, shard_error)


def summarise(name: str, rows: Iterable[Prediction], shard_error: str | None) -> ShardOutcome:
    """Count what a table's rows say."""
    rejected: dict[str, int] = {}
    seconds, number = 0.0, 0
    for row in rows:
        number += 1
        seconds += row.duration_seconds or 0.0
        if row.error is not None:
            code = reason_code(row.error)
            rejected[code] = rejected.get(code, 0) + 1
    return ShardOutcome(
        name=name, num_utterances=number, seconds_of_audio=seconds, rejected=rejected, shard_error=shard_error
    )


def _finish(task: ShardTask, utterance: Utterance, prediction: Prediction) -> Prediction:
    """Name the shard, and keep the reader's reason for a missing modality beside the labelers' own."""
    reasons = dict.fromkeys(reason for reason in (prediction.error, utterance.remark) if reason)
    return dataclasses.replace(prediction, shard=task.name, error="; ".join(reasons) or None)


def _table_info(task: ShardTask, panel: "Panel", shard_error: str | None, num_rows: int) -> TableInfo:
    return TableInfo(
        panel_digest=task.panel_digest,
        panel=panel.resolved_config,
        labelers=panel.labelers,
        shard=task.name,
        shard_url=task.url,
        shard_size=task.size,
        shard_version=task.version,
        shard_error=shard_error,
        num_rows=num_rows,
    )
