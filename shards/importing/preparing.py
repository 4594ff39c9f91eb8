"""The media file of a row, read and made into what its shard will hold."""

from shards.errors import BadSample
from shards.importing.config import ImportConfig
from shards.importing.cuts import END_COLUMN, START_COLUMN, Cut, Recordings
from shards.importing.plan import RowFile
from shards.importing.sources import MAX_CHECKED_SECONDS, Prepared, prepare
from shards.media.audio import decode_audio
from shards.storage.files import read_bytes
from shards.tar.reader import TarLimits

MAX_MEMBER_BYTES = TarLimits().max_member_bytes
# The rows of a recording follow each other, within a shard and from one shard to the next.
_RECORDINGS = Recordings()


def prepared_file(file: RowFile, config: ImportConfig) -> Prepared:
    """The bytes of a row's file as they go into a shard.

    They are checked as far as `config.check` says. Raises BadSample when the row cannot be used.
    """
    if file.cut is not None:
        return _part(file, file.cut, config)

    prepared = prepare(
        file.column,
        file.source_extension,
        _payload(file),
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


def _payload(file: RowFile) -> bytes:
    try:
        return read_bytes(file.path, max_bytes=MAX_MEMBER_BYTES)
    except ValueError as error:
        raise BadSample("file_too_large", str(error)) from error
    except OSError as error:
        raise BadSample("unreadable_file", f"{file.relative}: {error.strerror}") from error


def _part(file: RowFile, cut: Cut, config: ImportConfig) -> Prepared:
    """A part of a recording; it is checked as a file that was converted is."""
    try:
        payload = _RECORDINGS.part(file.path, cut, track_number=config.audio_track)
    except OSError as error:
        raise BadSample("unreadable_file", f"{file.relative}: {error.strerror}") from error

    decode_audio(payload, max_seconds=MAX_CHECKED_SECONDS)
    return Prepared(payload, 1)
