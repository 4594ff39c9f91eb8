"""A job on nodes that are killed, added, or cannot read: the others finish, and no shard pays."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.work.task import ShardOutcome, ShardTask, WorkerHome, require_writable
from cluster.jobs.run import ShardRun
from cluster.nodes.session import ray_session

NUM_SHARDS = 12
SLOW_SECONDS = 1.0  # of work on a shard


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that does no work; a dead node is noticed after two seconds."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr("cluster.jobs.run.NODES_INTERVAL_SECONDS", 1.0)
    # For longer than the job: what has rested is not tried again.
    monkeypatch.setattr("cluster.jobs.places.FIRST_REST_SECONDS", 120.0)
    health = {f"health_check_{name}": 1000 for name in ("initial_delay_ms", "period_ms")}
    head = {
        "num_cpus": 0,
        "object_store_memory": 128 * 2**20,
        "_system_config": {**health, "health_check_failure_threshold": 2},
    }

    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def add(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=128 * 2**20)


def actor_of(cannot_read: str, folder: Path) -> Any:
    """A worker that works for a second, and on the node `cannot_read` fails at once.

    It notes in `folder` which node did a shard.
    """

    class Worker:
        def __init__(self, num_threads: int, num_readers: int) -> None:
            self.node_id = ray.get_runtime_context().get_node_id()

        def setup(self, out: str, witness: str) -> WorkerHome:
            require_writable(out, witness)
            return WorkerHome(pid=os.getpid(), host=self.node_id[:6], node_id=self.node_id)

        def prepare(self, task: ShardTask) -> None:
            pass

        def progress(self) -> int:
            return 0

        def work(self, task: ShardTask) -> ShardOutcome:
            if self.node_id == cannot_read:
                raise FileNotFoundError(task.url)
            time.sleep(SLOW_SECONDS)
            (folder / task.name).write_text(self.node_id)
            return ShardOutcome(
                name=task.name,
                num_utterances=1,
                seconds_of_audio=1.0,
                rejected={},
                shard_error=None,
            )

    remote: Callable[[type], Any] = ray.remote(max_restarts=0, max_task_retries=0)
    return remote(Worker)


def run_on(
    cluster: Cluster,
    folder: Path,
    cannot_read: str = "",
    when: Callable[[], bool] = lambda: False,
    act: Callable[[], object] = lambda: None,
) -> None:
    """Run all shards, and once, when it is time, do something to the cluster."""
    acts = [act]

    def watch(done: int, total: int, note: str = "") -> None:
        if acts and when():
            acts.pop()()

    names = [f"{number:02d}" for number in range(NUM_SHARDS)]
    todo = [
        ShardTask(url=f"/{name}", name=name, size=1, version="1", table_url=name, maker="m")
        for name in names
    ]
    with ray_session(cluster.address):
        run = ShardRun(
            actor=actor_of(cannot_read, folder),
            arguments=(),
            what="nothing",
            out=str(folder),
            wanted=None,
            num_readers=1,
            max_attempts=1,
            on_progress=watch,
        )
        run.run(todo)

    assert run.failed == []
    assert sorted(outcome.name for outcome in run.outcomes) == names


def workers(folder: Path) -> dict[str, int]:
    """The number of shards by node."""
    done = [path.read_text() for path in folder.iterdir()]
    return {node: done.count(node) for node in set(done)}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_that_cannot_read_eats_no_shard(nodes: Cluster, tmp_path: Path) -> None:
    """It fails fastest and would take every shard; it is sent to rest, and none is charged.

    Each shard has a single attempt.
    """
    good, bad = add(nodes), add(nodes)
    run_on(nodes, tmp_path, cannot_read=bad.node_id)
    assert workers(tmp_path) == {good.node_id: NUM_SHARDS}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_killed_for_good_costs_its_place_only(nodes: Cluster, tmp_path: Path) -> None:
    """The others finish, also the shard that it had in hand, which is not charged for it."""
    good, lost = add(nodes), add(nodes)
    run_on(
        nodes,
        tmp_path,
        when=lambda: lost.node_id in workers(tmp_path),
        act=lambda: nodes.remove_node(lost, allow_graceful=False),
    )

    done = workers(tmp_path)
    assert 1 <= done[lost.node_id] < NUM_SHARDS / 2
    assert done[good.node_id] == NUM_SHARDS - done[lost.node_id]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_added_in_mid_run_works_too(nodes: Cluster, tmp_path: Path) -> None:
    """A job that began on one node goes on on two."""
    first = add(nodes)
    run_on(nodes, tmp_path, when=lambda: any(tmp_path.glob("0*")), act=lambda: add(nodes))

    done = workers(tmp_path)
    assert len(done) == 2
    assert done[first.node_id] < NUM_SHARDS
