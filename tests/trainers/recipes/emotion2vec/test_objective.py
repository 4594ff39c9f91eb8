"""Targets, losses and the guard against a collapse, against numbers computed by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as distributed

from shards.config import ConfigError
from trainers.recipes.emotion2vec.config import Emotion2vecConfig
from trainers.recipes.emotion2vec.objective import (
    CollapseGuard,
    averaged_over_layers,
    spread,
    squared_error,
)


def test_squared_differences_are_summed_and_not_averaged() -> None:
    """(1 + 4 + 4 + 0) / sqrt(4) is 4.5."""
    found = squared_error(
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.0, 0.0, 1.0, 4.0]])
    )
    assert found.tolist() == [4.5]


def test_each_layer_is_normalized_over_time_before_the_mean() -> None:
    """The mean of normalized layers is that of numpy; without a norm it is the plain mean."""
    layers = [torch.randn(2, 7, 3) * size + size for size in (1, 10)]
    normalized = [
        (layer.numpy() - layer.numpy().mean(axis=1, keepdims=True))
        / np.sqrt(layer.numpy().var(axis=1, keepdims=True) + 1e-5)
        for layer in layers
    ]
    np.testing.assert_allclose(
        averaged_over_layers(layers, "instance_norm"), np.mean(normalized, axis=0), atol=1e-5
    )
    torch.testing.assert_close(averaged_over_layers(layers, "none"), (layers[0] + layers[1]) / 2)


def test_a_spread_is_a_mean_of_deviations() -> None:
    """The deviations of the two columns are 1 and 3; one row has none."""
    assert float(spread(torch.tensor([[0.0, 1.0], [2.0, 7.0]]))) == pytest.approx(2.0, abs=1e-5)
    assert float(spread(torch.tensor([[5.0, 1.0]]))) == pytest.approx(1e-3)


def test_a_collapse_is_said_once_the_run_has_begun() -> None:
    """Frames of two batches count together; up to `guard_after` updates, anything goes."""
    config = Emotion2vecConfig(guard_after=10, min_target_spread=0.1)
    guard = CollapseGuard(config)
    flat, wide = torch.full((4, 3), 0.5), torch.full((4, 3), 0.9)

    guard.see(flat, None)
    guard.check(10)
    # Each batch is flat, and both together are not.
    guard.see(flat, None)
    guard.see(wide, None)
    guard.check(11)

    guard.see(flat, wide)
    with pytest.raises(
        ConfigError, match=r"collapse at step 12: targets spread 0\.0010 .* expected at least 0\.1"
    ):
        guard.check(12)

    guard.see(torch.randn(50, 3), wide)
    with pytest.raises(ConfigError, match=r"predictions spread 0\.0010"):
        guard.check(13)


def see_flat_frames(rank: int, folder: Path) -> None:
    """On either of two ranks, see frames that are all alike; write down what the check says."""
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    guard = CollapseGuard(Emotion2vecConfig(guard_after=0))

    # Alike on each rank and not between the two: the first step must pass on both.
    guard.see(torch.full((4, 3), float(rank)), None)
    guard.check(1)
    guard.see(torch.full((4 + rank, 3), 0.5), None)
    try:
        guard.check(2)
    except ConfigError as error:
        (folder / f"rank-{rank}").write_text(str(error))
    distributed.barrier()
    distributed.destroy_process_group()


def test_a_collapse_is_everybodys(tmp_path: Path) -> None:
    """Two ranks count their frames together, and both end with the same message."""
    torch.multiprocessing.spawn(see_flat_frames, args=(tmp_path,), nprocs=2)
    first, second = ((tmp_path / f"rank-{rank}").read_text() for rank in range(2))
    assert first == second
    assert first.startswith("collapse at step 2: targets spread 0.0010")
