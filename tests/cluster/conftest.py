"""What the tests here share: a small corpus and panel, a Ray cluster, and a headless browser."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster.pages.browser import Browser, running_browser
from tests.worlds.small import SmallWorld, make_small_world


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """Shards of tones with faces and words, and a panel of three small untrained labelers."""
    return make_small_world(tmp_path_factory.mktemp("small-world"))


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """The address of a one-node Ray cluster with two CPUs, stopped at the end."""
    import ray
    from ray.cluster_utils import Cluster

    # Why without a token: the cluster is thrown away, and listens on loopback only.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 256 * 2**20}
    )
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium."""
    with running_browser(tmp_path_factory.mktemp("profile")) as running:
        yield running
