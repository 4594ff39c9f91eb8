"""What one rank finds out reaches all ranks, tried with real processes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed

from shards.config import ConfigError
from shards.errors import BadShard
from trainers.engine.ranks import on_every_rank, on_first_rank


def answer() -> str:
    return f"rank {distributed.get_rank()} was here"


def refuse() -> str:
    raise ConfigError("num_labels: got 9, expected fewer")


def meet_a_bad_shard() -> str:
    raise BadShard("truncated", "a.tar ends early")


def refuse_on_the_last() -> str:
    if distributed.get_rank() == 1:
        raise ConfigError("no shards on this node")
    return answer()


Ask = Callable[[Callable[[], str]], str]


def ask(rank: int, size: int, folder: Path, asked: Ask, work: Callable[[], str]) -> None:
    """Write down what this rank is told."""
    store = distributed.FileStore(str(folder / "store"), size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        told = asked(work)
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
    """A result, a refusal and a bad shard come back on both of two ranks.

    Neither rank waits for the other.
    """
    assert two_ranks(tmp_path, on_first_rank, work) == [expected, expected]


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (answer, ["rank 0 was here", "rank 1 was here"]),
        (refuse_on_the_last, ["ConfigError: no shards on this node"] * 2),
    ],
)
def test_one_refusal_is_everybodys(
    tmp_path: Path, work: Callable[[], str], expected: list[str]
) -> None:
    """Each of two ranks gets its own result, or both get the refusal that one of them met."""
    assert two_ranks(tmp_path, on_every_rank, work) == expected


def two_ranks(folder: Path, asked: Ask, work: Callable[[], str]) -> list[str]:
    torch.multiprocessing.spawn(ask, args=(2, folder, asked, work), nprocs=2)
    return [(folder / f"rank-{rank}").read_text() for rank in range(2)]
