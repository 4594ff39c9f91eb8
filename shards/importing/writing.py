"""Writing one shard of an import: the files of its rows are read, checked and put into a tar."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa

from shards.errors import BadSample
from shards.importing.config import Check, ImportConfig
from shards.importing.cutting import ShardOfRows
from shards.importing.facts import (
    UNREADABLE_FILE,
    KnownRows,
    RowFact,
    ShardFacts,
    make_facts,
    sample_digest,
    write_facts,
)
from shards.importing.plan import PlannedRow, dictionaries, row_files
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
from shards.storage.files import name_later, read_bytes
from shards.tar.reader import TarLimits, TarWriter

MAX_CHECKED_SECONDS = 24 * 3600.0
# What the temporary file of a shard is called after, as its own name is not known yet.
PLACEHOLDER = "shard.tar"


def settle_shard(
    shard: ShardOfRows,
    source: SourceTable,
    config: ImportConfig,
    known: KnownRows,
    present: Collection[str],
) -> tuple[ShardFacts, bool]:
    """See that a shard and its facts are there; the facts, and whether the shard was written.

    `present` are the names of the files that are there. The shard may come out as one of these:
    rows that are not known are read first, to see, as long as they give samples that are there.
    """
    looked = _look(shard, source, config, known)
    if looked is not None:
        facts = make_facts(shard, looked)
        if facts.shard is None or facts.shard in present:
            write_facts(config.out, shard, facts)
            return facts, False

    return _write_shard(shard, source, config, present)


def _look(
    shard: ShardOfRows, source: SourceTable, config: ImportConfig, known: KnownRows
) -> list[RowFact] | None:
    """The facts of all rows, for which only the files of rows that are not known are read.

    None as soon as a row gives a sample that is in no shard yet: the shard must be written.
    """
    # A first import knows no samples, and reads nothing twice.
    if not known.samples:
        return None

    facts = [known.facts.get(token) for token in shard.tokens]
    unknown = [place for place, fact in enumerate(facts) if fact is None]
    rows = _rows_of([shard.rows[place] for place in unknown], source)
    for place, (planned, row) in zip(unknown, rows, strict=True):
        fact = _fact_of(planned.key, row, source, config)
        if fact.sample is not None and fact.sample not in known.samples:
            return None
        facts[place] = fact

    return [fact for fact in facts if fact is not None]


def _fact_of(key: str, row: dict[str, Any], source: SourceTable, config: ImportConfig) -> RowFact:
    try:
        return RowFact(sample_digest(read_members(key, row, source, config)), None)
    except BadSample as bad:
        return RowFact(None, bad.reason)


def _write_shard(
    shard: ShardOfRows, source: SourceTable, config: ImportConfig, present: Collection[str]
) -> tuple[ShardFacts, bool]:
    """Write a shard without knowing its name, which follows from what turns out to be in it."""
    found: list[RowFact] = []

    with name_later(config.out, PLACEHOLDER) as file, TarWriter(file.stream) as writer:
        for planned, row in _rows_of(shard.rows, source):
            try:
                members = read_members(planned.key, row, source, config)
                writer.add(planned.key, members)
                found.append(RowFact(sample_digest(members), None))
            except BadSample as bad:
                found.append(RowFact(None, bad.reason))

        # The shard appears when the block ends. Its facts are written before that: a shard that
        # nothing tells of would look like somebody else's. A shard that is there already is not
        # replaced, because a new modification time is a new version to `label`.
        facts = make_facts(shard, found)
        write_facts(config.out, shard, facts)
        is_new = facts.shard is not None and facts.shard not in present
        file.name = facts.shard if is_new else None

    return facts, is_new


def _rows_of(
    rows: Sequence[PlannedRow], source: SourceTable
) -> Iterator[tuple[PlannedRow, dict[str, Any]]]:
    table = source.rows.take(pa.array([row.position for row in rows], pa.int64()))
    return zip(rows, dictionaries(table), strict=True)


def read_members(
    key: str, row: dict[str, Any], source: SourceTable, config: ImportConfig
) -> dict[str, bytes]:
    """The sample of a row, as extension -> payload, checked as far as `config.check` says.

    Raises BadSample when the row cannot be used.
    """
    members: dict[str, bytes] = {}
    for file in row_files(row, config.root):
        try:
            members[file.extension] = read_bytes(file.path, max_bytes=TarLimits().max_member_bytes)
        except ValueError as error:
            raise BadSample("file_too_large", str(error)) from error
        except OSError as error:
            raise BadSample(UNREADABLE_FILE, f"{file.relative}: {error.strerror}") from error

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


def _check_media(extension: str, payload: bytes, check: Check) -> None:
    if extension == FACE_EXTENSION:
        decode_features(payload)
    elif check == "decode" and extension in AUDIO_EXTENSIONS:
        decode_audio(payload, max_seconds=MAX_CHECKED_SECONDS)
    elif check != "none" and extension in AUDIO_EXTENSIONS:
        check_audio_header(payload)
    elif check != "none" and extension in VIDEO_EXTENSIONS:
        check_video_header(payload)
