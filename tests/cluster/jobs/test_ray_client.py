"""Labeling from outside the cluster, through Ray Client, which sends packages along."""

import os
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


def test_a_ray_client_labels_everything(
    small_world: SmallWorld, client_address: str, tmp_path: Path
) -> None:
    """Ray Client hands out equal references, not the same; a job labels everything even so."""
    out = tmp_path / "out"
    config = LabelConfig(
        shards=small_world.glob,
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
