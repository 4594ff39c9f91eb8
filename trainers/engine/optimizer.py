"""The optimizer: torch's AdamW. Parameters without weight decay are in a group of their own."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trainers.settings.engine import EngineConfig
from trainers.task import TrainingModel


def make_optimizer(model: TrainingModel, config: EngineConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that are trained.

    Raises ValueError when the model names a parameter in `spared_parameters` that it does not have.
    """
    return torch.optim.AdamW(
        list(_groups(model)),
        lr=config.learning_rate,
        betas=(config.betas[0], config.betas[1]),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


def _groups(model: TrainingModel) -> Iterator[dict[str, Any]]:
    spared = set(model.spared_parameters())
    named = dict(model.named_parameters())
    if unknown := sorted(spared - named.keys()):
        raise ValueError(
            f"{type(model).__name__}: spares {', '.join(unknown)}, which are no parameters of it; "
            "expected names as `named_parameters` gives them"
        )

    decayed = [
        parameter
        for name, parameter in named.items()
        if name not in spared and parameter.requires_grad
    ]
    yield {"params": decayed}

    kept: list[nn.Parameter] = [
        named[name] for name in named if name in spared and named[name].requires_grad
    ]
    # DeepSpeed refuses a group without parameters.
    if kept:
        yield {"params": kept, "weight_decay": 0.0}
