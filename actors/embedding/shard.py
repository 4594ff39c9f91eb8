"""One shard from utterances to a committed embedding table, without Ray.

This is the unit of work of `emostream embed`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from actors.embedding.embedders import Embedder
from actors.inference.outcomes import Missing, Outcome
from actors.reading.utterance import Utterance
from actors.work.task import (
    ShardOutcome,
    ShardProgress,
    ShardTask,
    rows_of_window,
    summarize,
    windows,
)
from shards.tables.embeddings import Embedding, EmbeddingInfo, write_embeddings


def embed_shard(
    task: ShardTask,
    embedder: Embedder,
    encoder: str,
    utterances: Iterable[Utterance],
    *,
    shard_error: str | None,
    progress: ShardProgress,
) -> ShardOutcome:
    """Embed `utterances` and commit the table of `task`; `encoder` names the encoder to people."""
    rows: list[Embedding] = []
    num_carried_over = 0

    for window in windows(utterances, progress):
        rows += rows_of_window(window, partial(embed_window, embedder), _carry_over)
        num_carried_over += sum(utterance.earlier is not None for utterance in window)

    info = EmbeddingInfo(
        encoder=encoder,
        fingerprint=task.maker,
        shard=task.name,
        shard_url=task.url,
        shard_size=task.size,
        shard_version=task.version,
        shard_error=shard_error,
        num_rows=len(rows),
    )

    write_embeddings(task.table_url, rows, info)
    return summarize(task.name, rows, shard_error, num_carried_over)


def embed_window(embedder: Embedder, window: Sequence[Utterance]) -> list[Embedding]:
    """A row for each utterance, in order."""
    problems = [_problem(utterance) for utterance in window]
    usable = [
        utterance for utterance, problem in zip(window, problems, strict=True) if problem is None
    ]

    sounds = [utterance.audio for utterance in usable if utterance.audio is not None]
    # Why an iterator: an utterance with a problem takes no vector, so that places would not match.
    vectors = iter(embedder.embed(sounds, [str(utterance.speaker) for utterance in usable]))

    return [
        _row(utterance, next(vectors) if problem is None else Missing(problem))
        for utterance, problem in zip(window, problems, strict=True)
    ]


def _problem(utterance: Utterance) -> str | None:
    """Why an utterance cannot be embedded."""
    if utterance.error is not None:
        return utterance.error
    if utterance.audio is None:
        return utterance.remark or "no_audio: the sample has no sound"
    return "no_speaker: its json names no speaker" if utterance.speaker is None else None


def _row(utterance: Utterance, outcome: Outcome) -> Embedding:
    missing = outcome if isinstance(outcome, Missing) else None
    return Embedding(
        key=utterance.key,
        speaker=utterance.speaker,
        duration_seconds=utterance.duration_seconds,
        vector=None if isinstance(outcome, Missing) else outcome,
        metadata=utterance.metadata,
        error=None if missing is None else missing.reason,
        content=utterance.content if missing is None else None,
    )


def _carry_over(utterance: Utterance, row: Mapping[str, Any]) -> Embedding:
    """The vector of an earlier row for the sample as it is now."""
    return Embedding(
        key=utterance.key,
        speaker=utterance.speaker,
        duration_seconds=utterance.duration_seconds,
        vector=np.array(row["vector"], dtype=np.float32),
        metadata=utterance.metadata,
        error=None,
        content=utterance.content,
    )
