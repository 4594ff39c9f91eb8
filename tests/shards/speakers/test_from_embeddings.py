"""A speaker table from the embedding tables of shards."""

import json
from pathlib import Path

import numpy as np

from shards.speakers.from_embeddings import make_speaker_table
from shards.tables.embeddings import Embedding, EmbeddingInfo, write_embeddings


def test_classes_beyond_the_seven_emotions_are_counted(tmp_path: Path) -> None:
    """The statistics of a corpus with boredom are those of all classes, over all of its shards."""
    stated = {"a": ["anger", "boredom", "boredom"], "b": ["boredom", "sadness"]}
    urls = [_table(tmp_path, speaker, classes) for speaker, classes in stated.items()]

    table = make_speaker_table(
        urls, {"encoder": "e", "fingerprint": "f"}, labels=("emotion",), metadata=(), split=None
    )

    assert table.dimensions == ("anger", "sadness", "boredom")
    np.testing.assert_allclose(table.label_mean, [[1 / 3, 0, 2 / 3], [0, 1 / 2, 1 / 2]])
    np.testing.assert_array_equal(table.label_count, [[3, 3, 3], [2, 2, 2]])


def _table(folder: Path, speaker: str, classes: list[str]) -> str:
    url = str(folder / f"{speaker}.parquet")
    rows = [
        Embedding(
            key=f"{speaker}{place}",
            speaker=speaker,
            duration_seconds=1.0,
            vector=np.ones(4, dtype=np.float32),
            metadata=json.dumps({"emotion": name}),
            error=None,
        )
        for place, name in enumerate(classes)
    ]
    info = EmbeddingInfo(
        encoder="e",
        fingerprint="f",
        shard=f"{speaker}.tar",
        shard_url=f"/corpus/{speaker}.tar",
        shard_size=1,
        shard_version="1",
        shard_error=None,
        num_rows=len(rows),
    )
    write_embeddings(url, rows, info)
    return url
