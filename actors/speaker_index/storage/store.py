"""The speaker index that takes writes: one process, one folder, and generations that never change.

A write is on the disk before readers see it, and readers see it before it is acknowledged. Writes
that wait at the same time are flushed together.

When much has been written, a thread builds a new index beside the one in use and writes a snapshot.
Then the new index takes over, with the writes made meanwhile on top of it. The journal for these
writes is begun before the snapshot is. So after a crash at any moment, the newest snapshot and the
journals from its generation on are the whole truth.
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
# A rebuild begins when more speakers are recent or gone than both limits allow: a number of
# speakers, and a share of the indexed speakers.
MIN_UNINDEXED, UNINDEXED_SHARE = 1024, 0.05
MAX_JOURNAL_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Written:
    """The generation that a write has made.

    `num_known` counts how many of the speakers that the write names were there before it.
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
    """The end of a rebuild: a generation with a new index, or None when the rebuild has failed."""

    generation: Generation | None


class SpeakerStore:
    """An index to read and write; open it with `open_store`.

    Any thread may read `generation` and call `submit`. One thread of the store makes all writes.
    """

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
        # Writes since a rebuild began; None while no rebuild is under way.
        self._since_rebuild: list[Write] | None = None
        self._is_closed = False
        self.failure: BaseException | None = None

        self._writer = Thread(target=self._serve, name="speaker-writer", daemon=True)
        self._writer.start()

    def submit(self, write: Write) -> "Future[Written]":
        """Queue a write for the writing thread.

        The future fails with StorageFailedError when the disk does not take the write. A write
        whose future is cancelled while it waits has no effect. Raises ReadOnlyError after `close`,
        and StorageFailedError after a failure.
        """
        if self._is_closed:
            raise ReadOnlyError(
                "the index is being closed and takes no more writes; write again when "
                "the server runs again"
            )
        if self.failure is not None:
            raise StorageFailedError(f"the index failed: {self.failure!r}; restart the server")

        waiting = _Waiting(write, write.encode())
        self._queue.put(waiting)
        # The writing thread may have ended after the first look at `failure`: then nobody would
        # ever answer this write.
        if self.failure is not None or not self._writer.is_alive():
            self._refuse_waiting()

        return waiting.done

    def close(self) -> None:
        """Make all submitted writes, end the journal with a mark, and unlock the folder."""
        self._is_closed = True
        self._queue.put(None)
        self._writer.join()
        # A write may have been submitted just before `_is_closed` was set, and queued behind the
        # end.
        self._refuse_waiting()
        self._journal.close()
        self._lock.close()

    def _serve(self) -> None:
        try:
            self._serve_writes()
        except BaseException as error:
            # Memory and disk may differ now, so only a restart from what is on the disk is safe.
            self.failure = error
            log.exception("the index takes no more writes; restart the server")
            self._refuse_waiting()

    def _serve_writes(self) -> None:
        is_open = True
        # `close` waits for a rebuild that is under way.
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
        """The writes that wait, the rebuild that has ended (or None), and whether to close.

        Blocks until one of these is there.
        """
        group: list[_Waiting] = []

        while True:
            item = self._queue.get() if not group else _get_now(self._queue)
            if isinstance(item, _Waiting):
                # From here on the future cannot be cancelled: the write is being made.
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

        # The journal comes first, then the generation, then the answers: nobody sees a write that
        # is not on the disk, and everybody who is told of a write can see it.
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
            # Unless it is broken, the journal has taken the writes back: memory and disk agree, and
            # the next writes can be made.
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
        """Begin the next journal, then build and write a snapshot on a thread of its own.

        The snapshot holds all writes up to now; later ones go into the next journal.
        """
        generation = self.generation
        path = self._folder.name("journal", generation.number)
        # The journal of this generation may be in use already: a rebuild that has failed, or was
        # killed, may have begun it.
        if path != self._journal.path:
            try:
                following = Journal.create(path, generation.number)
            except OSError:
                log.exception(
                    "the next journal cannot be made; writes go on in the present one, and the "
                    "rebuild is put off"
                )
                self._put_off_rebuild()
                return

            self._journal.close()
            self._journal = following

        self._since_rebuild = []
        Thread(
            target=self._rebuild, args=(generation,), name="speaker-rebuild", daemon=True
        ).start()

    def _put_off_rebuild(self) -> None:
        """Rebuild when twice as much waits; what failed now would fail again at the next write."""
        self._min_unindexed = 2 * max(self._min_unindexed, self.generation.num_unindexed)
        self._max_journal_bytes = 2 * max(self._max_journal_bytes, self._journal.num_bytes)

    def _rebuild(self, generation: Generation) -> None:
        # This runs on a thread of its own. Only the writing thread may change the index, so that
        # the result is queued for it.
        rebuilt = None
        try:
            rebuilt = write_rebuilt(self._folder, generation, self._source, self._config)
        except OSError:
            log.exception(
                "no snapshot of generation %d could be written; the journals keep all writes",
                generation.number,
            )
        finally:
            self._queue.put(_Rebuilt(rebuilt))

    def _take_over(self, rebuilt: _Rebuilt) -> None:
        """Use the new index, with the writes on top that were made since the rebuild began."""
        writes, self._since_rebuild = self._since_rebuild or [], None
        if rebuilt.generation is None:
            self._put_off_rebuild()
            return

        self.generation, _ = apply_writes(rebuilt.generation, writes)
        # Readers may still use older generations, but these are in memory and need no files.
        self._folder.remove_before(rebuilt.generation.number)


def write_rebuilt(
    folder: IndexFolder, generation: Generation, source: str, config: IndexConfig
) -> Generation:
    """The same state with all speakers indexed; its snapshot is on the disk."""
    table = generation.table()
    index = build_index(unit(table.vectors), config)

    folder.write_snapshot(Snapshot(generation.number, table, source))
    # The snapshot comes before its index, because the index's description holds its digest.
    folder.write_index(generation.number, index, config)

    return Generation.start(generation.number, table, index)


def open_store(
    path: str,
    speakers: str,
    config: IndexConfig,
    *,
    min_unindexed: int = MIN_UNINDEXED,
) -> SpeakerStore:
    """The index kept in the folder `path`; an empty folder begins with the table `speakers`.

    When the table differs from the one of the last start, its speakers replace those of the same
    name. Raises ConfigError for a table or folder that cannot be used, for a table of another
    encoder, and for a folder that another process has open.
    """
    folder = IndexFolder(Path(path))
    # Only its owner may read the folder: voices are personal.
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The lock comes first: nothing may be read or removed while another process writes.
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

    # Writes go on in the newest journal. The first journal has the generation of the snapshot in
    # its name, because it holds the writes after the snapshot.
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
    """The generation of a snapshot, with an index that is read from the folder or built.

    With `keep`, an index that had to be built is written to the folder.
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
    """Put another table's speakers into the index; returns it with a snapshot and new journal."""
    table, _ = read_speakers(speakers)
    _require_same_layout(Layout.of(table), Layout.of(generation.base.table), speakers)

    changed = generation.changed(generation.number + 1, table.speakers, table)
    log.info(
        "%s is another table than before; its %d speakers replace those of the same name",
        speakers,
        len(table),
    )

    # No thread writes yet, so that the snapshot may come before the next journal.
    rebuilt = write_rebuilt(folder, changed, source, config)
    journal.close()
    return rebuilt, Journal.create(folder.name("journal", changed.number), changed.number)


def _require_same_layout(new: Layout, old: Layout, speakers: str) -> None:
    if (
        new.fingerprint != old.fingerprint
        or new.width != old.width
        or new.dimensions != old.dimensions
    ):
        raise ConfigError(
            f"--speakers {speakers}: was made by {new.encoder} ('{new.fingerprint}', {new.width} "
            f"numbers, labels {', '.join(new.dimensions) or 'none'}), but --data holds speakers of "
            f"{old.encoder} ('{old.fingerprint}', {old.width} numbers, labels "
            f"{', '.join(old.dimensions) or 'none'}); give another --data folder"
        )


def _lock(folder: Path) -> IO[str]:
    """Lock the folder until the result is closed or the process ends.

    Raises ConfigError when another process has locked it.
    """
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ConfigError(
            f"--data {folder}: another server writes to it, but one folder has one writer; stop "
            "that server, or give another --data or --follow"
        ) from error

    lock.write(f"{os.getpid()}\n")
    lock.flush()

    return lock


# What `_get_now` returns for an empty queue; None in the queue means that the store is closed.
_EMPTY = object()


def _get_now(waiting: "queue.Queue[_Waiting | _Rebuilt | None]") -> object:
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return _EMPTY
