"""Media that lie in the table itself, as the data sets of Hugging Face have them.

Their columns are structs {bytes, path}; a column of bytes alone is read as well. The bytes are
taken out of the rows, because rows become Python objects in blocks of thousands. What stays in a
row says where its bytes are, how many they are, and their digest, so that a row with other bytes is
another row.
"""

import hashlib
import os
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards.errors import BadSample
from shards.importing.sources import BECOMES
from shards.importing.table import FILE_COLUMNS
from shards.media.formats import recognize_source

_DIGEST_BYTES = 16
# FFmpeg's names of formats whose files have another extension; it depends on the column.
_EXTENSIONS = {
    ("audio", "mov"): "m4a",
    ("video", "mov"): "mp4",
    ("audio", "matroska"): "mka",
    ("video", "matroska"): "mkv",
    ("audio", "mpegts"): "ts",
    ("video", "mpegts"): "ts",
}
_NPY_SIGNATURE = b"\x93NUMPY"
_REFERENCE = pa.struct(
    [
        ("path", pa.string()),
        ("row", pa.int64()),
        ("size", pa.int64()),
        ("digest", pa.string()),
        ("extension", pa.string()),
    ]
)


def take_out_media(rows: pa.Table) -> tuple[pa.Table, dict[str, pa.ChunkedArray]]:
    """`rows` with references in place of media, and the media by column, `[num_rows]` of bytes.

    A reference is a struct: `row` is null where a cell has a path and no bytes.
    """
    media: dict[str, pa.ChunkedArray] = {}

    for column in set(FILE_COLUMNS) & set(rows.schema.names):
        payloads, paths = _bytes_and_paths(rows[column])
        if payloads is None:
            continue
        references = [
            _reference(column, row, payload, path)
            for row, (payload, path) in enumerate(zip(payloads, paths.to_pylist(), strict=True))
        ]
        media[column] = payloads
        rows = rows.set_column(
            rows.schema.names.index(column), column, pa.array(references, _REFERENCE)
        )

    return rows, media


def media_extension(column: str, reference: dict[str, Any]) -> str:
    """The extension of the media that `reference` is about; BadSample when it is not known."""
    if reference["extension"] is None:
        raise BadSample(
            "unknown_extension",
            f"{column} lies in the table, without a path that tells its format, and begins like "
            f"none of {', '.join(sorted(BECOMES[column]))}",
        )
    return str(reference["extension"])


def _bytes_and_paths(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray | None, pa.ChunkedArray]:
    """The bytes and the path of each cell; (None, ...) for a column that has no bytes."""
    nothing = pa.chunked_array([pa.nulls(len(column), pa.string())])
    if pa.types.is_large_binary(column.type):
        return column, nothing
    if not pa.types.is_struct(column.type):
        return None, nothing

    types = {field.name: field.type for field in column.type}
    if "bytes" not in types or not pa.types.is_large_binary(types["bytes"]):
        return None, nothing
    has_paths = "path" in types and pa.types.is_string(types["path"])
    return pc.struct_field(column, "bytes"), (
        pc.struct_field(column, "path") if has_paths else nothing
    )


def _reference(
    column: str, row: int, payload: pa.Scalar, path: str | None
) -> dict[str, object] | None:
    if not payload.is_valid:
        return None if path is None else {"path": path, "row": None}

    content = payload.as_buffer()
    return {
        "path": path,
        "row": row,
        "size": content.size,
        "digest": hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest(),
        "extension": _extension(column, path or "", content),
    }


def _extension(column: str, path: str, content: pa.Buffer) -> str | None:
    """The extension of the path, or that of the format whose signature the bytes carry."""
    extension = os.path.splitext(path)[1].lstrip(".").lower()
    if extension in BECOMES[column]:
        return extension

    if column == "face":
        return "npy" if content[: len(_NPY_SIGNATURE)].to_pybytes() == _NPY_SIGNATURE else None
    recognized = recognize_source(content.to_pybytes()) or ""
    extension = _EXTENSIONS.get((column, recognized), recognized)
    return extension if extension in BECOMES[column] else None
