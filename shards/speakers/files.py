"""Speaker tables as Parquet files: `emostream embed` writes them, the speaker index reads them.

A file is checked like any input from outside: a vector that is zero or not finite would be near to
nobody, or to everybody.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.speakers.table import SpeakerTable
from shards.storage.files import atomic_write
from shards.storage.parquet import METADATA_KEY, open_parquet

FORMAT_VERSION = 1
KIND = "speakers"
REMEDY = "write it again with `emostream embed`"
_LABELS = {"label_mean": pa.float64(), "label_std": pa.float64(), "label_count": pa.int64()}
_METADATA = pa.map_(pa.string(), pa.string())
_ROWS_A_GROUP = 100_000
_REPEATED_TEXTS = ["metadata.key_value.key", "metadata.key_value.value"]


def write_speakers(url: str, table: SpeakerTable, extra: Mapping[str, Any] | None = None) -> None:
    """Write the table; it appears whole or not at all. `extra` is kept in the footer."""
    footer = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "encoder": table.encoder,
        "fingerprint": table.fingerprint,
        "dimensions": list(table.dimensions),
        "extra": dict(extra or {}),
    }

    columns = {
        "speaker": pa.array(table.speakers, pa.string()),
        "vector": _lists(table.vectors, pa.float32()),
        "num_utterances": pa.array(table.num_utterances, pa.int64()),
        # Without label dimensions there are no such columns: Arrow has no lists of no items.
        **{
            name: _lists(getattr(table, name), kind)
            for name, kind in _LABELS.items()
            if table.dimensions
        },
        "metadata": pa.array([list(entry.items()) for entry in table.metadata], _METADATA),
    }

    written = pa.table(columns).replace_schema_metadata(
        {METADATA_KEY: json.dumps(footer, sort_keys=True)}
    )

    with atomic_write(url) as stream:
        pq.write_table(
            written,
            stream,
            compression="zstd",
            use_dictionary=_REPEATED_TEXTS,
            write_page_checksum=True,
            row_group_size=_ROWS_A_GROUP,
        )


def read_speakers(url: str) -> tuple[SpeakerTable, Mapping[str, Any]]:
    """The table at `url` and the `extra` of its footer.

    Raises ConfigError for a file that is no speaker table, or is damaged.
    """
    with open_parquet(url, remedy=REMEDY) as file:
        footer = json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}"))

        if footer.get("kind") != KIND:
            raise ConfigError(f"{url}: not a speaker table; `emostream embed` writes one")
        if footer.get("format_version") != FORMAT_VERSION:
            raise ConfigError(
                f"{url}: got speaker table format {footer.get('format_version')}, expected "
                f"{FORMAT_VERSION}; {REMEDY}"
            )

        try:
            table = _table(file.read(), footer)
        except KeyError as missing:
            raise ValueError(f"it has no {missing}") from missing

    table.check(url)
    return table, footer.get("extra", {})


def _table(rows: pa.Table, footer: Mapping[str, Any]) -> SpeakerTable:
    for name, kind in (("speaker", pa.string()), ("metadata", _METADATA)):
        if rows[name].type != kind:
            raise ValueError(f"its column {name} is {rows[name].type}, expected {kind}")

    dimensions, nothing = tuple(footer["dimensions"]), np.empty((len(rows), 0))
    labels: dict[str, Any] = {
        name: _matrix(rows, name, kind) if dimensions else nothing.astype(kind.to_pandas_dtype())
        for name, kind in _LABELS.items()
    }

    return SpeakerTable(
        speakers=rows["speaker"].to_pylist(),
        vectors=_matrix(rows, "vector", pa.float32()),
        num_utterances=_numbers(rows["num_utterances"], pa.int64()),
        dimensions=dimensions,
        **labels,
        metadata=[dict(entry or ()) for entry in rows["metadata"].to_pylist()],
        encoder=str(footer["encoder"]),
        fingerprint=str(footer["fingerprint"]),
    )


def _lists(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).ravel(), kind)
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(kind, values.shape[1]))


def _matrix(rows: pa.Table, name: str, kind: pa.DataType) -> NDArray[Any]:
    column = rows[name].combine_chunks()

    if (
        not pa.types.is_fixed_size_list(column.type)
        or column.type.value_type != kind
        or column.null_count
    ):
        raise ValueError(
            f"its column {name} is {column.type}, expected fixed-size lists of {kind} without null"
        )

    return _numbers(column.flatten(), kind).reshape(len(column), column.type.list_size)


def _numbers(column: Any, kind: pa.DataType) -> NDArray[Any]:
    if column.type != kind or column.null_count:
        raise ValueError(
            f"it holds {column.type} with {column.null_count} nulls, expected {kind} without nulls"
        )
    found: NDArray[Any] = column.to_numpy()
    return found
