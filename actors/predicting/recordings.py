"""What is to be recognized: recordings in files or in a table, each read when asked.

A list of recordings holds no sound. A recording that is known to be unusable is in the list too,
with its reason, so that every input becomes a row.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.predicting.config import SPEAKER_IS_FOLDER
from shards.config import ConfigError
from shards.errors import BadSample
from shards.importing.config import ImportConfig
from shards.importing.plan import RowFile, dictionaries, row_files
from shards.importing.preparing import MAX_MEMBER_BYTES, prepared_file
from shards.importing.reading import read_table
from shards.importing.sources import BECOMES, prepare
from shards.importing.table import MEDIA_COLUMNS, SourceTable, text_cell
from shards.loading.inputs import Modality
from shards.storage.files import read_bytes

_EXPECTED = {
    "audio": ("sound", "such as .wav, .flac or .mp3"),
    "video": ("film, which this recognizer sees", "such as .mp4, .mkv or .webm"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recording: `read` gives the bytes of its sound or film, in a format that shards hold.

    `start_seconds` is where the recording begins within its file. `error` says why the recording
    cannot be read. `read` is None then, and where somebody else has decoded it, as of samples of
    shards; it raises BadSample.
    """

    key: str
    speaker: str | None
    read: Callable[[], bytes] | None
    start_seconds: float = 0.0
    error: str | None = None


def recordings_of_files(
    paths: Sequence[str], speaker: str | None, modality: Modality = "audio"
) -> list[Recording]:
    """The recordings at `paths`, which are files, or folders that are searched for them.

    Files are sound or films for the modality `audio`, and films for `video`. A recording's key is
    its path. Raises ConfigError for a folder without any.
    """
    return [
        _of_file(path, speaker, modality) for given in paths for path in _files_at(given, modality)
    ]


def recordings_of_table(url: str, root: str, modality: Modality = "audio") -> list[Recording]:
    """The recordings of a table's rows, in the order of the rows; see `emostream import`.

    For the modality `video` they are the films in the column `video`.

    Raises ConfigError when the table cannot be read.
    """
    config = ImportConfig(table=url, root=root, out="", check="none")
    source = read_table(url)

    # Rows that could not be read stand at their own places among the others.
    found = {
        place: Recording(key=f"row {place}", speaker=None, read=None, error=reason)
        for place, reason in source.unreadable
    }
    for place, row in zip(source.places.tolist(), dictionaries(source.rows), strict=True):
        found[place] = _of_row(row, place, source, config, modality)

    return [found[place] for place in sorted(found)]


def _files_at(path: str, modality: Modality) -> list[str]:
    if not os.path.isdir(path):
        return [path]

    found = sorted(
        str(file)
        for file in Path(path).rglob("*")
        if file.suffix.lstrip(".").lower() in BECOMES[modality] and file.is_file()
    )
    if not found:
        kind, examples = _EXPECTED[modality]
        raise ConfigError(f"--audio {path}: the folder has no {kind}; expected files {examples}")
    return found


def _of_file(path: str, speaker: str | None, modality: Modality) -> Recording:
    folder, name = os.path.split(os.path.abspath(path))
    if speaker == SPEAKER_IS_FOLDER:
        speaker = os.path.basename(folder)

    try:
        (file,) = row_files({modality: name}, folder)
    except BadSample as bad:
        return Recording(key=path, speaker=speaker, read=None, error=bad.reason)
    return Recording(key=path, speaker=speaker, read=lambda: _bytes_of_file(file))


def _bytes_of_file(file: RowFile) -> bytes:
    try:
        data = read_bytes(file.path, max_bytes=MAX_MEMBER_BYTES)
    except ValueError as error:
        raise BadSample("file_too_large", str(error)) from error
    except OSError as error:
        raise BadSample("unreadable_file", f"{file.path}: {error.strerror}") from error

    return prepare(
        file.column, file.source_extension, data, check="none", track_number=None
    ).payload


def _of_row(
    row: dict[str, object],
    place: int,
    source: SourceTable,
    config: ImportConfig,
    modality: Modality,
) -> Recording:
    key, speaker = f"row {place}", None
    try:
        key = text_cell(row, source.key_column) or key
        speaker = text_cell(row, "speaker")
        files = {file.column: file for file in row_files(row, config.root)}
    except BadSample as bad:
        return Recording(key=key, speaker=speaker, read=None, error=bad.reason)

    columns = MEDIA_COLUMNS if modality == "audio" else (modality,)
    media = [files[column] for column in columns if column in files]
    if not media:
        error = f"no_{modality}: the row names no {' and no '.join(columns)}"
        return Recording(key=key, speaker=speaker, read=None, error=error)

    file = media[0]
    return Recording(
        key=key,
        speaker=speaker,
        read=lambda: prepared_file(file, source, config).payload,
        start_seconds=0.0 if file.cut is None else file.cut.start,
    )
