"""How labelers are placed on nodes."""

import pytest

from cluster.nodes.placement import place_workers
from cluster.nodes.session import NodeResources
from shards.config import ConfigError


def test_a_gpu_gets_one_labeler_and_its_share_of_the_cpus() -> None:
    """Two nodes of 16 cores with 2 GPUs each: four labelers of 8 CPUs, readers included."""
    placements = place_workers([NodeResources(16, 2), NodeResources(16, 2)], None)
    assert len(placements) == 4
    for placement in placements:
        labeler, readers = placement.bundles
        assert labeler["GPU"] == 1
        assert labeler["CPU"] + readers["CPU"] == pytest.approx(8)


def test_without_gpus_labelers_share_the_cores() -> None:
    """One labeler a core is the default; fewer labelers get more threads each.

    No node ever gives more CPUs than it has.
    """
    assert [placement.num_threads for placement in place_workers([NodeResources(2, 0)], None)] == [
        1,
        1,
    ]

    (one,) = place_workers([NodeResources(2, 0)], 1)
    assert one.num_threads == 2

    uneven = place_workers([NodeResources(6, 0), NodeResources(2, 0)], 4)
    assert [placement.num_threads for placement in uneven] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("nodes", "wanted"), [([NodeResources(2, 0)], 3), ([NodeResources(8, 1)], 2)]
)
def test_more_labelers_than_fit_are_refused(nodes: list[NodeResources], wanted: int) -> None:
    """A request the cluster can never meet is an error at once, not a wait for ever."""
    with pytest.raises(ConfigError, match="workers, "):
        place_workers(nodes, wanted)
