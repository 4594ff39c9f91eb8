"""Targets and losses (Eq. 3 and 5 to 9), and what is measured to notice a collapse.

Squared differences are summed over the D channels and multiplied by 1 / sqrt(D), as data2vec's
published loss is: 27.7 times the mean over channels for D = 768.

Shapes: N utterances, T frames, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor

from shards.config import ConfigError
from trainers.recipes.emotion2vec.config import Emotion2vecConfig

VARIANCE_FLOOR = 1e-6

Norm = Literal["instance_norm", "none"]


def averaged_over_layers(outputs: Sequence[Tensor], norm: Norm) -> Tensor:
    """The mean [N, T, D] of layers' outputs [N, T, D], each normalized over time or not (Eq. 3)."""
    layers = [output.float() for output in outputs]
    if norm == "instance_norm":
        layers = [F.instance_norm(output.transpose(1, 2)).transpose(1, 2) for output in layers]
    return torch.stack(layers).mean(dim=0)


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """The squared difference, summed over the last axis and divided by the root of its size."""
    difference = predicted.float() - target
    return difference.square().sum(dim=-1) / math.sqrt(target.shape[-1])


def spread(values: Tensor) -> Tensor:
    """The mean over channels of the standard deviation over rows, of `values` [rows, D].

    One row spreads over nothing: its deviation is that of the floor, .001.
    """
    return (values.float().var(dim=0, correction=0) + VARIANCE_FLOOR).sqrt().mean()


@dataclass(slots=True)
class _Moments:
    """Count, sums and sums of squares of rows, added up over the batches of a step."""

    sums: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Add rows [rows, D]."""
        rows = rows.detach().double()
        count = rows.new_full((1,), len(rows))
        found = torch.cat([count, rows.sum(dim=0), rows.square().sum(dim=0)])
        self.sums = found if self.sums is None else self.sums + found

    def spread_over_ranks(self) -> float:
        """The spread over the rows of all ranks; every rank calls this. Forgets the rows."""
        if self.sums is None:
            return math.nan

        joined, self.sums = self.sums, None
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            # Why a copy: the sums of this rank must not be those of all.
            joined = joined.clone()
            distributed.all_reduce(joined)

        count, (total, squares) = joined[0], joined[1:].chunk(2)
        variance = (squares - total.square() / count) / (count - 1).clamp_min(1)
        return float((variance.clamp_min(0) + VARIANCE_FLOOR).sqrt().mean())


class CollapseGuard:
    """Ends a run on every rank when targets or predictions hardly differ between frames.

    The spread is a mean over channels of sqrt(variance over frames of all ranks + 1e-6).
    """

    def __init__(self, config: Emotion2vecConfig) -> None:
        self._config = config
        self._targets, self._predictions = _Moments(), _Moments()

    def see(self, targets: Tensor, predictions: Tensor | None) -> None:
        """Take in the hidden frames [frames, D] of a batch."""
        self._targets.add(targets)
        if predictions is not None:
            self._predictions.add(predictions)

    def check(self, step: int) -> None:
        """Look at all batches of `step`; every rank calls this.

        Raises ConfigError, on every rank, after `guard_after` updates.
        """
        config = self._config
        limits = {
            "targets": (self._targets.spread_over_ranks(), config.min_target_spread),
            "predictions": (self._predictions.spread_over_ranks(), config.min_prediction_spread),
        }
        if step <= config.guard_after:
            return

        for what, (found, least) in limits.items():
            if found < least:
                raise ConfigError(
                    f"collapse at step {step}: {what} spread {found:.4f} over hidden frames, "
                    f"expected at least {least}; the student no longer tells frames apart. Start "
                    "again in another --out with a lower engine.learning_rate or a higher "
                    "model.ema_start, or from an encoder.checkpoint"
                )
