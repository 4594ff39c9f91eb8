"""What the first rank finds out for all reaches all, over real processes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed

from shards.config import ConfigError
from shards.errors import BadShard
from trainers.first_rank import on_first_rank


def answer() -> str:
    return f"rank {distributed.get_rank()} was here"


def refuse() -> str:
    raise ConfigError("num_labels: got 9, expected fewer")


def meet_a_bad_shard() -> str:
    raise BadShard("truncated", "a.tar ends early")


def ask(rank: int, size: int, folder: Path, work: Callable[[], str]) -> None:
    """Write down what this rank was told."""
    store = distributed.FileStore(str(folder / "store"), size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        told = on_first_rank(work)
    except (ConfigError, BadShard) as error:
        told = f"{type(error).__name__}: {error}"
    (folder / f"rank-{rank}").write_text(told)
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (answer, "rank 0 was here"),
        (refuse, "ConfigError: num_labels: got 9, expected fewer"),
        (meet_a_bad_shard, "BadShard: truncated: a.tar ends early"),
    ],
)
def test_every_rank_is_told(tmp_path: Path, work: Callable[[], str], expected: str) -> None:
    """A result, a refusal and a bad shard come back on both of two ranks, and neither waits for the other."""
    torch.multiprocessing.spawn(ask, args=(2, tmp_path, work), nprocs=2)
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in range(2)] == [expected, expected]
