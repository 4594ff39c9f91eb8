"""The unit of work of a job over shards: a shard in, a committed table out. Without Ray and without
torch.
"""

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.reading.reader import decoded_bytes
from actors.reading.utterance import Utterance
from shards.config import ConfigError
from shards.errors import count_reasons
from shards.storage.files import probe

PROBE_BYTES = 1 << 10
WINDOW_UTTERANCES = 256
WINDOW_BYTES = 48 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard: where it lies, which version of it, the table that will hold the result, and what
    makes that.

    `maker` is the digest of the panel that labels, or the fingerprint of the encoder that embeds.
    """

    url: str
    name: str
    size: int
    version: str
    table_url: str
    maker: str


class UnwritableFolderError(ConfigError):
    """Where the tables are to be cannot be written from a worker's machine."""


class UnusableModelsError(ConfigError):
    """The models cannot be loaded, which was found out only when the first of them was needed."""


def require_writable(folder: str) -> None:
    """See that `folder` can be written, before any work is done for it. Raises
    UnwritableFolderError.
    """
    try:
        probe(folder, PROBE_BYTES)
    except OSError as error:
        raise UnwritableFolderError(
            f"--out {folder}: the worker on {platform.node()} cannot write there ({error}); give a "
            "folder that all nodes share, or an object store"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """What a finished shard amounts to; small enough to travel to the driver for every shard."""

    name: str
    num_utterances: int
    seconds_of_audio: float
    rejected: dict[str, int]
    shard_error: str | None
    num_carried_over: int = 0  # utterances whose results come from an earlier table


@dataclass(slots=True)
class ShardProgress:
    """Utterances a worker has done, unfinished shards included; read by another thread."""

    num_utterances: int = 0


def windows(utterances: Iterable[Utterance], progress: ShardProgress) -> Iterator[list[Utterance]]:
    """Cut a stream of utterances into windows of at most WINDOW_UTTERANCES and about WINDOW_BYTES.

    Cut by what the utterances are, never by how they arrived, so that a shard done twice gives the
    same bytes. A window counts as done when the next one is asked for.
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


class TableRow(Protocol):
    """What rows of every kind of table say of their utterance."""

    @property
    def duration_seconds(self) -> float | None:
        """Of its sound, where there is any."""

    @property
    def error(self) -> str | None:
        """Why there is no result, or no full one."""


def summarize(
    name: str, rows: Sequence[TableRow], shard_error: str | None, num_carried_over: int
) -> ShardOutcome:
    """Count what a table's rows say."""
    return ShardOutcome(
        name=name,
        num_utterances=len(rows),
        seconds_of_audio=sum((row.duration_seconds or 0.0 for row in rows), 0.0),
        rejected=count_reasons(row.error for row in rows),
        shard_error=shard_error,
        num_carried_over=num_carried_over,
    )
