"""The media file of a row, read and made into what its shard will hold."""

from shards.errors import BadSample
from shards.importing.config import ImportConfig
from shards.importing.cuts import (
    END_COLUMN,
    MAX_RECORDING_BYTES,
    START_COLUMN,
    Cut,
    Recordings,
)
from shards.importing.facts import UNREADABLE_FILE
from shards.importing.plan import RowFile
from shards.importing.sources import MAX_CHECKED_SECONDS, Prepared, prepare
from shards.importing.table import SourceTable
from shards.media.audio import decode_audio
from shards.storage.files import read_bytes
from shards.tar.reader import TarLimits

MAX_MEMBER_BYTES = TarLimits().max_member_bytes
# The rows of a recording follow each other, within a shard and from one shard to the next.
_RECORDINGS = Recordings()


def prepared_file(file: RowFile, source: SourceTable, config: ImportConfig) -> Prepared:
    """The bytes of a row's file as they go into a shard.

    They are checked as far as `config.check` says. Raises BadSample when the row cannot be used.
    """
    if file.cut is not None:
        return _part(file, file.cut, source, config)

    prepared = prepare(
        file.column,
        file.source_extension,
        _payload(file, source, MAX_MEMBER_BYTES),
        check=config.check,
        track_number=config.audio_track,
    )
    if len(prepared.payload) > MAX_MEMBER_BYTES:
        raise BadSample(
            "file_too_large",
            f"{file.relative} has {len(prepared.payload)} bytes as {file.extension}, expected at "
            f"most {MAX_MEMBER_BYTES}; cut it by the columns start and end",
        )
    return prepared


def remarks_of(file: RowFile, prepared: Prepared) -> dict[str, object]:
    """What the json of the sample tells of its sound: which part it is, and of how many tracks."""
    if file.cut is not None:
        times = {START_COLUMN: file.cut.start, END_COLUMN: file.cut.end}
        return {name: seconds for name, seconds in times.items() if seconds is not None}

    if prepared.num_sound_tracks > 1:
        return {
            "import_remark": f"{file.column} has {prepared.num_sound_tracks} sound tracks; the one "
            "that it marks as its default is heard (--audio-track chooses another)"
        }
    return {}


def _payload(file: RowFile, source: SourceTable, max_bytes: int) -> bytes:
    """The bytes of a row's file, from the disk or from the table."""
    if file.embedded is not None:
        if file.size > max_bytes:
            raise BadSample(
                "file_too_large",
                f"{file.column} has {file.size} bytes, expected at most {max_bytes}",
            )
        payload: bytes = source.embedded[file.column][file.embedded].as_py()
        return payload

    try:
        return read_bytes(file.path, max_bytes=max_bytes)
    except ValueError as error:
        raise BadSample("file_too_large", str(error)) from error
    except OSError as error:
        raise BadSample(UNREADABLE_FILE, f"{file.relative}: {error.strerror}") from error


def _part(file: RowFile, cut: Cut, source: SourceTable, config: ImportConfig) -> Prepared:
    """A part of a recording; it is checked as a file that was converted is."""
    payload = _RECORDINGS.part(
        (file.path, file.embedded, file.size, file.modified_ns),
        lambda: _payload(file, source, MAX_RECORDING_BYTES),
        cut,
        track_number=config.audio_track,
    )

    decode_audio(payload, max_seconds=MAX_CHECKED_SECONDS)
    return Prepared(payload, 1)
