"""How labelers are placed on nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.integers(1, 256), st.integers(1, 16))
def test_the_shares_of_a_node_fit_into_it(num_cpus: int, num_gpus: int) -> None:
    """Three GPUs share eight CPUs: rounded up, they would ask for 8.01 and never be placed.

    Ray counts in ten thousandths, and takes neither amounts of 0 nor empty bundles.
    """
    placements = place_workers([NodeResources(num_cpus, num_gpus)], None)
    bundles = [bundle for placement in placements for bundle in placement.bundles]
    asked = sum(round(10_000 * bundle.get("CPU", 0)) for bundle in bundles)

    assert len(placements) == num_gpus
    assert 10_000 * (num_cpus - 0.01 * num_gpus) - num_gpus <= asked <= 10_000 * num_cpus
    assert all(bundle and all(bundle.values()) for bundle in bundles)


def test_a_gpu_node_without_cpus_holds_workers() -> None:
    """Nodes of a GPU pool may be started with no CPUs, which Ray's bundles cannot name."""
    (placement,) = place_workers([NodeResources(0, 1)], None)
    worker, readers = placement.bundles
    assert worker == {"GPU": 1}
    assert readers == {"memory": 1}


def test_fewer_workers_will_do_while_a_job_runs() -> None:
    """Nodes that are lost make no error of a number that was right at the start."""
    assert len(place_workers([NodeResources(2, 0)], 3, or_fewer=True)) == 2
    assert place_workers([NodeResources(0, 0)], 3, or_fewer=True) == []
    assert place_workers([], None, or_fewer=True) == []
