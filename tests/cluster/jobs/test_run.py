"""The driver of a job over shards: whom it charges when workers die, and what it checks first."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.work.errors import UnwritableFolderError
from actors.work.task import ShardOutcome, ShardTask, WorkerHome, require_writable
from cluster.jobs.run import ShardRun
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

        def setup(self, folder: str, witness: str) -> WorkerHome:
            require_writable(folder, witness)
            return WorkerHome(pid=os.getpid(), host="here", node_id="here")

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
    with ray_session(address):
        found = ShardRun(
            actor=actor(Worker),
            arguments=(),
            what="nothing",
            out=str(out),
            wanted=1,
            num_readers=1,
            max_attempts=max_attempts,
            on_progress=unseen,
        )
        found.run(todo)
    return found


@pytest.fixture(autouse=True)
def failures_before_rest(monkeypatch: pytest.MonkeyPatch) -> int:
    """Lower the number of losses after which a place rests, and its rests."""
    monkeypatch.setattr("cluster.jobs.places.FAILURES_BEFORE_REST", 3)
    monkeypatch.setattr("cluster.jobs.places.FIRST_REST_SECONDS", 0.5)
    monkeypatch.setattr("cluster.jobs.places.MAX_RESTS", 1)
    return 3


def test_shards_that_kill_workers_cost_the_others_nothing(
    ray_address: str, tmp_path: Path, failures_before_rest: int
) -> None:
    """Shards that kill workers are given up after the allowed attempts; all others are done."""
    names = [f"{POISON}-{number}" for number in range(2)]
    done = run(ray_address, tasks(tmp_path, *names, "good-0", "good-1"), tmp_path, max_attempts=2)
    assert failures_before_rest < 2 * 2
    assert [outcome.name for outcome in done.outcomes] == ["good-0", "good-1"]
    assert [(shard.name, shard.attempts) for shard in done.failed] == [(name, 2) for name in names]
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_loses_workers_over_every_shard_is_given_up(
    ray_address: str, tmp_path: Path, failures_before_rest: int
) -> None:
    """It rests, tries one shard more, and is given up; what it failed on is charged to none.

    A shard that was not tried says that no worker was left; a tried one says what happened.
    """
    names = [f"{POISON}-{number}" for number in range(failures_before_rest + 2)]
    done = run(ray_address, tasks(tmp_path, *names), tmp_path, max_attempts=1)
    attempts = {shard.name: shard.attempts for shard in done.failed}
    assert sum(attempts.values()) == failures_before_rest + 1
    assert attempts[names[-1]] == 0

    errors = {shard.name: shard.error for shard in done.failed}
    assert "the worker died while it worked on this shard" in errors[names[0]]
    assert errors[names[-1]].startswith("no worker was left for it")


def test_a_folder_that_workers_cannot_write_costs_no_work(ray_address: str, tmp_path: Path) -> None:
    """A folder that cannot be written is noticed before any shard is read."""
    with pytest.raises(ConfigError, match=r"--out .*missing: cannot write there .*nodes share"):
        run(ray_address, tasks(tmp_path / "missing", "good"), tmp_path / "missing", max_attempts=1)
    with pytest.raises(ConfigError, match=r"the worker on .* cannot write there .*all nodes share"):
        require_writable(str(tmp_path / "missing"))
    require_writable(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_same_name_on_another_disk_is_refused(tmp_path: Path) -> None:
    """A worker that can write, but does not see what the driver has written, says so."""
    (tmp_path / "witness").touch()
    require_writable(str(tmp_path), "witness")
    with pytest.raises(UnwritableFolderError, match="its folder is another one"):
        require_writable(str(tmp_path), "another")
