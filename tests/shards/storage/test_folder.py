"""A folder is finished exactly when its summary says so.

A sweep finds whatever its writers leave behind.
"""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from shards.config import option
from shards.storage.files import atomic_write, exists, join, temporary_name, written_name
from shards.storage.folder import Folder, sweep
from shards.storage.names import list_names
from tests import ROOT

# Killed with half a file written; a file server has a file, an object store would have parts that
# nobody lists.
KILLED = """
import os, signal, sys
from shards.storage.files import atomic_write
with atomic_write(sys.argv[1]) as stream:
    stream.write(b"half of it")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    size: int = option(help="of it", default=3)


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    url = str(tmp_path / "out") if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    yield Folder(url=url, summary_name="summary.json", config_name="options.yaml")
    if request.param == "memory":
        filesystem = fsspec.filesystem("memory")
        if filesystem.exists(url):
            filesystem.rm(url, recursive=True)


def put(folder: Folder, name: str, data: bytes = b"x") -> None:
    with atomic_write(folder.place(name)) as stream:
        stream.write(data)


def test_a_folder_is_finished_by_its_summary(folder: Folder) -> None:
    """A reopened folder is unfinished, but its last summary is still known.

    When it is finished again, nothing else is left.
    """
    folder.make()
    assert not folder.is_finished()
    assert folder.last_summary() is None

    folder.reopen()
    folder.finish(Config(), {"number": 1})
    assert folder.is_finished()

    folder.reopen()
    assert not folder.is_finished()
    assert folder.last_summary() == {"number": 1}

    folder.reopen()  # by a run that goes on with one that was killed
    assert folder.last_summary() == {"number": 1}

    folder.finish(Config(size=4), {"number": 2})
    assert folder.last_summary() == {"number": 2}
    assert folder.names() == ["options.yaml", "summary.json"]


def test_a_sweep_removes_what_is_its_own(folder: Folder) -> None:
    """A sweep removes temporary files of its names and of its documents.

    It leaves those of others, and files that are whole.
    """
    folder.make()
    mine, theirs = temporary_name("mine.parquet"), temporary_name("theirs.parquet")
    for name in (mine, theirs, temporary_name("summary.json"), "mine.parquet", ".hidden"):
        put(folder, name)

    folder.sweep({"mine.parquet"}.__contains__)
    assert folder.names() == sorted([theirs, "mine.parquet", ".hidden"])


def test_a_temporary_file_without_a_name_is_found(folder: Folder) -> None:
    """A `.tmp-UUID`, as older writers to file servers left, is swept."""
    folder.make()
    put(folder, f".tmp-{uuid.uuid4().hex}")
    put(folder, "mine.parquet")
    sweep(folder.url, lambda _: False)
    assert folder.names() == ["mine.parquet"]


@pytest.mark.parametrize("name", ["table.parquet", "[a]*?.parquet", "a.tmp-b.parquet", ".hidden"])
def test_every_temporary_name_is_known_again(name: str) -> None:
    """A temporary name gives its file's name, without wildcards; no other name is taken for one."""
    plain = name.replace("[", "_").replace("]", "_").replace("*", "_").replace("?", "_")
    assert written_name(temporary_name(name)) == plain
    assert written_name(name) is None
    assert written_name(f"{temporary_name(name)}.parquet") is None


def test_what_a_killed_writer_leaves_is_swept(tmp_path: Path) -> None:
    """A sweep removes what a writer leaves that is killed amid a local write."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "mine.parquet")], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    sweep(str(tmp_path), {"mine.parquet"}.__contains__)
    assert os.listdir(tmp_path) == []


def test_what_a_file_server_is_left_with_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep removes what a writer leaves on a file server.

    The writer dies between its last byte and the move.
    """
    url = f"memory://{uuid.uuid4().hex}"
    filesystem = fsspec.filesystem("memory")

    def die(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(type(filesystem), "mv", die)
        patched.setattr(type(filesystem), "rm_file", die)  # what is dead cannot tidy up
        with pytest.raises(SystemExit), atomic_write(join(url, "mine[1].parquet")) as stream:
            stream.write(b"all of it")

    assert [written_name(name) for name in list_names(url)] == ["mine_1_.parquet"]
    sweep(url, {"mine_1_.parquet"}.__contains__)
    assert list_names(url) == []
    assert not exists(join(url, "mine[1].parquet"))
