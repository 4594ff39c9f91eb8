"""`--out` must be the same folder for all ranks.

This is tried with processes that see different folders under one path.
"""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed

from shards.config import ConfigError
from trainers.engine.shared_folder import require_shared


def check(rank: int, size: int, folder: Path, is_shared: bool) -> None:
    """Write down what this rank is told of `out`.

    The path is relative to a folder of the rank's own, or to one that all share.
    """
    mine = folder / ("everybody" if is_shared else f"node-{rank}")
    (mine / "out").mkdir(parents=True, exist_ok=True)
    os.chdir(mine)

    store = distributed.FileStore(str(folder / "store"), size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)

    try:
        require_shared(Path("out"))
        told = "shared"
    except ConfigError as error:
        told = str(error)

    (folder / f"rank-{rank}").write_text(told)
    distributed.barrier()
    distributed.destroy_process_group()
    assert not list(Path("out").iterdir())


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_folder_of_one_node_is_refused_on_all(tmp_path: Path, is_shared: bool) -> None:
    """Every rank is told which rank does not see the folder, and nothing is left in it."""
    torch.multiprocessing.spawn(check, args=(2, tmp_path, is_shared), nprocs=2)
    told = {(tmp_path / f"rank-{rank}").read_text() for rank in range(2)}
    refusal = "--out out: rank 1 of 2 does not see what rank 0 writes there"
    assert len(told) == 1
    assert told.pop().startswith("shared" if is_shared else refusal)
