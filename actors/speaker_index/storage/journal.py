"""Writes since the last snapshot, each on the disk before it is acknowledged.

A journal is one file of records, appended and flushed in groups. A record says which generation it
makes and up to which one everything was known to be on the disk when it was written; a record
without a write follows each flush to say just that. So followers show what is durable and nothing
else, and what a power loss tore (never acknowledged, and dropped) is told from damage to what was
acknowledged: if a later record is whole and says so, opening is refused. A database was left out:
one writer, hardly any reads, and a file that followers can tail.
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
# Mark, bytes of the payload, checksum of all that follows it, generation, generation known to be on
# the disk.
_RECORD = struct.Struct("<4sIIQQ")
_CHECKED = struct.Struct("<QQ")
MAX_PAYLOAD_BYTES = 1 << 30


class StorageFailedError(RuntimeError):
    """The disk did not take a write: it was not acknowledged and is not shown.

    What could be taken back has no effect at all. After a failed flush, which ends all writes, it
    may be there after a restart.
    """


@dataclass(frozen=True, slots=True)
class Record:
    """The write that makes `generation`, and the byte behind it; an empty payload makes none."""

    generation: int
    payload: bytes
    known_durable: int
    end: int

    def bookmark(self) -> "Bookmark":
        """By which to know the file again."""
        record = _encode(self.generation, self.payload, self.known_durable)
        return Bookmark(self.end - len(record), record[: _RECORD.size], self.end)


@dataclass(frozen=True, slots=True)
class Bookmark:
    """How far a file was read: to byte `end`, by a record that begins at `start` with `head`, and
    so its checksum.
    """

    start: int
    head: bytes
    end: int

    def is_in(self, path: Path) -> bool:
        """Whether the file is still that one. Raises FileNotFoundError."""
        with path.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(len(self.head)) == self.head


@dataclass(frozen=True, slots=True)
class JournalPart:
    """Whole records from some place on, where the next begins, and what lies behind it that is no
    whole record.
    """

    records: tuple[Record, ...]
    end: int
    rest: bytes


class Journal:
    """An open journal, at its end."""

    def __init__(self, path: Path, descriptor: int, end: int, last: int) -> None:
        self.path, self._descriptor = path, descriptor
        self._end, self._durable = end, last
        self._is_broken = False

    @classmethod
    def create(cls, path: Path, last: int) -> "Journal":
        """A new file for the writes after generation `last`.

        Raises OSError when there is none, and StorageFailedError when there may be one: the older
        journal must not grow beside it, as followers and recovery go on to the newer.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _write_all(descriptor, MAGIC, 0)
            os.fsync(descriptor)
            flush(path.parent)
        except OSError:
            _discard(path, descriptor)
            raise
        return cls(path, descriptor, len(MAGIC), last)

    @classmethod
    def reopen(cls, path: Path, part: JournalPart, last: int) -> "Journal":
        """Go on behind the whole records of `part`; what a power loss tore is cut off.

        The records are written again: after a failed flush they may be in the kernel's memory
        alone, which calls them written, and flushing would write nothing.
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
        """Whether what the file holds is not known any more, and only starting again from it is
        safe.
        """
        return self._is_broken

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._end

    def append(self, writes: Sequence[tuple[int, bytes]]) -> None:
        """Have (generation, payload) pairs on the disk. Raises StorageFailedError: none is, unless
        `is_broken`.
        """
        if self._is_broken:
            raise StorageFailedError(
                f"{self.path}: an earlier write could not be taken back; restart the server"
            )
        data = b"".join(
            _encode(generation, payload, self._durable) for generation, payload in writes
        )
        try:
            _write_all(self._descriptor, data, self._end)
        except OSError as error:
            self._take_back()
            raise StorageFailedError(f"{self.path}: cannot be written: {error}") from error
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # The kernel forgets which pages it failed to write: asking again would answer without
            # having written them.
            self._is_broken = True
            raise StorageFailedError(
                f"{self.path}: cannot be flushed: {error}; restart the server"
            ) from error
        self._end += len(data)
        self._durable = writes[-1][0]
        self._mark()

    def close(self) -> None:
        """Have the last mark on the disk too, and close."""
        with contextlib.suppress(OSError):  # it adds to what is known, not to what is stored
            os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _mark(self) -> None:
        """Say up to where everything is on the disk. Not flushed: it is only of use while it can be
        read.
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
    """Whole records from byte `start` on (0: the beginning). Raises ConfigError for a file that is
    no journal.
    """
    with path.open("rb") as stream:
        if start == 0:
            head = stream.read(len(MAGIC))
            if head != MAGIC[: len(head)]:
                raise ConfigError(
                    f"{path}: not a journal of this release; expected {MAGIC!r}, got {head!r}"
                )
            if len(head) < len(MAGIC):
                return JournalPart((), 0, b"")  # its writer died, or is, making it
            start = len(MAGIC)
        stream.seek(start)
        data = stream.read()
    records, place = [], 0
    while (found := _decode(data, place)) is not None:
        record, place = found
        records.append(replace(record, end=start + place))
    return JournalPart(tuple(records), start + place, data[place:])


def check_tail(path: Path, part: JournalPart, last: int) -> None:
    """Raise ConfigError when what follows the whole records, up to generation `last`, was
    acknowledged.
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
    """Close and remove a journal that could not be begun."""
    with contextlib.suppress(OSError):
        os.close(descriptor)
    try:
        path.unlink()
        flush(path.parent)
    except OSError as error:
        raise StorageFailedError(
            f"{path}: cannot be begun, nor removed: {error}; restart the server"
        ) from error


def _later_records(data: bytes) -> Iterator[Record]:
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
    """The record at `place` and where it ends; None when there is no whole one."""
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
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
