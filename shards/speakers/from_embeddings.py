"""From embedding tables to a speaker table: which utterances, labels and metadata count.

No encoder runs, so it takes seconds. The tables of all shards that have ever been embedded into a
folder count, in the order of their shards' names, so that a speaker table made in ten steps is the
very one that all shards at once give.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from shards.config import ConfigError
from shards.grouping import group_rows
from shards.samples.metadata import dig
from shards.speakers.labels import EMOTION, label_dimensions, label_row, stated_class
from shards.speakers.statistics import Chunk, build_speakers
from shards.speakers.table import MAX_METADATA_CHARACTERS, SpeakerTable
from shards.splits import DEFAULT_SPLIT
from shards.storage.files import join, remove
from shards.storage.names import list_names
from shards.tables.embeddings import (
    REMEDY,
    EmbeddingInfo,
    read_embedding_info,
    read_embeddings,
    vectors_of,
)
from shards.tables.names import is_table_name
from shards.tables.replaced import find_replaced


def list_tables(folder: str) -> dict[str, EmbeddingInfo]:
    """The embedding tables of a folder by URL, in the order of their shards."""
    urls = [join(folder, name) for name in list_names(folder) if is_table_name(name)]
    infos = {url: read_embedding_info(url) for url in urls}
    return dict(sorted(infos.items(), key=lambda item: (item[1].shard, item[1].shard_url)))


def require_one_encoder(tables: Mapping[str, EmbeddingInfo], fingerprint: str, folder: str) -> None:
    """Raise ConfigError when the folder holds vectors of another encoder.

    Vectors of different encoders cannot be compared.
    """
    others = {info.encoder for info in tables.values() if info.fingerprint != fingerprint}
    if others:
        raise ConfigError(
            f"{folder}: holds vectors of another encoder ({', '.join(sorted(others))}, or another "
            "version of it); give another --out, or remove the folder to embed everything again"
        )


def remove_replaced(tables: Mapping[str, EmbeddingInfo], finished: Mapping[str, str]) -> list[str]:
    """Remove the tables that others have replaced, and return their URLs.

    `finished` maps the URL of each shard to that of its present table. Raises ConfigError when a
    shard has been copied, so that its utterances would count twice.
    """
    shard_of = {url: info.shard_url for url, info in tables.items()}
    replaced, copies = find_replaced(shard_of, finished, remedy=REMEDY)

    for url, number in copies.items():
        raise ConfigError(
            f"{url}: holds {number} utterances that --shards has too, from {shard_of[url]}; "
            "expected each speaker's keys once. Remove this table if that shard is a copy; give "
            "another corpus its own --out"
        )

    for url in replaced:
        remove(url)
    return replaced


def make_speaker_table(
    urls: Sequence[str],
    encoder: Mapping[str, str],
    *,
    labels: Sequence[str],
    metadata: Sequence[str],
    split: str | None,
) -> SpeakerTable:
    """The speakers of all usable utterances of `split` (None: of all splits).

    Each has the statistics of its labels, and the metadata that its utterances share. Raises
    ConfigError when no utterance is usable, or when none has a label or field that was asked for.
    """
    dimensions = label_dimensions(labels, _classes(urls, labels, split))
    table = build_speakers(_chunks(urls, labels, dimensions, split), dimensions, **encoder)

    wanted = "" if split is None else f" of the split {split}"
    if not len(table):
        raise ConfigError(
            f"no utterance{wanted} has a vector; the tables beside --out give the reasons (`error`)"
        )

    labeled = [
        name
        for name, count in zip(table.dimensions, table.label_count.sum(axis=0), strict=True)
        if count
    ]
    if strange := [
        name for name in labels if name not in labeled and not (name == EMOTION and labeled)
    ]:
        raise ConfigError(
            f"--labels {strange[0]}: no utterance{wanted} has it in its json, {_known_fields(urls)}"
        )

    if not metadata:
        return table

    shared = _shared_metadata(urls, metadata, split)
    return replace(table, metadata=[shared[speaker] for speaker in table.speakers])


def _known_fields(urls: Sequence[str]) -> str:
    """The fields of the first utterance's json, for a message."""
    rows = next(rows for url in urls if len(rows := read_embeddings(url, ["metadata"])))
    return f"where one holds {', '.join(json.loads(rows['metadata'][0].as_py()))}"


def _classes(urls: Sequence[str], labels: Sequence[str], split: str | None) -> set[str]:
    """The classes that utterances state, where these are wanted."""
    if EMOTION not in labels:
        return set()

    texts = (
        text
        for url in urls
        for text in _of_split(read_embeddings(url, ["metadata"]), split)["metadata"].to_pylist()
    )
    return {name for text in texts if (name := stated_class(json.loads(text))) is not None}


def _chunks(
    urls: Sequence[str], labels: Sequence[str], dimensions: Sequence[str], split: str | None
) -> Callable[[], Iterator[Chunk]]:
    def chunks() -> Iterator[Chunk]:
        for url in urls:
            rows = _of_split(read_embeddings(url), split)
            if not len(rows):
                continue

            speakers = np.asarray(rows["speaker"].to_pylist(), dtype=object)
            found = [
                label_row(json.loads(text), labels, dimensions)
                for text in rows["metadata"].to_pylist()
            ]

            yield (
                speakers,
                vectors_of(rows),
                np.asarray(found, dtype=np.float64).reshape(len(rows), len(dimensions)),
            )

    return chunks


def _of_split(rows: pa.Table, split: str | None) -> pa.Table:
    if split is None:
        return rows
    mine = [
        (json.loads(text).get("split") or DEFAULT_SPLIT) == split
        for text in rows["metadata"].to_pylist()
    ]
    return rows.filter(pa.array(mine, pa.bool_()))


def _shared_metadata(
    urls: Sequence[str], names: Sequence[str], split: str | None
) -> dict[str, dict[str, str]]:
    """Each speaker's fields, as text, in which all utterances that have the field agree."""
    seen: dict[str, dict[str, set[str]]] = {}
    for url in urls:
        rows = _of_split(read_embeddings(url, ["speaker", "metadata"]), split)
        texts = np.asarray(rows["metadata"].to_pylist(), dtype=object)
        for speaker, mine in group_rows(
            np.asarray(rows["speaker"].to_pylist(), dtype=object)
        ).items():
            found = seen.setdefault(speaker, {name: set() for name in names})
            for text in texts[mine]:
                _note(json.loads(text), found)

    if strange := [name for name in names if not any(found[name] for found in seen.values())]:
        raise ConfigError(
            f"--metadata {strange[0]}: no utterance has it in its json, {_known_fields(urls)}"
        )

    return {
        speaker: {name: next(iter(values)) for name, values in found.items() if len(values) == 1}
        for speaker, found in seen.items()
    }


def _note(metadata: Mapping[str, Any], found: Mapping[str, set[str]]) -> None:
    for name, values in found.items():
        value = dig(metadata, name)
        if (
            value is not None
            and not isinstance(value, Mapping | list)
            and len(str(value)) <= MAX_METADATA_CHARACTERS
        ):
            values.add(str(value))
