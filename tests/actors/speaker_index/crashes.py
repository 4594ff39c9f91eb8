"""A fixed story of writes to a speaker index, and processes that die in the middle of it.

Every step is a call that changes what a disk holds. A process counts the steps and dies before the
one it is told to. Or, to see what a power loss leaves, it keeps a copy of what has been flushed:
each file's content at the file's last flush, under its name at the last flush of its folder.
"""

import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.search.generation import Generation
from actors.speaker_index.storage.store import SpeakerStore, open_store
from actors.speaker_index.storage.writes import Deletion, Write
from tests.actors.speaker_index.speaker_world import make_upsert

STEPS = ("open", "pwrite", "fsync", "ftruncate", "replace", "unlink")
MIN_UNINDEXED = 3
CONFIG = IndexConfig(kind="ivf")  # this kind keeps a file of its own
WRITES: tuple[Write, ...] = (
    make_upsert(["a", "b"], 1),
    make_upsert(["s001", "c"], 2),
    Deletion(("s002", "a")),
    make_upsert(["a"], 3),
    make_upsert(["d", "e", "f"], 4),
    Deletion(("nobody",)),
    make_upsert(["b", "g"], 5),
    Deletion(("s000", "g")),
)


def tell(folder: Path, speakers: str, acknowledged: Path) -> None:
    """Open the index, make all writes, note each that is acknowledged, and close."""
    store = open_small(folder, speakers)
    for number, write in enumerate(WRITES):
        store.submit(write).result(timeout=60)
        with acknowledged.open("a") as notes:
            notes.write(f"{number}\n")
    store.close()


def open_small(folder: Path, speakers: str) -> SpeakerStore:
    return open_store(str(folder), speakers, CONFIG, min_unindexed=MIN_UNINDEXED)


def num_acknowledged(notes: Path) -> int:
    return len(notes.read_text().splitlines()) if notes.exists() else 0


def state_of(generation: Generation) -> dict[str, bytes]:
    """Every speaker's name with the bytes of its vector."""
    table = generation.table()
    return {
        name: vector.tobytes() for name, vector in zip(table.speakers, table.vectors, strict=True)
    }


def die_before(step: int, folder: Path, speakers: str, acknowledged: Path) -> None:
    """Tell the story, in a process of its own, up to the given step."""
    count = 0

    def count_down() -> None:
        nonlocal count
        count += 1
        if count > step:
            os.kill(os.getpid(), signal.SIGKILL)

    with watched(lambda *_: count_down()):
        tell(folder, speakers, acknowledged)


@contextmanager
def watched(before: Callable[..., None]) -> Iterator[None]:
    """Call `before(name, arguments)` before each step."""
    real = {name: getattr(os, name) for name in STEPS}

    def wrap(name: str) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            before(name, arguments)
            return real[name](*arguments, **named)

        return step

    for name in STEPS:
        setattr(os, name, wrap(name))
    try:
        yield
    finally:
        for name in STEPS:
            setattr(os, name, real[name])


class PowerLosses:
    """Copies of what a power loss before each step would leave of a folder.

    `left` holds each copy's folder, and the number of writes that were acknowledged by then.
    """

    def __init__(self, folder: Path, acknowledged: Path, copies: Path) -> None:
        self._folder, self._acknowledged, self._copies = folder, acknowledged, copies
        self._content: dict[int, bytes] = {}  # by inode
        self._names: dict[str, int] = {}
        self._lock = Lock()
        self.left: list[tuple[Path, int]] = []

    def before(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Copy what would be left now; then, at a flush, note what it makes durable."""
        with self._lock:
            self._lose_power(num_acknowledged(self._acknowledged))
            if name == "fsync":
                self._flush(arguments[0])

    def _flush(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._names = {entry.name: entry.inode() for entry in os.scandir(self._folder)}
        else:
            with open(f"/proc/self/fd/{descriptor}", "rb") as stream:
                self._content[status.st_ino] = stream.read()

    def _lose_power(self, acknowledged: int) -> None:
        durable = {name: self._content.get(inode, b"") for name, inode in self._names.items()}
        folder = self._copies / f"{len(self.left):03d}"
        folder.mkdir(parents=True)
        for name, content in durable.items():
            (folder / name).write_bytes(content)
        self.left.append((folder, acknowledged))
