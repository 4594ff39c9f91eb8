"""The speaker index that takes writes: one process, one folder, generations that readers take as
they are.

A write is on the disk before it is acknowledged, and visible before it is acknowledged; writes that
wait together are flushed together. When much has been written, the index is built anew beside the
one in use, a snapshot is written, and the new one takes its place with what was written meanwhile
on top. A journal for these later writes is begun before the snapshot is, so that a crash at any
moment leaves the newest snapshot and the journals from it on: the whole truth.
"""

import fcntl
import logging
import os
import queue
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO

from actors.speaker_index.errors import ReadOnlyError
from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.search.generation import Generation
from actors.speaker_index.search.vector_index import build_index, unit
from actors.speaker_index.storage.folder import IndexFolder, Snapshot, table_digest
from actors.speaker_index.storage.journal import Journal, StorageFailedError
from actors.speaker_index.storage.writes import Write, apply_writes, decode_write
from actors.speaker_index.wire import Layout
from shards.config import ConfigError
from shards.speakers.files import read_speakers

log = logging.getLogger(__name__)

GROUP_WRITES = 256
MIN_UNINDEXED, UNINDEXED_SHARE = 1024, 0.05
MAX_JOURNAL_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Written:
    """The generation in which a write is, and how many of the speakers it names were there
    before.
    """

    generation: int
    num_known: int


@dataclass(slots=True)
class _Waiting:
    write: Write
    payload: bytes
    done: "Future[Written]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    """A generation with a new index, or why there is none."""

    generation: Generation | None


class SpeakerStore:
    """Open with `open_store`; `generation` may be read by any thread, `submit` called by any."""

    def __init__(
        self,
        folder: IndexFolder,
        lock: IO[str],
        generation: Generation,
        journal: Journal,
        source: str,
        config: IndexConfig,
        *,
        min_unindexed: int = MIN_UNINDEXED,
    ) -> None:
        self.generation, self.layout = generation, Layout.of(generation.base.table)
        self._folder, self._lock, self._journal = folder, lock, journal
        self._source, self._config = source, config
        self._min_unindexed, self._max_journal_bytes = min_unindexed, MAX_JOURNAL_BYTES
        self._queue: queue.Queue[_Waiting | _Rebuilt | None] = queue.Queue()
        self._since_rebuild: list[Write] | None = (
            None  # writes since a rebuild began; None while there is none
        )
        self._is_closed = False
        self.failure: BaseException | None = None
        self._writer = Thread(target=self._serve, name="speaker-writer", daemon=True)
        self._writer.start()

    def submit(self, write: Write) -> "Future[Written]":
        """Queue a write. The future fails with StorageFailedError when the disk does not take it; a
        future that is cancelled while it waits leaves no trace.
        """
        if self._is_closed:
            raise ReadOnlyError("the index is being closed and takes no more writes")
        if self.failure is not None:
            raise StorageFailedError(f"the index failed: {self.failure!r}; restart the server")
        waiting = _Waiting(write, write.encode())
        self._queue.put(waiting)
        if (
            self.failure is not None or not self._writer.is_alive()
        ):  # it ended between the look and the queueing
            self._refuse_waiting()
        return waiting.done

    def close(self) -> None:
        """Finish what was submitted, mark the journal's clean end, and let go of the folder."""
        self._is_closed = True
        self._queue.put(None)
        self._writer.join()
        self._refuse_waiting()
        self._journal.close()
        self._lock.close()

    def _serve(self) -> None:
        try:
            self._serve_writes()
        except BaseException as error:
            # Memory and disk may differ now: only starting again from the disk is safe.
            self.failure = error
            log.exception("the index takes no more writes; restart the server")
            self._refuse_waiting()

    def _serve_writes(self) -> None:
        is_open = True
        while is_open or self._since_rebuild is not None:
            group, rebuilt, ended = self._next_group()
            is_open = is_open and not ended
            self._write(group)
            if rebuilt is not None:
                self._take_over(rebuilt)
            if is_open and self._since_rebuild is None and self._must_rebuild():
                self._begin_rebuild()

    def _refuse_waiting(self) -> None:
        reason = f"failed: {self.failure!r}" if self.failure is not None else "was closed"
        while (item := _get_now(self._queue)) is not _EMPTY:
            if isinstance(item, _Waiting) and item.done.set_running_or_notify_cancel():
                item.done.set_exception(
                    StorageFailedError(f"the index {reason}; restart the server")
                )

    def _next_group(self) -> tuple[list[_Waiting], _Rebuilt | None, bool]:
        """What waits: writes up to the first thing that is none, and that."""
        group: list[_Waiting] = []
        while True:
            item = self._queue.get() if not group else _get_now(self._queue)
            if isinstance(item, _Waiting):
                if item.done.set_running_or_notify_cancel():
                    group.append(item)
                if len(group) < GROUP_WRITES:
                    continue
                return group, None, False
            if isinstance(item, _Rebuilt):
                return group, item, False
            return group, None, item is None

    def _write(self, group: list[_Waiting]) -> None:
        if not group:
            return
        first = self.generation.number + 1
        writes = [waiting.write for waiting in group]
        try:
            self._journal.append(
                [(first + place, waiting.payload) for place, waiting in enumerate(group)]
            )
            self.generation, counts = apply_writes(self.generation, writes)
        except BaseException as error:
            for waiting in group:
                waiting.done.set_exception(error)
            if isinstance(error, StorageFailedError) and not self._journal.is_broken:
                return
            raise
        if self._since_rebuild is not None:
            self._since_rebuild += writes
        for place, (waiting, num_known) in enumerate(zip(group, counts, strict=True)):
            waiting.done.set_result(Written(first + place, num_known))

    def _must_rebuild(self) -> bool:
        limit = max(self._min_unindexed, UNINDEXED_SHARE * len(self.generation.base.table))
        return (
            self.generation.num_unindexed > limit
            or self._journal.num_bytes > self._max_journal_bytes
        )

    def _begin_rebuild(self) -> None:
        """Begin the next journal, then build and snapshot what was before it on a thread of its
        own.
        """
        generation = self.generation
        path = self._folder.name("journal", generation.number)
        if path != self._journal.path:  # a killed rebuild may have begun it
            try:
                following = Journal.create(path, generation.number)
            except OSError:
                log.exception("the next journal cannot be begun; going on with this one")
                self._put_off_rebuild()
                return
            self._journal.close()
            self._journal = following
        self._since_rebuild = []
        Thread(
            target=self._rebuild, args=(generation,), name="speaker-rebuild", daemon=True
        ).start()

    def _put_off_rebuild(self) -> None:
        """Until twice as much waits: what failed now would fail again at the next write."""
        self._min_unindexed = 2 * max(self._min_unindexed, self.generation.num_unindexed)
        self._max_journal_bytes = 2 * max(self._max_journal_bytes, self._journal.num_bytes)

    def _rebuild(self, generation: Generation) -> None:
        rebuilt = None
        try:
            rebuilt = write_rebuilt(self._folder, generation, self._source, self._config)
        except OSError:
            log.exception(
                "no snapshot of generation %d; the journals keep all writes", generation.number
            )
        finally:
            self._queue.put(_Rebuilt(rebuilt))

    def _take_over(self, rebuilt: _Rebuilt) -> None:
        """Put the new index in place, with what was written since it was begun."""
        writes, self._since_rebuild = self._since_rebuild or [], None
        if rebuilt.generation is None:
            self._put_off_rebuild()
            return
        self.generation, _ = apply_writes(rebuilt.generation, writes)
        self._folder.remove_before(rebuilt.generation.number)


def write_rebuilt(
    folder: IndexFolder, generation: Generation, source: str, config: IndexConfig
) -> Generation:
    """The same state with everything indexed, and its snapshot on the disk."""
    table = generation.table()
    index = build_index(unit(table.vectors), config)
    folder.write_snapshot(Snapshot(generation.number, table, source))
    folder.write_index(generation.number, index, config)
    return Generation.start(generation.number, table, index)


def open_store(
    path: str,
    speakers: str,
    config: IndexConfig,
    *,
    min_unindexed: int = MIN_UNINDEXED,
) -> SpeakerStore:
    """The index kept in folder `path`, begun from the table `speakers` when the folder is empty.

    When the table is another than the one the folder was begun with, its speakers replace those of
    the same name. Raises ConfigError for an unusable table or folder, another encoder's table, or a
    folder that another process has open.
    """
    folder = IndexFolder(Path(path))
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # voices are personal
    lock = _lock(folder.path)
    source = table_digest(speakers)
    snapshot = folder.newest_snapshot()
    if snapshot is None:
        table, _ = read_speakers(speakers)
        snapshot = Snapshot(1, table, source)
        folder.write_snapshot(snapshot)
    generation = indexed(folder, snapshot, config, keep=True)
    layout = Layout.of(snapshot.table)
    records, part = folder.read_journals(snapshot.generation)
    generation, _ = apply_writes(
        generation, [decode_write(record.payload, layout) for record in records]
    )
    if part is None:
        journal = Journal.create(folder.name("journal", snapshot.generation), generation.number)
    else:
        newest = folder.name("journal", folder.generations("journal")[-1])
        journal = Journal.reopen(newest, part, generation.number)
    if snapshot.source != source:
        generation, journal = _with_table(folder, generation, journal, speakers, source, config)
    folder.remove_before(snapshot.generation)
    return SpeakerStore(
        folder, lock, generation, journal, source, config, min_unindexed=min_unindexed
    )


def indexed(
    folder: IndexFolder, snapshot: Snapshot, config: IndexConfig, *, keep: bool
) -> Generation:
    """A snapshot with its index, read from the folder or built; built, it is written there with
    `keep`.
    """
    index = folder.read_index(snapshot, config)
    if index is None:
        index = build_index(unit(snapshot.table.vectors), config)
        if keep:
            folder.write_index(snapshot.generation, index, config)
    return Generation.start(snapshot.generation, snapshot.table, index)


def _with_table(
    folder: IndexFolder,
    generation: Generation,
    journal: Journal,
    speakers: str,
    source: str,
    config: IndexConfig,
) -> tuple[Generation, Journal]:
    """A generation with the speakers of another table, as a snapshot that says so."""
    table, _ = read_speakers(speakers)
    _require_same_layout(Layout.of(table), Layout.of(generation.base.table), speakers)
    changed = generation.changed(generation.number + 1, table.speakers, table)
    log.info(
        "%s is another table than before: its %d speakers replace those of the same name",
        speakers,
        len(table),
    )
    rebuilt = write_rebuilt(folder, changed, source, config)  # nobody writes meanwhile
    journal.close()
    return rebuilt, Journal.create(folder.name("journal", changed.number), changed.number)


def _require_same_layout(new: Layout, old: Layout, speakers: str) -> None:
    if (
        new.fingerprint != old.fingerprint
        or new.width != old.width
        or new.dimensions != old.dimensions
    ):
        raise ConfigError(
            f"--speakers {speakers}: made by {new.encoder} ('{new.fingerprint}', {new.width} "
            f"numbers, labels {', '.join(new.dimensions) or 'none'}), but --data holds speakers of "
            f"{old.encoder} ('{old.fingerprint}', {old.width} numbers, labels "
            f"{', '.join(old.dimensions) or 'none'}); give another --data folder"
        )


def _lock(folder: Path) -> IO[str]:
    """Held until it is closed or the process ends. Raises ConfigError when another process has
    it.
    """
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ConfigError(
            f"--data {folder}: another server writes to it; one folder has one writer"
        ) from error
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


_EMPTY = object()


def _get_now(waiting: "queue.Queue[_Waiting | _Rebuilt | None]") -> object:
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return _EMPTY
