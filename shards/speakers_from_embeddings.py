"""From embedding tables to a speaker table: which utterances, labels and metadata count; seconds, no encoder.

The tables of all shards that have ever been embedded into a folder count, in the order of their shards' names, so that
a speaker table made in ten steps is the very one that all shards at once give.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from shards.config import ConfigError
from shards.corpus_index import DEFAULT_SPLIT, group_rows
from shards.embeddings import EmbeddingInfo, read_embedding_info, read_embeddings, vectors_of
from shards.naming import list_names
from shards.predictions import is_table_name
from shards.speaker_labels import dig, label_dimensions, label_row
from shards.speaker_statistics import Chunk, build_speakers
from shards.speaker_table import MAX_METADATA_CHARACTERS, SpeakerTable
from shards.storage import join, remove


def list_tables(folder: str) -> dict[str, EmbeddingInfo]:
    """The embedding tables of a folder by URL, in the order of their shards."""
    urls = [join(folder, name) for name in list_names(folder) if is_table_name(name)]
    infos = {url: read_embedding_info(url) for url in urls}
    return dict(sorted(infos.items(), key=lambda item: (item[1].shard, item[1].shard_url)))


def require_one_encoder(tables: Mapping[str, EmbeddingInfo], fingerprint: str, folder: str) -> None:
    """Raise ConfigError when the folder holds another encoder's vectors, which are not comparable."""
    others = {info.encoder for info in tables.values() if info.fingerprint != fingerprint}
    if others:
        raise ConfigError(
            f"{folder}: holds vectors of another encoder ({', '.join(sorted(others))}, or another version of it); give "
            "another --out, or remove the folder to embed everything again"
        )


def remove_replaced(tables: Mapping[str, EmbeddingInfo], finished: Mapping[str, str]) -> list[str]:
    """Remove tables of shards that have changed since; `finished` maps a shard's URL to its table's now."""
    replaced = [url for url, info in tables.items() if info.shard_url in finished and finished[info.shard_url] != url]
    for url in replaced:
        remove(url)
    return replaced


def require_each_once(tables: Mapping[str, EmbeddingInfo], finished: Mapping[str, str]) -> None:
    """Raise ConfigError when utterances of a table now would count twice, as their shard has been moved or copied.

    `finished` is as above. Shards of other corpora may have the same file name, and then other utterances.
    """
    alike: dict[str, list[tuple[str, str]]] = {}
    for shard_url, now in finished.items():
        alike.setdefault(_file_name(shard_url), []).append((shard_url, now))
    planned = frozenset(finished.values())
    for url, info in tables.items():
        for shard_url, now in () if url in planned else alike.get(_file_name(info.shard_url), ()):
            if twice := len(_utterances(url) & _utterances(now)):
                raise ConfigError(
                    f"{url}: holds {twice} utterances of {shard_url}, embedded when they were in {info.shard_url}; "
                    "expected each speaker's keys once. Remove this table if the shard has been moved or copied; give "
                    "another corpus an --out of its own"
                )


def make_speaker_table(
    urls: Sequence[str],
    encoder: Mapping[str, str],
    *,
    labels: Sequence[str],
    metadata: Sequence[str],
    split: str | None,
) -> SpeakerTable:
    """The speakers of all usable utterances of a split (None: of all), with their labels and what they share.

    Raises ConfigError when there is none.
    """
    chunks = _chunks(urls, labels, split)
    table = build_speakers(chunks, label_dimensions(labels), **encoder)
    if not len(table):
        wanted = "" if split is None else f" of the split {split}"
        raise ConfigError(f"no utterance{wanted} could be embedded; the summary above says why")
    if not metadata:
        return table
    shared = _shared_metadata(urls, metadata, split)
    return replace(table, metadata=[shared[speaker] for speaker in table.speakers])


def _file_name(url: str) -> str:
    return url.rpartition("/")[2]


def _utterances(url: str) -> set[tuple[str, str]]:
    """Speaker and key of each usable row."""
    rows = read_embeddings(url)
    return set(zip(rows["speaker"].to_pylist(), rows["key"].to_pylist(), strict=True))


def _chunks(urls: Sequence[str], labels: Sequence[str], split: str | None) -> Callable[[], Iterator[Chunk]]:
    def chunks() -> Iterator[Chunk]:
        for url in urls:
            rows = _of_split(read_embeddings(url), split)
            if not len(rows):
                continue
            speakers = np.asarray(rows["speaker"].to_pylist(), dtype=object)
            found = [label_row(json.loads(text), labels) for text in rows["metadata"].to_pylist()]
            width = len(label_dimensions(labels))
            yield speakers, vectors_of(rows), np.asarray(found, dtype=np.float64).reshape(len(rows), width)

    return chunks


def _of_split(rows: pa.Table, split: str | None) -> pa.Table:
    if split is None:
        return rows
    mine = [(json.loads(text).get("split") or DEFAULT_SPLIT) == split for text in rows["metadata"].to_pylist()]
    return rows.filter(pa.array(mine, pa.bool_()))


def _shared_metadata(urls: Sequence[str], names: Sequence[str], split: str | None) -> dict[str, dict[str, str]]:
    """For each speaker the fields in which all utterances that state them agree, as text."""
    seen: dict[str, dict[str, set[str]]] = {}
    for url in urls:
        rows = _of_split(read_embeddings(url).drop_columns(["vector"]), split)
        texts = np.asarray(rows["metadata"].to_pylist(), dtype=object)
        for speaker, mine in group_rows(np.asarray(rows["speaker"].to_pylist(), dtype=object)).items():
            found = seen.setdefault(speaker, {name: set() for name in names})
            for text in texts[mine]:
                _note(json.loads(text), found)
    return {
        speaker: {name: next(iter(values)) for name, values in found.items() if len(values) == 1}
        for speaker, found in seen.items()
    }


def _note(metadata: Mapping[str, Any], found: Mapping[str, set[str]]) -> None:
    for name, values in found.items():
        value = dig(metadata, name)
        if value is not None and not isinstance(value, Mapping | list) and len(str(value)) <= MAX_METADATA_CHARACTERS:
            values.add(str(value))
