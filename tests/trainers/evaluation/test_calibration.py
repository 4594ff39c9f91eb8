"""Temperature scaling finds a hidden temperature and lowers the cross-entropy.

The temperature becomes part of the weights.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainers.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_temperature,
    scale_logits,
)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_logits_overconfident_is_found(temperature: float) -> None:
    """Labels come from softmax(logits); the fit finds the factor by which the logits then grew."""
    generator = torch.Generator().manual_seed(0)
    honest = 1.5 * torch.randn(4000, 7, generator=generator)
    labels = torch.multinomial(honest.softmax(dim=-1), 1, generator=generator)[:, 0]
    assert fit_temperature(honest * temperature, labels) == pytest.approx(temperature, rel=0.06)


def test_calibration_never_raises_the_cross_entropy() -> None:
    """Even labels that have nothing to do with the logits do not raise the cross-entropy."""
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(200, 7, generator=generator)
    labels = torch.randint(7, (200,), generator=generator)

    temperature = fit_temperature(logits, labels)
    assert F.cross_entropy(logits / temperature, labels) < F.cross_entropy(logits, labels)
    assert temperature <= MAX_TEMPERATURE


def test_a_classifier_without_mistakes_is_not_scaled_to_certainty() -> None:
    """The temperature has a lower bound."""
    logits = torch.eye(7)
    assert fit_temperature(logits, torch.arange(7)) >= MIN_TEMPERATURE


def test_scaling_the_last_layer_divides_the_logits() -> None:
    """Weights and bias of the last layer are both divided."""
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 7))
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    before = model(inputs).detach()
    scale_logits(model, 7, 2.5)
    torch.testing.assert_close(model(inputs).detach(), before / 2.5)


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 3)), nn.Sequential(nn.ReLU())]
)
def test_a_model_whose_last_layer_is_no_classifier_is_refused(model: nn.Module) -> None:
    """A model without a last linear layer is refused, as another layer changes what it predicts."""
    with pytest.raises(ValueError, match="7 logits"):
        scale_logits(model, 7, 2.0)
