"""The speaker index of a replica: it follows the folder another process writes to, and takes no
writes.

It reads the newest snapshot, then the journals as they grow, whole records that are known to be on
the disk, so that each of its generations is one of the writer's and none is ever taken back. When
the writer has removed a journal that was not read to its end, the newest snapshot holds what it
said, and the follower begins again from there. Polling was chosen over being told: the folder may
lie on any shared file system, and a follower that was cut off needs no protocol to catch up.
"""

import logging
from concurrent.futures import Future
from pathlib import Path
from threading import Event, Thread

from actors.speaker_index.errors import ReadOnlyError
from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.search.generation import Generation
from actors.speaker_index.search.vector_index import build_index, unit
from actors.speaker_index.storage.folder import IndexFolder
from actors.speaker_index.storage.journal import Bookmark, JournalPart, read_journal
from actors.speaker_index.storage.store import MIN_UNINDEXED, UNINDEXED_SHARE, Written, indexed
from actors.speaker_index.storage.writes import Write, apply_writes, decode_write
from actors.speaker_index.wire import Layout
from shards.config import ConfigError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
BEGINNINGS = 5


class SpeakerFollower:
    """`generation` may be read by any thread."""

    def __init__(
        self, path: str, config: IndexConfig, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._folder, self._config = IndexFolder(Path(path)), config
        self.generation = self._newest()
        self._journal = self.generation.number  # the one that is read
        self._last: Bookmark | None = None  # the last write of it that was applied
        self.layout = Layout.of(self.generation.base.table)
        self.failure: BaseException | None = None
        self.catch_up()
        self._ended = Event()
        self._thread = Thread(
            target=self._follow, args=(poll_seconds,), name="speaker-follower", daemon=True
        )
        self._thread.start()

    def submit(self, write: Write) -> Future[Written]:
        """Raises ReadOnlyError."""
        raise ReadOnlyError("this replica only follows; send writes to the writer")

    def close(self) -> None:
        """Stop following."""
        self._ended.set()
        self._thread.join()

    def catch_up(self) -> None:
        """Read what has been written since the last look. Raises ConfigError when the writer is too
        quick for that.
        """
        for _ in range(BEGINNINGS):
            if self._read_on():
                return
            self._begin_again()
        raise self._outrun()

    def _follow(self, poll_seconds: float) -> None:
        while not self._ended.wait(poll_seconds):
            try:
                self.catch_up()
                self._reindex()
                self.failure = None
            except Exception as error:  # noqa: BLE001 (told to health; a file system that is away comes back)
                if self.failure is None:
                    log.warning("following is interrupted: %r", error)
                self.failure = error

    def _begin_again(self) -> None:
        """From a later snapshot of the same index. Raises ConfigError for another index in the same
        folder.
        """
        generation = self._newest()
        layout = Layout.of(generation.base.table)
        if layout != self.layout or generation.number < self.generation.number:
            raise ConfigError(
                f"--data {self._folder.path}: was begun anew: holds generation {generation.number} "
                f"of {layout.encoder} ('{layout.fingerprint}'), expected at least "
                f"{self.generation.number} of {self.layout.encoder} ('{self.layout.fingerprint}'); "
                "restart this replica"
            )
        self.generation = generation  # which the writer may have replaced again by now
        self._journal, self._last = generation.number, None

    def _newest(self) -> Generation:
        """From the newest snapshot. Raises ConfigError while there is none."""
        for _ in range(BEGINNINGS):
            try:
                snapshot = self._folder.newest_snapshot()
                if snapshot is None:
                    raise ConfigError(
                        f"--data {self._folder.path}: holds no snapshot yet; start the writer first"
                    )
                return indexed(self._folder, snapshot, self._config, keep=False)
            except FileNotFoundError:  # the writer has just replaced it
                continue
        raise self._outrun()

    def _outrun(self) -> ConfigError:
        return ConfigError(
            f"--data {self._folder.path}: snapshots come and go faster than they can be read"
        )

    def _read_on(self) -> bool:
        """Apply what is durable and new; False when a part of it is no longer there."""
        while True:
            later = [
                number for number in self._folder.generations("journal") if number > self._journal
            ]
            try:
                part = self._read_part(self._folder.name("journal", self._journal))
            except FileNotFoundError:
                return False
            if part is None:
                return False
            self._apply(part, is_ended=bool(later))
            if not later:
                return True
            if later[0] > self.generation.number:
                return False
            self._journal, self._last = later[0], None

    def _read_part(self, path: Path) -> JournalPart | None:
        """What lies behind the last write that was applied; None when the file is another of the
        same name.
        """
        if self._last is None:
            return read_journal(path)
        return read_journal(path, self._last.end) if self._last.is_in(path) else None

    def _apply(self, part: JournalPart, *, is_ended: bool) -> None:
        durable = max((record.known_durable for record in part.records), default=0)
        known = [record for record in part.records if is_ended or record.generation <= durable]
        written = [record for record in known if record.payload]
        if written:
            writes = [decode_write(record.payload, self.layout) for record in written]
            self.generation, _ = apply_writes(self.generation, writes)
            self._last = written[-1].bookmark()

    def _reindex(self) -> None:
        generation = self.generation
        if generation.num_unindexed <= max(
            MIN_UNINDEXED, UNINDEXED_SHARE * len(generation.base.table)
        ):
            return
        table = generation.table()
        self.generation = Generation.start(
            generation.number, table, build_index(unit(table.vectors), self._config)
        )
