"""The index on disk: nothing acknowledged is lost, and nothing half written is ever shown."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.speaker_index.errors import ReadOnlyError, WrongEncoderError
from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.search.generation import Generation
from actors.speaker_index.storage.folder import IndexFolder
from actors.speaker_index.storage.follower import SpeakerFollower
from actors.speaker_index.storage.journal import (
    MAGIC,
    Journal,
    JournalPart,
    StorageFailedError,
    read_journal,
)
from actors.speaker_index.storage.store import open_store, write_rebuilt
from actors.speaker_index.storage.writes import Deletion, apply_writes, decode_write
from shards.config import ConfigError
from shards.speakers.files import write_speakers
from tests.actors.speaker_index.crashes import (
    WRITES,
    PowerLosses,
    die_before,
    num_acknowledged,
    open_small,
    state_of,
    tell,
    watched,
)
from tests.actors.speaker_index.speaker_world import (
    FINGERPRINT,
    LAYOUT,
    make_table,
    make_upsert,
    write_table,
)


@pytest.fixture
def speakers(tmp_path: Path) -> str:
    return write_table(tmp_path / "speakers.parquet", 6)


@pytest.fixture
def states(tmp_path: Path, speakers: str) -> list[dict[str, bytes]]:
    """The states that the index can be in: after none, one, two, ... of the writes."""
    store = open_small(tmp_path / "expected", speakers)
    generation = store.generation
    store.close()
    return [
        state_of(apply_writes(generation, WRITES[:number])[0]) for number in range(len(WRITES) + 1)
    ]


def require_whole(
    folder: Path, speakers: str, acknowledged: int, states: list[dict[str, bytes]]
) -> None:
    """Check that `folder` holds a whole state with all acknowledged writes, and takes another."""
    store = open_small(folder, speakers)
    found = state_of(store.generation)
    assert found in states[acknowledged : acknowledged + 2]

    number = store.submit(make_upsert(["later"])).result(timeout=60).generation
    store.close()

    again = open_small(folder, speakers)
    assert again.generation.number == number
    assert state_of(again.generation).keys() == found.keys() | {"later"}
    again.close()


def test_a_kill_before_any_step_loses_nothing(
    tmp_path: Path, speakers: str, states: list[dict[str, bytes]]
) -> None:
    """A SIGKILL before any step of opening, writing, snapshots and swaps loses nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.actors.speaker_index.crashes"])

    status, step = -signal.SIGKILL, 0
    while status == -signal.SIGKILL:
        folder, notes = tmp_path / f"step-{step}", tmp_path / f"notes-{step}"
        process = context.Process(target=die_before, args=(step, folder, speakers, notes))
        process.start()
        process.join(timeout=60)
        status = process.exitcode
        require_whole(folder, speakers, num_acknowledged(notes), states)
        step += 1

    assert status == 0
    assert num_acknowledged(notes) == len(WRITES)
    assert step > 60


def test_a_power_loss_before_any_step_loses_nothing(
    tmp_path: Path, speakers: str, states: list[dict[str, bytes]]
) -> None:
    """What was acknowledged is among the files and names that were flushed before a power loss."""
    folder, notes = tmp_path / "data", tmp_path / "notes"
    folder.mkdir()
    losses = PowerLosses(folder, notes, tmp_path / "copies")

    with watched(losses.before):
        tell(folder, speakers, notes)

    assert len(losses.left) > 60
    for left, acknowledged in losses.left:
        require_whole(left, speakers, acknowledged, states)


def test_a_rebuilt_index_takes_over_with_later_writes(tmp_path: Path, speakers: str) -> None:
    """After many writes old files are gone, and the newest snapshot has the same speakers."""
    folder = IndexFolder(tmp_path / "data")

    store = open_small(folder.path, speakers)
    for number in range(30):
        store.submit(make_upsert([f"n{number:02d}"], number)).result(timeout=60)
    store.close()

    assert len(folder.generations("speakers")) == len(folder.generations("journal")) == 1
    assert folder.generations("speakers")[0] > 1

    again = open_small(folder.path, speakers)
    assert state_of(again.generation) == state_of(store.generation)
    assert again.generation.number == 31
    again.close()


def test_one_folder_has_one_writer(tmp_path: Path, speakers: str) -> None:
    """A second writer is refused until the first has closed."""
    store = open_small(tmp_path / "data", speakers)
    with pytest.raises(ConfigError, match="another server writes to it"):
        open_small(tmp_path / "data", speakers)

    store.close()
    with pytest.raises(ReadOnlyError):
        store.submit(WRITES[0])
    open_small(tmp_path / "data", speakers).close()


def test_another_table_replaces_its_speakers_and_keeps_the_rest(
    tmp_path: Path, speakers: str
) -> None:
    """A new table's speakers win, those of clients stay, and the same table changes nothing."""
    store = open_small(tmp_path / "data", speakers)
    store.submit(make_upsert(["added", "s001"])).result(timeout=60)
    before = state_of(store.generation)
    store.close()

    unchanged = open_small(tmp_path / "data", speakers)
    assert state_of(unchanged.generation) == before
    unchanged.close()

    other = write_table(tmp_path / "other.parquet", 3, seed=5)
    for _ in range(2):
        changed = open_small(tmp_path / "data", other)
        found, table = state_of(changed.generation), make_table(3, seed=5)
        assert changed.generation.number == 3
        changed.close()
        assert found == before | {
            n: v.tobytes() for n, v in zip(table.speakers, table.vectors, strict=True)
        }


@pytest.mark.parametrize("differs", ["encoder", "width", "labels"])
def test_a_table_of_another_kind_is_refused(tmp_path: Path, speakers: str, differs: str) -> None:
    """A table of another encoder, width or label dimensions does not fit the folder's speakers."""
    open_small(tmp_path / "data", speakers).close()
    other, table = tmp_path / "other.parquet", make_table(3)
    changes = {
        "encoder": {"fingerprint": "another:2"},
        "width": {"vectors": table.vectors[:, :-1]},
        "labels": {"dimensions": tuple(reversed(table.dimensions))},
    }

    write_speakers(str(other), replace(table, **changes[differs]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give another --data folder"):
        open_small(tmp_path / "data", str(other))


def journal_of_writes(data: Path, speakers: str) -> Path:
    """The journal of a store that has acknowledged all of WRITES, and was closed."""
    store = open_store(str(data), speakers, IndexConfig())
    for write in WRITES:
        store.submit(write).result(timeout=60)
    store.close()
    return IndexFolder(data).name("journal", 1)


def test_damage_to_what_was_acknowledged_is_refused(tmp_path: Path, speakers: str) -> None:
    """A flipped byte anywhere in the journal is refused with its place, and a torn end is not."""
    store = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    for write in WRITES:
        store.submit(write).result(timeout=60)
    expected = state_of(store.generation)
    store.close()

    (journal,) = (tmp_path / "data").glob("journal-*.log")
    whole = journal.read_bytes()
    for place in range(30, len(whole) - 100, 41):
        journal.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ConfigError, match="were acknowledged and cannot be read"):
            open_store(str(tmp_path / "data"), speakers, IndexConfig())

    # A power loss may leave this of a write that nobody was told of.
    journal.write_bytes(whole + whole[40:90])
    again = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    assert state_of(again.generation) == expected
    again.close()


def test_a_missing_snapshot_or_journal_is_refused(tmp_path: Path, speakers: str) -> None:
    """Journals without a snapshot are refused, as they hold only the later writes."""
    store = open_small(tmp_path / "data", speakers)
    for write in WRITES:
        store.submit(write).result(timeout=60)
    store.close()

    for snapshot in (tmp_path / "data").glob("speakers-*.parquet"):
        snapshot.unlink()

    with pytest.raises(ConfigError, match="holds journals and no snapshot"):
        open_small(tmp_path / "data", speakers)


@pytest.mark.parametrize("what", ["content", "description", "snapshot", "missing description"])
def test_an_index_file_that_cannot_be_trusted_is_built_again(
    tmp_path: Path, speakers: str, what: str
) -> None:
    """An index file that does not fit its snapshot is built again, and the answers are right."""
    store = open_small(tmp_path / "data", speakers)
    expected = state_of(store.generation)
    store.close()

    (index,) = (tmp_path / "data").glob("index-*.faiss")
    description = index.with_suffix(".json")

    if what == "content":
        data = bytearray(index.read_bytes())
        data[len(data) // 2] ^= 1
        index.write_bytes(bytes(data))
    elif what == "description":
        description.write_text("{")
    elif what == "snapshot":
        description.write_text(description.read_text().replace('"snapshot": "', '"snapshot": "0'))
    else:
        description.unlink()

    again = open_small(tmp_path / "data", speakers)
    assert state_of(again.generation) == expected
    again.close()
    assert len(description.read_text()) > 100


def test_a_full_disk_refuses_the_write_and_keeps_the_rest(
    tmp_path: Path, speakers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write to a full disk has no effect, also after a restart; the next one may succeed."""
    store = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    store.submit(make_upsert(["a"])).result(timeout=60)
    real = os.pwrite

    def half(descriptor: int, data: bytes, offset: int) -> int:
        monkeypatch.setattr(os, "pwrite", fail)
        return real(descriptor, bytes(data)[: len(data) // 2], offset)

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(StorageFailedError, match="No space left"):
        store.submit(make_upsert(["b"])).result(timeout=60)
    assert store.generation.find("b") is None

    monkeypatch.setattr(os, "pwrite", real)
    store.submit(make_upsert(["c"])).result(timeout=60)
    store.close()

    again = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    assert {"a", "c"} <= state_of(again.generation).keys()
    assert again.generation.find("b") is None
    again.close()


def break_next(monkeypatch: pytest.MonkeyPatch, name: str, path: Path, number: int = 28) -> None:
    """Let `os.name` fail for the file at `path`, and for its folder once the file is there."""
    real = getattr(os, name)

    def step(target: int | Path, *rest: object) -> object:
        where = (
            Path(f"/proc/self/fd/{target}").resolve() if isinstance(target, int) else Path(target)
        )
        if where == path or (where == path.parent and path.exists()):
            raise OSError(number, os.strerror(number))
        return real(target, *rest)

    monkeypatch.setattr(os, name, step)


@pytest.mark.parametrize("step", ["pwrite", "fsync"])
def test_a_journal_that_cannot_be_begun_is_not_left_behind(
    tmp_path: Path, speakers: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """At a roll-over on a full disk writes go on in the old journal, for followers and restarts."""
    folder = tmp_path / "data"
    store = open_small(folder, speakers)
    follower = SpeakerFollower(str(folder), IndexConfig(), poll_seconds=3600)
    num_open = len(os.listdir("/proc/self/fd"))

    with monkeypatch.context() as patch:
        break_next(patch, step, IndexFolder(folder).name("journal", 2))
        store.submit(make_upsert(["a", "b", "c", "d"])).result(timeout=60)
        store.submit(make_upsert(["e"])).result(timeout=60)  # behind the roll-over

    assert IndexFolder(folder).generations("journal") == [1]
    assert len(os.listdir("/proc/self/fd")) == num_open

    store.submit(make_upsert(["f"])).result(timeout=60)
    follower.catch_up()
    assert state_of(follower.generation) == state_of(store.generation)
    follower.close()
    store.close()

    (journal,) = folder.glob("journal-*.log")
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[40:90])
    again = open_store(str(folder), speakers, IndexConfig())
    assert state_of(again.generation) == state_of(store.generation)
    again.close()


def test_a_journal_that_cannot_be_removed_ends_writes(
    tmp_path: Path, speakers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a later journal cannot be removed, the old one takes no more writes and loses none."""
    folder = tmp_path / "data"
    store = open_small(folder, speakers)

    with monkeypatch.context() as patch:
        for step in ("pwrite", "unlink"):
            break_next(patch, step, IndexFolder(folder).name("journal", 2))
        store.submit(make_upsert(["a", "b", "c", "d"])).result(timeout=60)
        store._writer.join(timeout=60)

    with pytest.raises(StorageFailedError, match="restart the server"):
        store.submit(make_upsert(["e"])).result(timeout=60)
    assert isinstance(store.failure, StorageFailedError)
    store.close()

    again = open_small(folder, speakers)
    assert state_of(again.generation) == state_of(store.generation)
    again.submit(make_upsert(["e"])).result(timeout=60)
    again.close()


def test_a_failed_flush_is_not_tried_again(
    tmp_path: Path, speakers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed flush all writes are refused until a restart, and the failure is told."""
    store = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    real = os.fsync

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageFailedError, match="cannot be flushed"):
        store.submit(make_upsert(["a"])).result(timeout=60)

    monkeypatch.setattr(os, "fsync", real)
    with pytest.raises(StorageFailedError, match="restart the server"):
        store.submit(make_upsert(["b"])).result(timeout=60)
    store.close()
    assert isinstance(store.failure, StorageFailedError)


def test_no_rebuild_goes_on_behind_a_failed_flush(
    tmp_path: Path, speakers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild that was under way begins no new journal, and a restart finds all acknowledged."""
    folder = tmp_path / "data"
    let_go = threading.Event()
    real = write_rebuilt

    def wait(*arguments: Any) -> Generation:
        assert let_go.wait(60)
        return real(*arguments)

    monkeypatch.setattr("actors.speaker_index.storage.store.write_rebuilt", wait)
    store = open_small(folder, speakers)
    for number in range(9):
        store.submit(make_upsert([f"n{number}"], number)).result(timeout=60)

    newest = sorted(folder.glob("journal-*.log"))[-1]
    with monkeypatch.context() as patch:
        break_next(patch, "fsync", newest, 5)
        with pytest.raises(StorageFailedError, match="cannot be flushed"):
            store.submit(make_upsert(["unknown"])).result(timeout=60)

    let_go.set()
    for thread in threading.enumerate():
        if thread.name == "speaker-rebuild":
            thread.join(timeout=60)

    with pytest.raises(StorageFailedError, match="restart the server"):
        store.submit(make_upsert(["later"])).result(timeout=60)
    store.close()

    again = open_small(folder, speakers)
    assert state_of(again.generation).items() >= state_of(store.generation).items()
    assert again.generation.find("later") is None
    again.close()


def test_a_journal_that_is_opened_again_is_written_again(
    tmp_path: Path, speakers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte that is believed is written again and flushed, as it may not be on the disk."""
    journal = journal_of_writes(tmp_path / "data", speakers)
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[40:90])

    steps: list[tuple[str, object]] = []
    write_at, flush = os.pwrite, os.fsync
    monkeypatch.setattr(
        os, "pwrite", lambda *a: (steps.append((bytes(a[1]), a[2])), write_at(*a))[1]
    )
    monkeypatch.setattr(os, "fsync", lambda *a: (steps.append(("flushed", 0)), flush(*a))[1])

    again = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    assert steps[:2] == [(whole, 0), ("flushed", 0)]
    assert journal.read_bytes() == whole
    again.close()


def test_a_cancelled_write_leaves_no_trace(
    tmp_path: Path, speakers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that is canceled while it waits behind another is neither stored nor shown."""
    store = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    real, cancelled = os.fsync, []

    def cancel_the_next(descriptor: int) -> None:
        if not cancelled:
            cancelled.append(store.submit(make_upsert(["second"])))
            assert cancelled[0].cancel()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", cancel_the_next)
    store.submit(make_upsert(["first"])).result(timeout=60)
    store.submit(Deletion(("nobody",))).result(timeout=60)
    store.close()

    assert store.generation.find("second") is None
    assert store.generation.number == 3


def test_a_follower_shows_the_writers_generations(tmp_path: Path, speakers: str) -> None:
    """A follower ends where the writer is, at whole generations, also through rebuilds."""
    store = open_small(tmp_path / "data", speakers)
    follower = SpeakerFollower(str(tmp_path / "data"), IndexConfig(), poll_seconds=3600)
    states: dict[int, dict[str, bytes]] = {1: state_of(store.generation)}

    for number in range(40):
        written = store.submit(make_upsert([f"n{number % 9}"], number)).result(timeout=60)
        states[written.generation] = state_of(store.generation)
        if number % 7 == 3:
            follower.catch_up()
            assert follower.generation.number == written.generation
            assert state_of(follower.generation) == states[written.generation]

    follower.catch_up()
    assert state_of(follower.generation) == state_of(store.generation)
    with pytest.raises(ReadOnlyError):
        follower.submit(WRITES[0])
    follower.close()
    store.close()


def test_a_follower_does_not_show_what_may_be_taken_back(
    tmp_path: Path, speakers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write in the file that is perhaps not on the disk is in no generation of a follower."""
    store = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    store.submit(make_upsert(["first"])).result(timeout=60)
    follower = SpeakerFollower(str(tmp_path / "data"), IndexConfig(), poll_seconds=3600)
    seen: list[int | None] = []
    real = os.fsync

    def look(descriptor: int) -> None:
        if not seen:
            follower.catch_up()
            seen.append(follower.generation.find("second"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    store.submit(make_upsert(["second"])).result(timeout=60)

    assert seen == [None]
    follower.catch_up()
    assert follower.generation.find("second") is not None
    follower.close()
    store.close()


@pytest.mark.parametrize("fingerprint", ["another:2", FINGERPRINT])
def test_a_folder_that_is_begun_anew_is_not_followed(
    tmp_path: Path, speakers: str, fingerprint: str
) -> None:
    """When the folder is begun anew, the follower keeps what it has and says why."""
    store = open_small(tmp_path / "data", speakers)
    for number in range(6):
        store.submit(make_upsert([f"n{number}"], number)).result(timeout=60)
    store.close()

    follower = SpeakerFollower(str(tmp_path / "data"), IndexConfig(), poll_seconds=3600)
    expected = state_of(follower.generation)

    shutil.rmtree(tmp_path / "data")
    write_speakers(
        str(tmp_path / "other.parquet"), replace(make_table(6, 9), fingerprint=fingerprint)
    )
    open_store(str(tmp_path / "data"), str(tmp_path / "other.parquet"), IndexConfig()).close()

    for _ in range(2):
        with pytest.raises(ConfigError, match=r"was begun anew.*restart this replica"):
            follower.catch_up()
        assert state_of(follower.generation) == expected
    follower.close()


@pytest.mark.parametrize("num_writes", [1, 4])
def test_a_journal_of_the_same_name_is_not_taken_for_the_one_that_was_read(
    tmp_path: Path, speakers: str, num_writes: int
) -> None:
    """A journal of a folder begun anew is refused, whether it has fewer writes or as many."""
    data = tmp_path / "data"
    store = open_store(str(data), speakers, IndexConfig())
    for number in range(3):
        store.submit(make_upsert([f"n{number}"], number)).result(timeout=60)
    store.close()

    follower = SpeakerFollower(str(data), IndexConfig(), poll_seconds=3600)
    expected = state_of(follower.generation)

    shutil.rmtree(data)
    other = open_store(str(data), write_table(tmp_path / "other.parquet", 6, 9), IndexConfig())
    for number in range(num_writes):
        other.submit(make_upsert([f"m{number}"], number)).result(timeout=60)

    with pytest.raises(ConfigError, match="was begun anew"):
        follower.catch_up()
    assert state_of(follower.generation) == expected
    follower.close()
    other.close()


def test_another_encoders_write_is_not_applied() -> None:
    """A write in the journal whose request names another encoder is refused."""
    payload = make_upsert(["a"]).encode()
    assert decode_write(payload, LAYOUT).leaving == ["a"]
    with pytest.raises(WrongEncoderError):
        decode_write(payload, replace(LAYOUT, fingerprint="another:2"))


def test_whatever_stops_a_follower_is_its_failure(
    tmp_path: Path, speakers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any error becomes the follower's failure, and following goes on when it is over."""
    store = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    failed, over = threading.Event(), threading.Event()

    def read(path: Path, start: int = 0) -> JournalPart:
        if failed.is_set() and not over.is_set():
            raise MemoryError
        return read_journal(path, start)

    monkeypatch.setattr("actors.speaker_index.storage.follower.read_journal", read)
    follower = SpeakerFollower(str(tmp_path / "data"), IndexConfig(), poll_seconds=0.001)
    failed.set()
    until(lambda: isinstance(follower.failure, MemoryError))
    over.set()
    until(lambda: follower.failure is None)
    follower.close()
    store.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_folder_without_a_writer_cannot_be_followed(tmp_path: Path) -> None:
    """A folder without a snapshot is refused, and the message says what to do."""
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigError, match="start the writer first"):
        SpeakerFollower(str(tmp_path / "data"), IndexConfig())


def test_a_gap_before_a_journal_is_refused(tmp_path: Path, speakers: str) -> None:
    """A snapshot is refused when the journal's writes do not follow on it."""
    journal = journal_of_writes(tmp_path / "data", speakers)
    first = read_journal(journal).records[0]
    journal.write_bytes(MAGIC + journal.read_bytes()[first.end :])
    with pytest.raises(ConfigError, match="goes from generation 1 to 3; a journal is missing"):
        open_store(str(tmp_path / "data"), speakers, IndexConfig())


def test_a_torn_end_before_a_later_journal_is_damage(tmp_path: Path, speakers: str) -> None:
    """Only the newest journal may have a torn end, as the older ones were flushed whole."""
    store = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    store.submit(make_upsert(["a"])).result(timeout=60)
    store.close()

    folder = IndexFolder(tmp_path / "data")
    journal = folder.name("journal", 1)
    journal.write_bytes(journal.read_bytes() + b"torn")
    Journal.create(folder.name("journal", 2), 2).close()

    with pytest.raises(ConfigError, match="before a later journal; restore a backup"):
        open_store(str(tmp_path / "data"), speakers, IndexConfig())


def test_a_snapshot_under_another_generations_name_is_refused(
    tmp_path: Path, speakers: str
) -> None:
    """A snapshot that was copied by hand to another generation's name is refused."""
    open_store(str(tmp_path / "data"), speakers, IndexConfig()).close()
    folder = IndexFolder(tmp_path / "data")
    shutil.copy(folder.name("speakers", 1), folder.name("speakers", 5))
    with pytest.raises(ConfigError, match="is the snapshot of generation 1, under another's name"):
        open_store(str(tmp_path / "data"), speakers, IndexConfig())


def test_voices_are_for_their_owner_alone(tmp_path: Path, speakers: str) -> None:
    """Nobody but the owner can read the folder and its journals, whatever the umask allows."""
    before = os.umask(0)
    try:
        open_store(str(tmp_path / "data"), speakers, IndexConfig()).close()
    finally:
        os.umask(before)

    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert IndexFolder(tmp_path / "data").name("journal", 1).stat().st_mode & 0o777 == 0o600


def test_an_index_of_another_configuration_is_built_again(tmp_path: Path, speakers: str) -> None:
    """An index that was built for less recall is not used where more is asked for."""
    for recall in (0.5, 0.99):
        config = IndexConfig(kind="ivf", recall=recall)
        store = open_store(str(tmp_path / "data"), speakers, config)
        store.close()
        (description,) = (tmp_path / "data").glob("index-*.json")
        assert f'"recall": {recall}' in description.read_text()


def test_a_write_that_can_not_be_taken_back_ends_writes(
    tmp_path: Path, speakers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a failed write cannot be taken back, nothing is appended behind it until a restart."""
    store = open_store(str(tmp_path / "data"), speakers, IndexConfig())

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(StorageFailedError, match="cannot be written"):
            store.submit(make_upsert(["a"])).result(timeout=60)

    with pytest.raises(StorageFailedError):
        store.submit(make_upsert(["b"])).result(timeout=60)
    store.close()

    again = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    assert state_of(again.generation).keys() == {f"s{number:03d}" for number in range(6)}
    again.close()


def test_a_long_journal_is_rolled_over(tmp_path: Path, speakers: str) -> None:
    """Writes of one speaker over and over make the journal long, and a snapshot begins another."""
    store = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    store._max_journal_bytes = 2000

    for number in range(30):
        store.submit(make_upsert(["same"], number)).result(timeout=60)
    store.close()

    folder = IndexFolder(tmp_path / "data")
    assert folder.generations("speakers")[-1] > 1
    assert folder.name("journal", folder.generations("journal")[-1]).stat().st_size < 8000


def test_damage_to_the_last_acknowledged_write_is_refused(tmp_path: Path, speakers: str) -> None:
    """Damage to the last write is refused, as the mark behind it says that it was acknowledged."""
    journal = journal_of_writes(tmp_path / "data", speakers)
    last = [record for record in read_journal(journal).records if record.payload][-1]
    data = bytearray(journal.read_bytes())
    data[last.end - 1] ^= 1
    journal.write_bytes(data)

    with pytest.raises(ConfigError, match="were acknowledged and cannot be read"):
        open_store(str(tmp_path / "data"), speakers, IndexConfig())
