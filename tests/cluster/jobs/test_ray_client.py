"""Labeling from outside the cluster, through Ray Client, which sends packages along."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.jobs.label import LabelConfig, label
from tests.ports import free_port
from tests.worlds.small import SmallWorld


@pytest.fixture
def client_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A one-node cluster that is reached by `ray://` only."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "disabled"))
    port = free_port()
    head = {"num_cpus": 2, "object_store_memory": 256 * 2**20, "ray_client_server_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield f"ray://127.0.0.1:{port}"
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_ray_client_labels_everything(
    small_world: SmallWorld, client_address: str, tmp_path: Path
) -> None:
    """Ray Client hands out equal references, not the same; a job labels everything even so.

    A touched shard takes its results over.
    """
    out = tmp_path / "out"
    shutil.copytree(small_world.shards, tmp_path / "shards")
    config = LabelConfig(
        shards=f"{tmp_path}/shards/*.tar",
        out=str(out),
        panel=str(small_world.panel),
        address=client_address,
        num_labelers=1,
    )

    summary = label(config)
    assert (summary.job.exit_status, summary.num_labeled, summary.job.num_utterances) == (
        0,
        8,
        small_world.num_utterances,
    )
    os.utime(tmp_path / "shards" / "small-000.tar")
    assert label(config).job.num_carried_over == 6
