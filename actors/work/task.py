"""The unit of work of a job over shards: a shard in, a committed table out.

Imports neither Ray nor torch.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from actors.reading.reader import decoded_bytes
from actors.reading.utterance import Utterance
from actors.work.errors import UnwritableFolderError
from shards.errors import count_reasons
from shards.storage.files import exists, join, probe

PROBE_BYTES = 1 << 10
WITNESS = "job"  # what the file that every worker has to see is called while a job runs
WINDOW_UTTERANCES = 256
WINDOW_BYTES = 48 * 2**20

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard, its version, and the table that will hold the result.

    `maker` says what makes the table: the digest of the panel that labels, or the fingerprint of
    the encoder that embeds.
    """

    url: str
    name: str
    size: int
    version: str
    table_url: str
    maker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHome:
    """Where a worker lives: its process, the name of its machine, and Ray's id of the node."""

    pid: int
    host: str
    node_id: str


def require_writable(folder: str, witness: str | None = None) -> None:
    """Try to write to `folder`, before any work is done for it.

    `witness` is the name of a file that the driver has written there. Raises UnwritableFolderError,
    also when the file is not to be seen: then the folder is another one that is called alike.
    """
    try:
        probe(folder, PROBE_BYTES)
    except OSError as error:
        raise UnwritableFolderError(
            f"--out {folder}: the worker on {platform.node()} cannot write there ({error}); give a "
            "folder that all nodes share, or an object store"
        ) from error

    if witness is not None and not exists(join(folder, witness)):
        raise UnwritableFolderError(
            f"--out {folder}: the worker on {platform.node()} can write there, but does not see "
            "what this job has written, so its folder is another one; give a folder that all nodes "
            "share, or an object store"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """The counts of a finished shard; small enough to travel to the driver for every shard."""

    name: str
    num_utterances: int
    seconds_of_audio: float
    rejected: dict[str, int]
    shard_error: str | None
    num_carried_over: int = 0  # utterances whose results come from an earlier table


@dataclass(slots=True)
class ShardProgress:
    """A worker's count of utterances, unfinished shards included; another thread reads it."""

    num_utterances: int = 0


def windows(utterances: Iterable[Utterance], progress: ShardProgress) -> Iterator[list[Utterance]]:
    """Cut a stream of utterances into windows of at most WINDOW_UTTERANCES and about WINDOW_BYTES.

    Only the utterances decide where a window ends, never when they arrived, so that a shard done
    twice gives the same bytes. A window counts as done when the next one is asked for.
    """
    window: list[Utterance] = []
    size = 0

    for utterance in utterances:
        window.append(utterance)
        size += decoded_bytes(utterance)
        if len(window) >= WINDOW_UTTERANCES or size >= WINDOW_BYTES:
            yield window
            progress.num_utterances += len(window)
            window, size = [], 0

    if window:
        yield window
        progress.num_utterances += len(window)


def rows_of_window(
    window: Sequence[Utterance],
    make: Callable[[Sequence[Utterance]], Sequence[Row]],
    take_over: Callable[[Utterance, Mapping[str, Any]], Row],
) -> list[Row]:
    """A row for each utterance of a window, in order.

    `make` gives the rows of the utterances that no earlier table has a result of; `take_over` gives
    the row of one that has such a result.
    """
    fresh = [utterance for utterance in window if utterance.earlier is None]
    made = iter(make(fresh) if fresh else ())
    return [
        next(made) if utterance.earlier is None else take_over(utterance, utterance.earlier)
        for utterance in window
    ]


class TableRow(Protocol):
    """What a row of any kind of table says about its utterance."""

    @property
    def duration_seconds(self) -> float | None:
        """Seconds of its sound, where it has sound."""

    @property
    def error(self) -> str | None:
        """Why there is no result, or only a part of it."""


def summarize(
    name: str, rows: Sequence[TableRow], shard_error: str | None, num_carried_over: int
) -> ShardOutcome:
    """Count what the rows of a finished table say."""
    return ShardOutcome(
        name=name,
        num_utterances=len(rows),
        seconds_of_audio=sum((row.duration_seconds or 0.0 for row in rows), 0.0),
        rejected=count_reasons(row.error for row in rows),
        shard_error=shard_error,
        num_carried_over=num_carried_over,
    )
