"""Checks that every rank writes into the same folder.

A checkpoint consists of one part from each rank, all in one folder. On several nodes, a local path
names a different folder on each node: the ranks then write parts that the other ranks cannot find,
and the run fails at its first resume. So before training starts, the first rank writes a file, and
every rank has to see it.
"""

import uuid
from pathlib import Path
from typing import Any

import torch.distributed as distributed

from shards.config import ConfigError
from trainers.engine.ranks import on_first_rank


def require_shared(folder: Path) -> None:
    """Raise ConfigError on every rank when some rank does not see what rank 0 writes in `folder`.

    Every rank calls this.
    """
    mark = folder / on_first_rank(lambda: _leave_mark(folder))

    # The file is removed only after every rank has answered whether it sees the file.
    seen: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(seen, mark.exists())
    on_first_rank(mark.unlink)

    blind = [str(rank) for rank, sees in enumerate(seen) if not sees]
    if blind:
        raise ConfigError(
            f"--out {folder}: rank {', '.join(blind)} of {len(seen)} does not see what rank 0 "
            "writes there; for several nodes, give a folder on storage that all nodes mount at the "
            "same path"
        )


def _leave_mark(folder: Path) -> str:
    # The name is new, because a network file system remembers names that were missing when somebody
    # asked for them, and would go on calling such a file missing.
    mark = folder / f".shared-{uuid.uuid4().hex}"
    mark.touch()
    return mark.name
