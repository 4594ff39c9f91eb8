"""Checkpoints and exports are whole or absent, wherever the writer dies."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shards.config import ConfigError
from tests import ROOT
from trainers.engine.checkpoints import (
    CheckpointFolder,
    read_progress,
    recover_folder,
    refuse_used_folder,
    replace_folder,
    storage_failures,
)


def write(folder: Path, step: int, *, keep: int = 10) -> Path:
    """Write a checkpoint of `step` as the engine does."""
    checkpoints = CheckpointFolder(folder)
    checkpoints.clear()
    state = checkpoints.temporary(step) / "deepspeed"
    state.mkdir(parents=True)
    (state / "weights.pt").write_text(str(step))
    return checkpoints.commit(step, {"step": step}, keep=keep)


def model(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_text(text)
    return folder


def test_the_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    """The highest step wins, whatever the order of writing; half-written folders do not count."""
    assert CheckpointFolder(tmp_path / "none").newest() is None

    for step in (200, 1000, 90):
        write(tmp_path, step)

    (tmp_path / ".step-00002000.tmp").mkdir()
    (tmp_path / "step-00003000").mkdir()
    (tmp_path / "step-4000").mkdir()

    newest = CheckpointFolder(tmp_path).newest()
    assert newest is not None
    assert read_progress(newest) == {"step": 1000}
    assert (newest / "deepspeed" / "weights.pt").read_text() == "1000"


def test_old_checkpoints_go_only_after_a_new_one_is_there(tmp_path: Path) -> None:
    """Only the last `keep` checkpoints remain."""
    for step in (1, 2, 3, 4):
        write(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path: Path) -> None:
    """Only the leftovers are removed."""
    write(tmp_path, 1)
    (CheckpointFolder(tmp_path).temporary(2) / "deepspeed").mkdir(parents=True)
    CheckpointFolder(tmp_path).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("killed_at", ["before", "between", "after"])
def test_a_killed_replacement_leaves_one_whole_folder(tmp_path: Path, killed_at: str) -> None:
    """Wherever a replacement was killed, one whole folder is left and the next replacement works.

    It is killed before the first rename, between both, or before the old folder is removed.
    """
    final, temporary = tmp_path / "best", model(tmp_path / ".best.tmp", "new")

    if killed_at == "between":
        model(tmp_path / ".best.old", "old")
    else:
        model(final, "old")
    if killed_at == "after":
        model(tmp_path / ".best.old", "older")

    recover_folder(final)
    assert (final / "model.safetensors").read_text() == "old"

    replace_folder(temporary, final)
    assert (final / "model.safetensors").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


SAVE = """
import resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from trainers.engine.checkpoints import storage_failures
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
folder = Path(sys.argv[1])
tensors = {"weight": torch.zeros(100_000)}
try:
    with storage_failures(folder):
        {"torch": torch.save, "safetensors": save_file}[sys.argv[2]](tensors, str(folder / "file"))
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("writer", ["torch", "safetensors"])
def test_a_file_that_cannot_be_written_is_a_storage_failure(tmp_path: Path, writer: str) -> None:
    """When torch or safetensors fail on a file that may not grow, an OSError names the folder."""
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(tmp_path), writer],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"cannot write {tmp_path}" in done.stdout


def test_other_failures_pass_through(tmp_path: Path) -> None:
    """A RuntimeError that has nothing to do with files and an OSError pass through unchanged."""
    with pytest.raises(RuntimeError, match="shapes"), storage_failures(tmp_path):
        raise RuntimeError("shapes differ")
    with pytest.raises(OSError, match="No space") as raised, storage_failures(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.errno == errno.ENOSPC


def test_a_used_folder_wants_resume(tmp_path: Path) -> None:
    """A folder with checkpoints is refused without --resume; a folder without any is free."""
    refuse_used_folder(tmp_path, resume=False)
    write(tmp_path / "checkpoints", 1)
    refuse_used_folder(tmp_path, resume=True)
    with pytest.raises(ConfigError, match="add --resume"):
        refuse_used_folder(tmp_path, resume=False)
    shutil.rmtree(tmp_path / "checkpoints")
    refuse_used_folder(tmp_path, resume=False)


def test_a_checkpoint_is_on_the_disk_before_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and folder in a checkpoint is flushed before its new name, which is flushed too.

    So is the name of an export.
    """
    flushed: list[tuple[str, bool]] = []
    final = tmp_path / "step-00000001"

    for module in ("trainers.engine.checkpoints", "shards.storage.files"):
        monkeypatch.setattr(
            f"{module}.flush", lambda path: flushed.append((Path(path).name, final.exists()))
        )

    write(tmp_path, 1)
    whole = {"deepspeed", "weights.pt", "files.json", "progress.json", ".step-00000001.tmp"}
    assert {(name, False) for name in whole} < set(flushed)
    assert flushed[-1] == (tmp_path.name, True)

    flushed.clear()
    replace_folder(model(tmp_path / ".best.tmp", "new"), tmp_path / "best")
    assert [name for name, _ in flushed] == [tmp_path.name]
