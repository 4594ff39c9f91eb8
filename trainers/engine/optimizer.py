"""The optimizer: torch's AdamW. Parameters without weight decay are in a group of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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


@contextmanager
def own_options(optimizer: torch.optim.Optimizer, learning_rate: float) -> Iterator[None]:
    """Let a checkpoint be loaded into `optimizer`, and give each group what is its own again.

    From a universal checkpoint of ZeRO 3, DeepSpeed sets every group to the options of the first
    one, so what is spared from weight decay would decay. It also gives all groups one tensor that
    counts their steps, and each group would count up all the others too. The rate becomes
    `learning_rate`, because a checkpoint brings that of its own course.
    """
    made_with = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    yield

    for group, options in zip(optimizer.param_groups, made_with, strict=True):
        group.update(options, lr=learning_rate)
    for state in optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()


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
