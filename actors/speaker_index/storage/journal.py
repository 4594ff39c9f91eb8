"""Writes since the last snapshot, each on the disk before it is acknowledged.

A journal is one file of records, which are appended and flushed in groups. A record says which
generation it makes. It also says up to which generation everything was known to be on the disk when
the record was written. After each flush follows a mark, a record without a write, that says only
this.

The marks serve two purposes. Followers show nothing that is not known to be on the disk. And a
record that a power loss has torn can be told from damage: the torn one was never acknowledged and
is dropped, but if a whole record behind it says that it was on the disk, the journal is refused.

A database was left out: there is one writer, there are hardly any reads, and followers can read on
at the end of a file.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shards.config import ConfigError
from shards.storage.files import flush

MAGIC = b"emostream speaker journal 1\n"
_MARK = b"\xabSPK"
# The fields: mark, bytes of the payload, checksum of everything behind the checksum, generation,
# and generation known to be on the disk.
_RECORD = struct.Struct("<4sIIQQ")
_CHECKED = struct.Struct("<QQ")
MAX_PAYLOAD_BYTES = 1 << 30


class StorageFailedError(RuntimeError):
    """The disk did not take a write: the write is not acknowledged and not shown.

    Where the write could be taken back, it has no effect at all. A failed flush ends all writes,
    and the write may be in the index after a restart.
    """


@dataclass(frozen=True, slots=True)
class Record:
    """A write that makes `generation`, or a mark, which has an empty payload.

    `known_durable` is the last generation that was known to be on the disk when the record was
    written. The next record begins at byte `end`.
    """

    generation: int
    payload: bytes
    known_durable: int
    end: int

    def bookmark(self) -> "Bookmark":
        """A bookmark at the end of this record."""
        record = _encode(self.generation, self.payload, self.known_durable)
        return Bookmark(self.end - len(record), record[: _RECORD.size], self.end)


@dataclass(frozen=True, slots=True)
class Bookmark:
    """How far a journal has been read: to byte `end`.

    The last record read begins at byte `start` with the bytes `head`. They hold its checksum, so
    that another journal of the same name is told apart.
    """

    start: int
    head: bytes
    end: int

    def is_in(self, path: Path) -> bool:
        """Whether the file at `path` is the one that was read. Raises FileNotFoundError."""
        with path.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(len(self.head)) == self.head


@dataclass(frozen=True, slots=True)
class JournalPart:
    """The whole records from some byte on.

    The next record begins at byte `end`. `rest` is what lies there now and is no whole record.
    """

    records: tuple[Record, ...]
    end: int
    rest: bytes


class Journal:
    """A journal that is open for appending."""

    def __init__(self, path: Path, descriptor: int, end: int, last: int) -> None:
        self.path, self._descriptor = path, descriptor
        self._end, self._durable = end, last
        self._is_broken = False

    @classmethod
    def create(cls, path: Path, last: int) -> "Journal":
        """Make a new file for the writes after generation `last`.

        Raises OSError when the file could not be made. Raises StorageFailedError when moreover it
        could not be removed, and may be there: then the older journal must not grow either, because
        followers and recovery go on to the newer journal.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _write_all(descriptor, MAGIC, 0)
            os.fsync(descriptor)
            # The name is on the disk only when the folder is.
            flush(path.parent)
        except OSError:
            _discard(path, descriptor)
            raise

        return cls(path, descriptor, len(MAGIC), last)

    @classmethod
    def reopen(cls, path: Path, part: JournalPart, last: int) -> "Journal":
        """Go on behind the whole records of `part`; what a power loss has torn is cut off.

        The records are written again. After a failed flush they may be in the kernel's memory only,
        where they count as written, so that another flush would write nothing.
        """
        data = MAGIC + b"".join(
            _encode(one.generation, one.payload, one.known_durable) for one in part.records
        )

        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, part.end)
            _write_all(descriptor, data, 0)
            os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            raise

        return cls(path, descriptor, len(data), last)

    @property
    def is_broken(self) -> bool:
        """Whether nobody knows what the file holds, so that only a restart may go on from it."""
        return self._is_broken

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return self._end

    def append(self, writes: Sequence[tuple[int, bytes]]) -> None:
        """Put (generation, payload) pairs on the disk.

        Raises StorageFailedError when that fails: then none of them is there, unless `is_broken`.
        """
        if self._is_broken:
            raise StorageFailedError(
                f"{self.path}: an earlier write failed and could not be taken back; restart the "
                "server"
            )

        data = b"".join(
            _encode(generation, payload, self._durable) for generation, payload in writes
        )

        try:
            _write_all(self._descriptor, data, self._end)
        except OSError as error:
            self._take_back()
            raise StorageFailedError(
                f"{self.path}: cannot be written: {error}; check that the disk has room and works"
            ) from error

        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # The kernel forgets which pages it failed to write: another flush would succeed without
            # having written them.
            self._is_broken = True
            raise StorageFailedError(
                f"{self.path}: cannot be flushed: {error}; check the disk and restart the server"
            ) from error

        self._end += len(data)
        self._durable = writes[-1][0]
        self._mark()

    def close(self) -> None:
        """Put the last mark on the disk too, and close the file."""
        # A mark only tells what is on the disk: without it, all writes are still there.
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _mark(self) -> None:
        """Say up to which generation everything is on the disk.

        The mark is not flushed: if it is lost, no write is lost with it.
        """
        mark = _encode(self._durable, b"", self._durable)
        with contextlib.suppress(OSError):
            _write_all(self._descriptor, mark, self._end)
            self._end += len(mark)

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)
        except OSError:
            self._is_broken = True


def read_journal(path: Path, start: int = 0) -> JournalPart:
    """The whole records from byte `start` on (0: from the beginning of the file).

    Raises ConfigError for a file that is no journal.
    """
    with path.open("rb") as stream:
        if start == 0:
            head = stream.read(len(MAGIC))
            if head != MAGIC[: len(head)]:
                raise ConfigError(
                    f"{path}: is not a journal of this release; expected {MAGIC!r}, got {head!r}; "
                    "restore the file from a backup, or give another --data"
                )
            # Its writer is just making the file, or died while it did.
            if len(head) < len(MAGIC):
                return JournalPart((), 0, b"")
            start = len(MAGIC)
        stream.seek(start)
        data = stream.read()

    # `place` counts from `start`, where the data was read; the file counts from its beginning.
    records, place = [], 0
    while (found := _decode(data, place)) is not None:
        record, place = found
        records.append(replace(record, end=start + place))

    return JournalPart(tuple(records), start + place, data[place:])


def check_tail(path: Path, part: JournalPart, last: int) -> None:
    """Raise ConfigError when acknowledged writes are lost in `part.rest`.

    The whole records go up to generation `last`. A later whole record in the rest may say that more
    than these were on the disk.
    """
    for record in _later_records(part.rest):
        if record.known_durable > last:
            raise ConfigError(
                f"{path}: damaged at byte {part.end}: the writes of generations {last + 1} to "
                f"{record.known_durable} were acknowledged and cannot be read. Restore the folder "
                "from a replica or a backup; to go on without these writes, cut the file there "
                f"(truncate -s {part.end}) and remove every later journal"
            )


def _discard(path: Path, descriptor: int) -> None:
    """Close and remove a journal that could not be made.

    Raises StorageFailedError when it cannot be removed.
    """
    with contextlib.suppress(OSError):
        os.close(descriptor)

    try:
        path.unlink()
        flush(path.parent)
    except OSError as error:
        raise StorageFailedError(
            f"{path}: can neither be made nor removed: {error}; check the disk and restart "
            "the server"
        ) from error


def _later_records(data: bytes) -> Iterator[Record]:
    # Damage may have changed the length that a record states, so that the next record is searched
    # for by its mark. A mark inside a payload does no harm: no valid checksum follows it.
    place = data.find(_MARK)
    while place >= 0:
        found = _decode(data, place)
        if found is not None:
            yield found[0]
        place = data.find(_MARK, place + 1)


def _encode(generation: int, payload: bytes, durable: int) -> bytes:
    checked = _CHECKED.pack(generation, durable) + payload
    return _RECORD.pack(_MARK, len(payload), zlib.crc32(checked), generation, durable) + payload


def _decode(data: bytes, place: int) -> tuple[Record, int] | None:
    """The record at `place` of `data` and where it ends; None when no whole record is there."""
    if place + _RECORD.size > len(data):
        return None

    mark, length, checksum, generation, durable = _RECORD.unpack_from(data, place)
    end = place + _RECORD.size + length
    if mark != _MARK or length > MAX_PAYLOAD_BYTES or end > len(data):
        return None

    payload = data[place + _RECORD.size : end]
    if zlib.crc32(_CHECKED.pack(generation, durable) + payload) != checksum:
        return None

    return Record(generation, payload, durable, end), end


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    # The kernel may take less than it is given.
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
