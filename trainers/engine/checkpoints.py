"""Checkpoints that are either whole or not there.

A checkpoint is written under a temporary name, flushed, and renamed. A folder `step-00000200` holds
DeepSpeed's state of every rank, the model's buffers, the position in the data, what the run has
reached so far, and the size of every file. Random numbers need no saving: they are drawn from
(seed, batch number).

A ZeRO checkpoint is divided among the workers that wrote it. Before another number of workers can
resume from it, DeepSpeed's universal checkpoint tool puts the parts together. That tool leaves out
the model's buffers, so they have a file of their own.
"""

import argparse
import errno
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from shards.config import ConfigError
from shards.storage.documents import read_json, write_json
from shards.storage.files import flush, flush_tree

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8})")
STATE_TAG = "deepspeed"
# DeepSpeed refuses to make a universal checkpoint unless it finds this in the checkpoint's state.
UNIVERSAL_CLIENT_STATE: Mapping[str, Any] = {
    "universal_checkpoint_info": {"universal_checkpoint_version": 0.2}
}
# In the folder of a run: the folder of its checkpoints.
CHECKPOINTS_NAME = "checkpoints"
PROGRESS_NAME, FILES_NAME = "progress.json", "files.json"
# In the folder of a run: its result, which is written when the run has ended.
RESULT_NAME = "train.json"


class CheckpointFolder:
    """The checkpoints below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest(self) -> Path | None:
        """The complete checkpoint of the latest step; None when there is no complete one."""
        found = self._complete()
        return found[-1] if found else None

    def temporary(self, step: int) -> Path:
        """The folder in which the checkpoint of `step` is written until it is complete."""
        return self._folder / f".{_name(step)}.tmp"

    def commit(self, step: int, progress: Mapping[str, Any], *, keep: int) -> Path:
        """Make the checkpoint of `step` visible, then remove all but the `keep` newest ones."""
        temporary, final = self.temporary(step), self._folder / _name(step)
        write_json(temporary / FILES_NAME, _sizes(temporary))
        write_json(temporary / PROGRESS_NAME, progress)

        # The content has to be on the disk before the name is, and the name before older
        # checkpoints go: whenever the machine fails, one whole checkpoint is left. A folder with
        # the final name is removed first, because a rename cannot replace a folder with files.
        flush_tree(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        flush(self._folder)

        for old in self._complete()[:-keep]:
            shutil.rmtree(old)
        return final

    def clear(self) -> None:
        """Make the folder if it is missing, and remove what killed runs left half written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob(".step-*.tmp"):
            shutil.rmtree(path)

    def _complete(self) -> list[Path]:
        if not self._folder.is_dir():
            return []

        # Names hold the step in eight digits, so that their order as text is the order of steps.
        found = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(path for path in found if (path / PROGRESS_NAME).exists())


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """The progress that `commit` was given with this checkpoint."""
    progress: dict[str, Any] = read_json(checkpoint / PROGRESS_NAME)
    return progress


def require_complete(checkpoint: Path) -> None:
    """Raise ConfigError when a file that `commit` listed is missing or has another size."""
    sizes: dict[str, int] = read_json(checkpoint / FILES_NAME)
    found = _sizes(checkpoint)

    wrong = [name for name, size in sizes.items() if found.get(name) != size]
    if wrong:
        raise ConfigError(
            f"resume: {checkpoint}: these files are missing or have another size than when they "
            f"were written: {', '.join(wrong)}; restore them, or remove the whole checkpoint to "
            "continue from the one before"
        )


def make_universal(checkpoint: Path) -> Path:
    """Put a ZeRO checkpoint together so that any number of workers can load it.

    Returns the folder to load.
    """
    from deepspeed.checkpoint.ds_to_universal import main as convert

    target = checkpoint / "universal"
    if target.exists():
        return target

    # A conversion that was killed leaves only a folder of the temporary name, so a folder with the
    # name `universal` is always whole.
    unfinished = checkpoint / ".universal.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    arguments = argparse.Namespace(
        input_folder=str(checkpoint / STATE_TAG),
        output_folder=str(unfinished),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=False,
    )
    with redirect_stdout(StringIO()):
        convert(arguments)

    unfinished.rename(target)
    return target


def refuse_used_folder(out: Path, *, resume: bool) -> None:
    """Raise ConfigError when `out` holds a run that is not to be resumed, begun or finished."""
    checkpoints = out / CHECKPOINTS_NAME
    is_used = checkpoints.is_dir() and any(checkpoints.iterdir())
    # A run without steps has a result, but never a checkpoint.
    if not resume and (is_used or (out / RESULT_NAME).exists()):
        raise ConfigError(
            f"--out {out}: got a folder with the checkpoints of a run, or with its result, "
            "expected a folder without; add --resume to go on with that run, or give another folder"
        )


def is_begun(out: Path) -> bool:
    """Whether `out` holds what a run must have been started with the same options to go on with."""
    return (
        CheckpointFolder(out / CHECKPOINTS_NAME).newest() is not None
        or (out / RESULT_NAME).exists()
    )


@contextmanager
def storage_failures(folder: Path) -> Iterator[None]:
    """Raise OSError when torch or safetensors cannot write a file below `folder`.

    Both libraries raise errors of their own in that case, which do not name the folder.
    """
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        # A RuntimeError of torch may mean anything. Only the source file of torch's file writer in
        # its text tells that a file could not be written.
        if isinstance(error, RuntimeError) and "inline_container.cc" not in str(error):
            raise

        free_mib = shutil.disk_usage(folder.parent).free // 2**20
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            errno.EIO, f"cannot write {folder} ({free_mib} MiB are free there): {reason}"
        ) from error


def replace_folder(temporary: Path, final: Path) -> None:
    """Put the folder `temporary` in the place of the folder `final`.

    If this is killed at any point, `recover_folder` brings one of the two back whole.
    """
    # A rename cannot replace a folder with files, so the old folder is first set aside. It is
    # removed last, when the new one is on the disk under its final name.
    old = _set_aside(final)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)

    temporary.rename(final)
    flush(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(final: Path) -> None:
    """Undo a `replace_folder` that was killed after the old folder was set aside."""
    old = _set_aside(final)
    if old.exists() and not final.exists():
        old.rename(final)


def _sizes(folder: Path) -> dict[str, int]:
    """The size in bytes of every file below `folder`, by the file's path in `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _set_aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _name(step: int) -> str:
    return f"step-{step:08d}"
