"""Checkpoints that are whole or not there: written under a temporary name, flushed, renamed.

A folder `step-00000200` holds DeepSpeed's state of every rank, the model's buffers, the position in
the data, what has been reached so far and the size of every file. Random numbers need no saving:
they are drawn from (seed, batch number). A ZeRO checkpoint is divided among the workers that wrote
it; resumed by another number of workers it is first put together with DeepSpeed's own universal
checkpoint tool, which leaves buffers out: they have a file of their own.
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
# What DeepSpeed wants to find in a checkpoint it is to put together for another number of workers.
UNIVERSAL_CLIENT_STATE: Mapping[str, Any] = {
    "universal_checkpoint_info": {"universal_checkpoint_version": 0.2}
}
CHECKPOINTS_NAME = "checkpoints"  # below the folder of a run
PROGRESS_NAME, FILES_NAME = "progress.json", "files.json"
RESULT_NAME = "train.json"  # beside the checkpoints, once the run has ended


class CheckpointFolder:
    """The checkpoints below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest(self) -> Path | None:
        """The complete checkpoint of the latest step."""
        found = self._complete()
        return found[-1] if found else None

    def temporary(self, step: int) -> Path:
        """Where the checkpoint of `step` is written before it is complete."""
        return self._folder / f".{_name(step)}.tmp"

    def commit(self, step: int, progress: Mapping[str, Any], *, keep: int) -> Path:
        """Make the checkpoint visible, and remove older ones and leftovers."""
        temporary, final = self.temporary(step), self._folder / _name(step)
        write_json(temporary / FILES_NAME, _sizes(temporary))
        write_json(temporary / PROGRESS_NAME, progress)
        flush_tree(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        flush(self._folder)
        for old in self._complete()[:-keep]:
            shutil.rmtree(old)
        return final

    def clear(self) -> None:
        """Remove what killed runs left half written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob(".step-*.tmp"):
            shutil.rmtree(path)

    def _complete(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        found = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(path for path in found if (path / PROGRESS_NAME).exists())


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What `commit` was given."""
    progress: dict[str, Any] = read_json(checkpoint / PROGRESS_NAME)
    return progress


def require_complete(checkpoint: Path) -> None:
    """Raise ConfigError when a file that `commit` counted is missing or has another size."""
    sizes: dict[str, int] = read_json(checkpoint / FILES_NAME)
    found = _sizes(checkpoint)
    wrong = [name for name, size in sizes.items() if found.get(name) != size]
    if wrong:
        raise ConfigError(
            f"resume: {checkpoint}: {', '.join(wrong)} missing or cut short since it was written; "
            "restore it, or remove the whole checkpoint to go on from the one before"
        )


def make_universal(checkpoint: Path) -> Path:
    """Put a ZeRO checkpoint together so that any number of workers can load it; returns the folder
    to load.
    """
    from deepspeed.checkpoint.ds_to_universal import main as convert

    target = checkpoint / "universal"
    if target.exists():
        return target
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
    """A folder is one run's: a new run into it must be a resumed one."""
    if not resume and (out / CHECKPOINTS_NAME).is_dir() and any((out / CHECKPOINTS_NAME).iterdir()):
        raise ConfigError(
            f"--out {out}: holds checkpoints; add --resume to go on, or give another folder"
        )


@contextmanager
def storage_failures(folder: Path) -> Iterator[None]:
    """Raise OSError for what torch and safetensors raise as errors of their own when a file cannot
    be written.
    """
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "inline_container.cc" not in str(
            error
        ):  # torch's file writer
            raise
        free_mib = shutil.disk_usage(folder.parent).free // 2**20
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            errno.EIO, f"cannot write {folder} ({free_mib} MiB are free there): {reason}"
        ) from error


def replace_folder(temporary: Path, final: Path) -> None:
    """Put `temporary` in the place of `final`; killed at any point, `recover_folder` finds one of
    them whole.
    """
    old = _set_aside(final)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    temporary.rename(final)
    flush(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(final: Path) -> None:
    """Undo a replacement that was killed half way."""
    old = _set_aside(final)
    if old.exists() and not final.exists():
        old.rename(final)


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _set_aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _name(step: int) -> str:
    return f"step-{step:08d}"
