"""Batch norm's running statistics are those of a step, whichever worker computed which batch."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from trainers.engine.batch_statistics import BatchStatistics
from trainers.engine.process_group import join_group


def statistics_after(batches: Sequence[Tensor]) -> list[Tensor]:
    """The running mean and variance after one step over `batches`."""
    join_group()

    norm = nn.BatchNorm1d(3, momentum=0.25)
    statistics = BatchStatistics(norm)
    statistics.begin_step()

    for batch in batches:
        norm(batch)
        statistics.end_batch()
    statistics.end_step(len(batches))

    assert norm.running_mean is not None
    assert norm.running_var is not None
    return [norm.running_mean, norm.running_var]


def test_a_step_moves_them_once_by_the_mean_of_its_batches() -> None:
    """They become three quarters of the old value and a quarter of the batches' mean, by hand."""
    batches = [torch.randn(5, 3), torch.randn(7, 3) + 2, torch.randn(4, 3)]
    mean, variance = statistics_after(batches)

    assert torch.allclose(
        mean, 0.25 * torch.stack([batch.mean(0) for batch in batches]).mean(0), atol=1e-6
    )

    expected = 0.75 + 0.25 * torch.stack([batch.var(0) for batch in batches]).mean(0)
    assert torch.allclose(variance, expected, atol=1e-6)


def test_the_order_of_batches_does_not_matter() -> None:
    """The order of batches, which depends on the workers, does not change the statistics."""
    batches = [torch.randn(5, 3) * scale for scale in (1, 3)]
    for there, back in zip(statistics_after(batches), statistics_after(batches[::-1]), strict=True):
        assert torch.equal(there, back)


def test_one_batch_does_what_batch_norm_does() -> None:
    """A step of a single batch does exactly what batch norm does."""
    batch, norm = torch.randn(6, 3), nn.BatchNorm1d(3, momentum=0.25)
    norm(batch)
    mean, variance = statistics_after([batch])
    assert torch.equal(mean, norm.running_mean if norm.running_mean is not None else torch.empty(0))
    assert torch.equal(
        variance, norm.running_var if norm.running_var is not None else torch.empty(0)
    )


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.BatchNorm1d(3, track_running_stats=False)])
def test_models_without_statistics_are_left_alone(model: nn.Module) -> None:
    """A model without running statistics has nothing to share and sends nothing."""
    statistics = BatchStatistics(model)
    statistics.begin_step()
    statistics.end_batch()
    statistics.end_step(1)
