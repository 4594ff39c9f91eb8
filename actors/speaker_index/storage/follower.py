"""The speaker index of a replica: it follows the folder that another process writes to.

A follower takes no writes. It reads the newest snapshot, then the journals as they grow. It applies
only whole records that are known to be on the disk, so that each of its generations is one of the
writer's, and none is ever taken back. If the writer has removed a journal before it was read to its
end, the newest snapshot holds those writes, and the follower begins again with that snapshot.

The follower looks at the folder several times a second. A message from the writer was rejected: the
folder may lie on any shared file system, and a follower that was cut off needs no protocol to catch
up.
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
# How often reading begins again when the writer has replaced what was being read.
BEGINNINGS = 5


class SpeakerFollower:
    """An index that follows; any thread may read `generation`."""

    def __init__(
        self, path: str, config: IndexConfig, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._folder, self._config = IndexFolder(Path(path)), config
        self.generation = self._newest()
        # The number of the journal that is being read, and the last of its writes that was applied.
        self._journal = self.generation.number
        self._last: Bookmark | None = None
        self.layout = Layout.of(self.generation.base.table)
        self.failure: BaseException | None = None
        self.catch_up()

        self._ended = Event()
        self._thread = Thread(
            target=self._follow, args=(poll_seconds,), name="speaker-follower", daemon=True
        )
        self._thread.start()

    def submit(self, write: Write) -> Future[Written]:
        """Refuse the write: raises ReadOnlyError."""
        raise ReadOnlyError("this replica only follows; send writes to the server that it follows")

    def close(self) -> None:
        """Stop following, and wait for the thread to end."""
        self._ended.set()
        self._thread.join()

    def catch_up(self) -> None:
        """Apply what has been written since the last look.

        Raises ConfigError when snapshots are replaced faster than they can be read, and when the
        folder holds another index now.
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
            except Exception as error:  # noqa: BLE001 (health reports it; a lost file system may return)
                # Only the first failure is logged: several looks a second may fail.
                if self.failure is None:
                    log.warning("following is interrupted and will be tried again: %r", error)
                self.failure = error

    def _begin_again(self) -> None:
        """Go on with a later snapshot of the same index.

        Raises ConfigError when there is another index in the folder.
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

        # The writer may have replaced this snapshot too by now; reading its journal then fails, and
        # `catch_up` calls this again.
        self.generation = generation
        self._journal, self._last = generation.number, None

    def _newest(self) -> Generation:
        """The generation of the newest snapshot. Raises ConfigError while there is no snapshot."""
        for _ in range(BEGINNINGS):
            try:
                snapshot = self._folder.newest_snapshot()
                if snapshot is None:
                    raise ConfigError(
                        f"--data {self._folder.path}: holds no snapshot yet, which a writer makes; "
                        "start the writer first"
                    )
                return indexed(self._folder, snapshot, self._config, keep=False)
            except FileNotFoundError:
                # The writer has replaced the snapshot between the listing and the reading.
                continue

        raise self._outrun()

    def _outrun(self) -> ConfigError:
        return ConfigError(
            f"--data {self._folder.path}: snapshots are replaced faster than this replica can read "
            "them; check that the shared file system is fast enough"
        )

    def _read_on(self) -> bool:
        """Apply what is new and known to be on the disk; False when part of it was removed."""
        while True:
            # The list is made before the journal is read. The writer appends to its newest journal
            # only: if there was a later one, what is read here is all that this one will ever hold.
            later = [
                number for number in self._folder.generations("journal") if number > self._journal
            ]

            try:
                part = self._read_part(self._folder.name("journal", self._journal))
            except FileNotFoundError:
                return False
            # None: another journal has taken the name of the one that was read.
            if part is None:
                return False

            self._apply(part, is_ended=bool(later))

            if not later:
                return True

            # The next journal holds the writes after the generation in its name. If this generation
            # has not been reached, some writes before it are missing.
            if later[0] > self.generation.number:
                return False

            self._journal, self._last = later[0], None

    def _read_part(self, path: Path) -> JournalPart | None:
        """The journal behind the last write applied; None when another file has its name."""
        if self._last is None:
            return read_journal(path)

        return read_journal(path, self._last.end) if self._last.is_in(path) else None

    def _apply(self, part: JournalPart, *, is_ended: bool) -> None:
        # A journal that has ended was flushed to its end before the next one was begun. In one that
        # grows, the last records may not be on the disk yet, and could be taken back.
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
