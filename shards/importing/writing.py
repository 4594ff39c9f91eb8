"""Writing one shard of an import: the files of its rows are read, checked and put into a tar."""

from typing import Any

import pyarrow as pa

from shards.errors import BadSample
from shards.importing.config import Check, ImportConfig
from shards.importing.plan import RowFile, ShardOfRows, dictionaries, row_files
from shards.importing.table import TRANSCRIPT_COLUMN, SourceTable, metadata_of, text_cell
from shards.media.audio import check_audio_header, decode_audio
from shards.media.frames import check_video_header
from shards.samples.metadata import METADATA_EXTENSION, encode_metadata
from shards.samples.npy import decode_features
from shards.samples.sample import (
    AUDIO_EXTENSIONS,
    FACE_EXTENSION,
    TRANSCRIPT_EXTENSION,
    VIDEO_EXTENSIONS,
    parse_sample,
)
from shards.storage.documents import write_json
from shards.storage.files import atomic_write, join, read_bytes
from shards.tar.reader import TarLimits, TarWriter

MAX_CHECKED_SECONDS = 24 * 3600.0


def write_shard(shard: ShardOfRows, source: SourceTable, config: ImportConfig) -> None:
    """Write one shard, and before it a note with the reasons of rows that cannot be used."""
    reasons: dict[str, str] = {}
    positions = {row.position: row for row in shard.rows}
    table = source.rows.take(pa.array(list(positions), pa.int64()))

    with atomic_write(join(config.out, shard.name)) as stream, TarWriter(stream) as writer:
        for planned, row in zip(shard.rows, dictionaries(table), strict=True):
            try:
                writer.add(planned.key, read_members(planned.key, row, source, config))
            except BadSample as bad:
                reasons[planned.key] = bad.reason

        # The shard appears when the block ends. Its note is written before that, because a shard
        # that is there is never written again: a note lost between the two would stay lost.
        if reasons:
            write_json(join(config.out, notes_name(shard)), reasons)


def read_members(
    key: str, row: dict[str, Any], source: SourceTable, config: ImportConfig
) -> dict[str, bytes]:
    """The sample of a row, as extension -> payload, checked as far as `config.check` says.

    Raises BadSample when the row cannot be used.
    """
    members: dict[str, bytes] = {}
    for file in row_files(row, config.root):
        try:
            members[file.extension] = _payload(file, source)
        except ValueError as error:
            raise BadSample("file_too_large", str(error)) from error
        except OSError as error:
            raise BadSample("unreadable_file", f"{file.relative}: {error.strerror}") from error

    transcript = text_cell(row, TRANSCRIPT_COLUMN)
    if transcript is not None:
        members[TRANSCRIPT_EXTENSION] = transcript.encode()

    metadata = metadata_of(row, source.key_column, key, is_text=source.is_text)
    try:
        members[METADATA_EXTENSION] = encode_metadata(metadata)
    except (ValueError, UnicodeEncodeError) as error:
        raise BadSample("bad_metadata", str(error)) from error

    parse_sample(key, members)
    for extension, payload in members.items():
        _check_media(extension, payload, config.check)

    return members


def _payload(file: RowFile, source: SourceTable) -> bytes:
    """The bytes of a row's file; raises ValueError when they are too many."""
    if file.embedded is None:
        return read_bytes(file.path, max_bytes=TarLimits().max_member_bytes)
    if file.size > TarLimits().max_member_bytes:
        raise ValueError(
            f"{file.column} has {file.size} bytes, expected at most {TarLimits().max_member_bytes}"
        )
    payload: bytes = source.embedded[file.column][file.embedded].as_py()
    return payload


def _check_media(extension: str, payload: bytes, check: Check) -> None:
    if extension == FACE_EXTENSION:
        decode_features(payload)
    elif check == "decode" and extension in AUDIO_EXTENSIONS:
        decode_audio(payload, max_seconds=MAX_CHECKED_SECONDS)
    elif check != "none" and extension in AUDIO_EXTENSIONS:
        check_audio_header(payload)
    elif check != "none" and extension in VIDEO_EXTENSIONS:
        check_video_header(payload)


def notes_name(shard: ShardOfRows) -> str:
    return f".{shard.name}.rejected.json"
