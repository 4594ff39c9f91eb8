"""The optimizer computes what AdamW's equations say, and what a model spares does not decay."""

import pytest
import torch
from torch import Tensor, nn

from shards.loading.loader import Batch
from trainers.engine.optimizer import make_optimizer
from trainers.settings.engine import EngineConfig
from trainers.task import TrainingModel


class TwoParameters(TrainingModel):
    """A model of two trained parameters that spares the named ones from weight decay."""

    def __init__(self, *spared: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self._spared = spared

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def scores(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def spared_parameters(self) -> tuple[str, ...]:
        return self._spared


def after_steps(model: TwoParameters, config: EngineConfig) -> tuple[Tensor, Tensor]:
    """Return both parameters after three steps of gradients that differ from step to step."""
    optimizer = make_optimizer(model, config)
    for step in (1.0, 2.0, 4.0):
        model.weight.grad, model.bias.grad = torch.full((3,), step), torch.full((3,), -step)
        optimizer.step()
    return model.weight.detach(), model.bias.detach()


def expected(sign: float, config: EngineConfig, weight_decay: float) -> Tensor:
    """Compute the same steps of one parameter from AdamW's equations.

    The equations are those of Loshchilov and Hutter 2019.
    """
    value, mean, square = 1.0, 0.0, 0.0
    first, second = config.betas

    for number, step in enumerate((1.0, 2.0, 4.0), start=1):
        value -= config.learning_rate * weight_decay * value
        mean = first * mean + (1 - first) * sign * step
        square = second * square + (1 - second) * step**2
        root = (square / (1 - second**number)) ** 0.5
        value -= config.learning_rate * mean / (1 - first**number) / (root + config.epsilon)
    return torch.full((3,), value)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.95, 0.9)])
@pytest.mark.parametrize("spared", [(), ("bias",)])
def test_what_is_spared_does_not_decay(betas: tuple[float, float], spared: tuple[str, ...]) -> None:
    """Weight decay, betas and epsilon come from the options, and spared parameters do not decay."""
    config = EngineConfig(learning_rate=0.1, weight_decay=0.5, betas=betas, epsilon=0.3)
    weight, bias = after_steps(TwoParameters(*spared), config)
    torch.testing.assert_close(weight, expected(1.0, config, 0.5))
    torch.testing.assert_close(bias, expected(-1.0, config, 0.0 if spared else 0.5))


def test_only_what_is_trained_is_optimized() -> None:
    """A frozen parameter takes no memory of the optimizer, whether it is spared or not."""
    for model in (TwoParameters(), TwoParameters("frozen")):
        groups = make_optimizer(model, EngineConfig()).param_groups
        assert [len(group["params"]) for group in groups] == [2]


def test_a_parameter_that_is_not_there_cannot_be_spared() -> None:
    """A mistyped name is refused, because it would spare nothing and nobody would notice."""
    with pytest.raises(
        ValueError, match="TwoParameters: spares biases, which are no parameters of it"
    ):
        make_optimizer(TwoParameters("biases"), EngineConfig())
