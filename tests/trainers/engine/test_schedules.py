"""Learning rates equal values by hand and torch's own cosine; each batch has a seed of its own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.engine.schedules import batch_seed, rate_at
from trainers.settings.engine import EngineConfig


def test_rates_rise_and_fall() -> None:
    """The rates of ten steps, two of them warm-up, are those computed by hand."""
    linear = EngineConfig(warmup_share=0.2, schedule="linear")
    assert [rate_at(step, 10, linear) for step in (0, 1, 2, 6, 10)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.5, 0.0]
    )

    cosine = EngineConfig(warmup_share=0.2, schedule="cosine")
    assert rate_at(6, 10, cosine) == pytest.approx(0.5)
    assert rate_at(4, 10, cosine) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert rate_at(9, 10, EngineConfig(schedule="constant")) == 1.0


def test_the_cosine_is_that_of_torch() -> None:
    """Without warm-up, every step's rate equals CosineAnnealingLR's."""
    config = EngineConfig(warmup_share=0.0, schedule="cosine")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert rate_at(step, 20, config) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@given(
    num_steps=st.integers(1, 500),
    warmup_share=st.floats(0, 0.99),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_every_rate_is_a_share_of_the_peak(
    num_steps: int, warmup_share: float, schedule: str
) -> None:
    """Each rate is above zero, not above the peak, and never rises after the warm-up."""
    config = EngineConfig(warmup_share=warmup_share, schedule=schedule)  # type: ignore[arg-type]
    rates = [rate_at(step, num_steps, config) for step in range(num_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    after = rates[round(warmup_share * num_steps) :]
    assert after == sorted(after, reverse=True)


def test_batches_have_random_numbers_of_their_own() -> None:
    """Seeds differ by batch and by run, and torch accepts them."""
    seeds = {batch_seed(seed, number) for seed in range(20) for number in range(50)}
    assert len(seeds) == 1000
    for seed in seeds:
        torch.Generator().manual_seed(seed)
