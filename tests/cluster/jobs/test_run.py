"""The driver of a job over shards: whom it charges when workers die, and what it checks first."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.work.task import ShardOutcome, ShardTask, require_writable
from cluster.jobs.run import ShardRun
from cluster.nodes.placement import place_workers
from cluster.nodes.session import ray_session
from shards.config import ConfigError
from shards.progress import unseen

POISON = "poison"


def tasks(out: Path, *names: str) -> list[ShardTask]:

    return [
        ShardTask(
            url=f"/{name}.tar",
            name=name,
            size=1,
            version="1",
            table_url=f"{out}/{name}.parquet",
            maker="m",
        )
        for name in names
    ]


def run(address: str, todo: list[ShardTask], out: Path, max_attempts: int) -> ShardRun:
    """Run `todo` with one worker, which dies of every shard whose name begins with POISON."""

    class Worker:
        def __init__(self, num_threads: int, num_readers: int) -> None:
            pass

        def setup(self, folder: str) -> int:
            require_writable(folder)
            return os.getpid()

        def prepare(self, task: ShardTask) -> None:
            pass

        def progress(self) -> int:
            return 0

        def work(self, task: ShardTask) -> ShardOutcome:
            if task.name.startswith(POISON):
                os._exit(1)
            return ShardOutcome(
                name=task.name,
                num_utterances=1,
                seconds_of_audio=1.0,
                rejected={},
                shard_error=None,
            )

    actor: Callable[[type], Any] = ray.remote(max_restarts=0, max_task_retries=0)
    with ray_session(address) as nodes:
        found = ShardRun(
            actor=actor(Worker),
            arguments=(),
            what="nothing",
            out=str(out),
            num_readers=1,
            max_attempts=max_attempts,
            on_progress=unseen,
        )
        found.run(todo, place_workers(nodes, 1))
    return found


@pytest.fixture(autouse=True)
def losses_per_place(monkeypatch: pytest.MonkeyPatch) -> int:
    """Lower the number of losses at which a place is given up: each loss takes a second."""
    monkeypatch.setattr("cluster.jobs.run.LOSSES_PER_PLACE", 3)
    return 3


def test_shards_that_kill_workers_cost_the_others_nothing(
    ray_address: str, tmp_path: Path, losses_per_place: int
) -> None:
    """Shards that kill workers are given up after the allowed attempts; all others are done."""
    names = [f"{POISON}-{number}" for number in range(2)]
    done = run(ray_address, tasks(tmp_path, *names, "good-0", "good-1"), tmp_path, max_attempts=2)
    assert losses_per_place < 2 * 2
    assert [outcome.name for outcome in done.outcomes] == ["good-0", "good-1"]
    assert [(shard.name, shard.attempts) for shard in done.failed] == [(name, 2) for name in names]


def test_a_place_that_loses_workers_over_every_shard_is_given_up(
    ray_address: str, tmp_path: Path, losses_per_place: int
) -> None:
    """A shard that was not tried says that no worker was left; a tried one says what happened."""
    names = [f"{POISON}-{number}" for number in range(losses_per_place + 1)]
    done = run(ray_address, tasks(tmp_path, *names), tmp_path, max_attempts=1)
    assert [shard.attempts for shard in done.failed] == [1] * losses_per_place + [0]
    assert "the worker died while it worked on this shard" in done.failed[0].error
    assert done.failed[-1].error == "no worker was left for it"


def test_a_folder_that_workers_cannot_write_costs_no_work(ray_address: str, tmp_path: Path) -> None:
    """A folder that only the driver's machine has is noticed before any shard is read."""
    with pytest.raises(
        ConfigError, match=r"--out .*missing: the worker on .* cannot write there .*all nodes share"
    ):
        run(ray_address, tasks(tmp_path / "missing", "good"), tmp_path / "missing", max_attempts=1)
    require_writable(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
