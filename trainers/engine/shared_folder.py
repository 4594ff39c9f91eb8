"""Whether every rank writes into the same folder: a checkpoint is made of all ranks' parts, in one
place.

On several nodes a local path names a folder on each. Every rank then writes its part where no other
finds it, and the run fails at its first resume; so a file of the first rank has to be seen by all
before anything is trained.
"""

import uuid
from pathlib import Path
from typing import Any

import torch.distributed as distributed

from shards.config import ConfigError
from trainers.engine.ranks import on_first_rank


def require_shared(folder: Path) -> None:
    """Raise ConfigError on every rank when some do not see what the first writes in `folder`; every
    rank calls it.
    """
    mark = folder / on_first_rank(lambda: _leave_mark(folder))
    seen: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(seen, mark.exists())
    on_first_rank(mark.unlink)
    blind = [str(rank) for rank, sees in enumerate(seen) if not sees]
    if blind:
        raise ConfigError(
            f"--out {folder}: rank {', '.join(blind)} of {len(seen)} does not see what rank 0 "
            "writes there; on several nodes give a folder on storage that all of them mount at the "
            "same path"
        )


def _leave_mark(folder: Path) -> str:
    # A name that nobody has asked for before: network file systems remember which names were
    # missing.
    mark = folder / f".shared-{uuid.uuid4().hex}"
    mark.touch()
    return mark.name
