"""`emostream import`: a table of recordings and the folder they lie in become shards of a target size.

Every row ends in a shard or in import-rejected.parquet with its reason. The plan (which row goes into which shard) is
made from the table and the files' sizes alone, so the same input gives the same bytes whatever the number of workers,
and a shard is named after what goes into it: an import that was killed goes on at the first shard that is missing, and
one of a longer table writes only the shards that have changed. What turned out to be unusable while a shard was written
is noted beside it, in a hidden file, for as long as the shard is there.

Rows with other fields than their neighbours (no transcript, another sound format) get shards of their own, because
loaders demand identical fields within one. Threads do the work: copying is bound by the disk, and a header check costs
microseconds beside it.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from shards.config import ConfigError, option
from shards.errors import BadSample, reason_code
from shards.importing.table import FILE_COLUMNS, TRANSCRIPT_COLUMN, SourceTable, metadata_of, read_table, text_cell
from shards.media.audio import check_audio_header, decode_audio
from shards.media.frames import check_video_header
from shards.samples.keys import key_problem, printable
from shards.samples.npy import decode_features
from shards.samples.sample import (
    AUDIO_EXTENSIONS,
    FACE_EXTENSION,
    METADATA_EXTENSION,
    TRANSCRIPT_EXTENSION,
    VIDEO_EXTENSIONS,
    encode_metadata,
    parse_sample,
)
from shards.storage.documents import read_json, write_config, write_json
from shards.storage.files import atomic_write, exists, join, make_directory, read_bytes, remove
from shards.storage.names import list_names
from shards.tar.reader import TarLimits, TarWriter

SUMMARY_NAME = "import-summary.json"
CONFIG_NAME = "import.yaml"
REJECTED_NAME = "import-rejected.parquet"
FORMAT_VERSION = 2
DIGEST_DIGITS = 12
MIB = 2**20
PLAN_BATCH_ROWS = 10_000
MAX_CHECKED_SECONDS = 24 * 3600.0

Check = Literal["none", "header", "decode"]
Progress = Callable[[int, int], None]

_REJECTED_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string()), ("reason", pa.string())])
_SHARD_NAME = re.compile(r"shard-\d{6}-[0-9a-f]{12}\.tar")
_BESIDE_A_SHARD = re.compile(r"\.shard-\d{6}-[0-9a-f]{12}\.tar\.(?:rejected\.json|tmp-[0-9a-f]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """Options of `emostream import`."""

    table: str = option(positional=True, help="CSV or Parquet table, one row per utterance.")
    root: str = option(help="Folder that the table's paths are relative to.")
    out: str = option(help="Folder for the shards, local or remote.")
    shard_size_mb: int = option(default=256, help="Target size of a shard, in MiB.")
    num_workers: int = option(default=4, help="Shards written at once.")
    check: Check = option(
        default="header", help="How media are checked: header (opens, has a track), decode (all of it), or none."
    )

    def __post_init__(self) -> None:
        for name in ("shard_size_mb", "num_workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if not os.path.isdir(self.root):
            raise ConfigError(f"--root: got {self.root!r}, expected an existing folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What became of the table's rows: imported + rejected = rows."""

    num_rows: int
    num_imported: int
    num_rejected: int
    rejected: dict[str, int]
    num_shards: int
    num_written: int
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RowFile:
    """One media file of a row."""

    extension: str
    path: str
    relative: str  # to the root: what the identity of its row holds
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row that passed the first look: its position in the table, and what is needed to cut shards."""

    position: int
    key: str
    fields: tuple[str, ...]
    size: int
    identity: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was not imported; `row` is its place in the file, counted from 0."""

    row: int
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """One shard to be."""

    name: str
    rows: tuple[PlannedRow, ...]


def import_table(config: ImportConfig, progress: Progress | None = None) -> ImportReport:
    """Import `config.table`; `progress(done, total)` counts shards.

    Raises ConfigError when the table cannot be used, or when OUT holds shards of something else.
    """
    source = read_table(config.table)
    rows, rejected = plan_rows(source, config.root)
    shards = plan_shards(rows, config)
    make_directory(config.out)
    present = set(list_names(config.out))
    _refuse_foreign_shards(config.out, present, shards, _earlier_report(config.out))
    todo = [shard for shard in shards if shard.name not in present]
    for name in present & {_notes_name(shard) for shard in todo}:
        remove(join(config.out, name))  # of a shard that was not finished
    with ThreadPoolExecutor(config.num_workers) as pool:
        running = [pool.submit(write_shard, shard, source, config) for shard in todo]
        for number, done in enumerate(as_completed(running), start=1):
            done.result()
            if progress is not None:
                progress(number, len(todo))
    return _finish(config, source, shards, rejected, num_written=len(todo))


def plan_rows(source: SourceTable, root: str) -> tuple[list[PlannedRow], list[Rejected]]:
    """Look at every row once: its key, its files' sizes. What cannot be used is rejected with its reason."""
    planned: list[PlannedRow] = []
    rejected = [Rejected(place, "", reason) for place, reason in source.unreadable]
    seen: set[str] = set()
    for position, row in _rows(source):
        place = int(source.places[position])
        shown = printable(str(row.get(source.key_column) or ""))
        try:
            key = tar_key(text_cell(row, source.key_column))
            if key in seen:
                raise BadSample("duplicate_key", f"'{printable(key)}' is the key of an earlier row")
            planned.append(_plan_row(position, key, row, source, root))
            seen.add(key)
        except BadSample as bad:
            rejected.append(Rejected(place, shown, bad.reason))
    return planned, rejected


def plan_shards(rows: Sequence[PlannedRow], config: ImportConfig) -> list[PlannedShard]:
    """Cut the rows, in table order and by their fields, into shards of about the target size."""
    target = config.shard_size_mb * MIB
    groups: list[list[PlannedRow]] = []
    for fields in sorted({row.fields for row in rows}):
        group: list[PlannedRow] = []
        size = 0
        for row in rows:
            if row.fields != fields:
                continue
            if group and size + row.size > target:
                groups.append(group)
                group, size = [], 0
            group.append(row)
            size += row.size
        groups.append(group)
    return [PlannedShard(_shard_name(number, group, config.check), tuple(group)) for number, group in enumerate(groups)]


def tar_key(name: str | None) -> str:
    """A row's name as a sample's key: dots and other characters a key cannot hold become "_".

    Raises BadSample when there is no name, or none is left.
    """
    if name is None:
        raise BadSample("no_key", "the row has no key")
    key = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\\.]", "_", name.strip("/"))
    key = "/".join("x" + part if part.startswith("__") else part for part in key.split("/"))
    problem = key_problem(key)
    if problem is not None:
        raise BadSample(*problem)
    return key


def write_shard(shard: PlannedShard, source: SourceTable, config: ImportConfig) -> None:
    """Write one shard, and before it a note of the rows that turned out to be unusable."""
    reasons: dict[str, str] = {}
    positions = {row.position: row for row in shard.rows}
    table = source.rows.take(pa.array(list(positions), pa.int64()))
    with atomic_write(join(config.out, shard.name)) as stream, TarWriter(stream) as writer:
        for planned, row in zip(shard.rows, _dictionaries(table), strict=True):
            try:
                writer.add(planned.key, read_members(planned.key, row, source, config))
            except BadSample as bad:
                reasons[planned.key] = bad.reason
        if reasons:  # before the shard appears: a shard that is there has its notes
            write_json(join(config.out, _notes_name(shard)), reasons)


def read_members(key: str, row: dict[str, Any], source: SourceTable, config: ImportConfig) -> dict[str, bytes]:
    """A row's sample, extension -> payload, checked as far as `config.check` says. Raises BadSample."""
    members: dict[str, bytes] = {}
    for file in row_files(row, config.root):
        try:
            members[file.extension] = read_bytes(file.path, max_bytes=TarLimits().max_member_bytes)
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


def row_files(row: dict[str, Any], root: str) -> list[RowFile]:
    """The files a row names, with their sizes. Raises BadSample for one that is missing, empty or outside `root`."""
    return [_row_file(column, path, root) for column in FILE_COLUMNS if (path := text_cell(row, column)) is not None]


def _row_file(column: str, relative: str, root: str) -> RowFile:
    root = os.path.abspath(root)
    path = os.path.normpath(os.path.join(root, relative))
    if os.path.isabs(relative) or path == root or os.path.commonpath([root, path]) != root:
        raise BadSample("path_outside_root", f"{column} is '{printable(relative)}', expected a path below --root")
    known = {"audio": AUDIO_EXTENSIONS, "video": VIDEO_EXTENSIONS, "face": frozenset({"npy"})}[column]
    extension = os.path.splitext(path)[1].lstrip(".").lower()
    if extension not in known:
        raise BadSample(
            "unknown_extension", f"{column} is '{printable(relative)}', expected {', '.join(sorted(known))}"
        )
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise BadSample("missing_file", f"{column} '{printable(relative)}': {error}") from error
    if status.st_size == 0:
        raise BadSample("empty_file", f"{column} '{printable(relative)}' has no bytes")
    return RowFile(
        extension=FACE_EXTENSION if column == "face" else extension,
        path=path,
        relative=os.path.relpath(path, root),
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
    )


def _plan_row(position: int, key: str, row: dict[str, Any], source: SourceTable, root: str) -> PlannedRow:
    files = row_files(row, root)
    transcript = text_cell(row, TRANSCRIPT_COLUMN)
    fields = [file.extension for file in files] + ([TRANSCRIPT_EXTENSION] if transcript is not None else [])
    if not fields:
        raise BadSample("no_media", "the row has neither audio, video, face features nor a transcript")
    metadata = metadata_of(row, source.key_column, key, is_text=source.is_text)
    versions = [[file.extension, file.relative, file.size, file.modified_ns] for file in files]
    identity = [key, transcript, str(metadata), versions]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return PlannedRow(position, key, tuple(sorted(fields)), sum(file.size for file in files), digest)


def _check_media(extension: str, payload: bytes, check: Check) -> None:
    if extension == FACE_EXTENSION:
        decode_features(payload)
    elif check == "decode" and extension in AUDIO_EXTENSIONS:
        decode_audio(payload, max_seconds=MAX_CHECKED_SECONDS)
    elif check != "none" and extension in AUDIO_EXTENSIONS:
        check_audio_header(payload)
    elif check != "none" and extension in VIDEO_EXTENSIONS:
        check_video_header(payload)


def _rows(source: SourceTable) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from enumerate(_dictionaries(source.rows))


def _dictionaries(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=PLAN_BATCH_ROWS):
        yield from batch.to_pylist()


def _shard_name(number: int, rows: Sequence[PlannedRow], check: Check) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, check]).encode())
    for row in rows:
        digest.update(row.identity.encode())
    return f"shard-{number:06d}-{digest.hexdigest()[:DIGEST_DIGITS]}.tar"


def _notes_name(shard: PlannedShard) -> str:
    return f".{shard.name}.rejected.json"


def _earlier_report(out: str) -> dict[str, Any] | None:
    url = join(out, SUMMARY_NAME)
    if not exists(url):
        return None
    earlier: dict[str, Any] = read_json(url)
    return earlier


def _refuse_foreign_shards(
    out: str, present: set[str], shards: Sequence[PlannedShard], earlier: dict[str, Any] | None
) -> None:
    """Shards of an older table are removed at the end; anything else would be labeled along unnoticed."""
    mine = {shard.name for shard in shards} | set(earlier["shards"] if earlier else ())
    foreign = sorted(
        name for name in present if name.endswith(".tar") and not name.startswith(".") and name not in mine
    )
    foreign = [name for name in foreign if earlier is None or not _SHARD_NAME.fullmatch(name)]
    if foreign:
        raise ConfigError(
            f"--out {out}: holds {len(foreign)} shards of something else, such as {foreign[0]}; give another folder, "
            "or remove them"
        )


def _finish(
    config: ImportConfig,
    source: SourceTable,
    shards: Sequence[PlannedShard],
    rejected: Sequence[Rejected],
    *,
    num_written: int,
) -> ImportReport:
    """Gather the notes, drop shards of an older table and what killed imports left, and write the report last."""
    out, everything = config.out, list(rejected)
    present = set(list_names(out))
    for shard in shards:
        if _notes_name(shard) in present:
            reasons = read_json(join(out, _notes_name(shard)))
            places = {row.key: int(source.places[row.position]) for row in shard.rows}
            everything.extend(Rejected(places[key], key, reason) for key, reason in reasons.items())
    everything.sort(key=lambda item: item.row)
    wanted = {name for shard in shards for name in (shard.name, _notes_name(shard))}
    for name in present:
        if name not in wanted and (_SHARD_NAME.fullmatch(name) or _BESIDE_A_SHARD.fullmatch(name)):
            remove(join(out, name))
    counts = Counter(reason_code(item.reason) for item in everything)
    report = ImportReport(
        num_rows=source.num_rows,
        num_imported=source.num_rows - len(everything),
        num_rejected=len(everything),
        rejected=dict(sorted(counts.items())),
        num_shards=len(shards),
        num_written=num_written,
        shards=tuple(shard.name for shard in shards),
    )
    with atomic_write(join(out, REJECTED_NAME)) as stream:
        pq.write_table(pa.Table.from_pylist([asdict(item) for item in everything], _REJECTED_SCHEMA), stream)
    write_config(join(out, CONFIG_NAME), config)
    write_json(join(out, SUMMARY_NAME), asdict(report))
    return report
