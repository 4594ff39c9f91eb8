"""The teacher: a slow copy of the student's body (Eq. 10), kept in float32 and never trained.

Its weights are buffers of one module, and a skeleton outside the module tree runs with them. So
DeepSpeed neither casts nor divides nor optimizes them, and checkpoints carry them. Frozen
parameters lost: ZeRO 3 drops an update of gathered ones, and bfloat16 rounds the change of a decay
of .99999 to nothing. The copy starts equal to the student.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trainers.models.parts.float32_buffers import Float32Buffers


class Teacher(Float32Buffers, nn.Module):
    """A moving average of a module's weights, which runs as the module does in evaluation."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        # In a tuple, where neither torch nor DeepSpeed looks for modules.
        self._skeleton = (copy.deepcopy(student).to("meta").eval(),)
        for name, weight in student.named_parameters():
            self.register_buffer(_buffer_name(name), weight.detach().float().clone())

    @torch.no_grad()
    def forward(self, frames: Tensor, *inputs: Any, **named: Any) -> Any:
        """Run the module with the teacher's weights, in the precision of `frames`."""
        weights = {
            name: getattr(self, _buffer_name(name)).to(frames.dtype)
            for name, _ in self._skeleton[0].named_parameters()
        }
        return functional_call(self._skeleton[0], weights, (frames, *inputs), named)

    @torch.no_grad()
    def follow(self, student: nn.Module, decay: float) -> None:
        """Keep `decay` of itself and take the rest from the student; every rank calls this."""
        with _gathered(student):
            for name, weight in student.named_parameters():
                own: Tensor = getattr(self, _buffer_name(name))
                own.lerp_(weight.float(), 1 - decay)


@contextmanager
def _gathered(module: nn.Module) -> Iterator[None]:
    """Make the whole weights readable, which ZeRO 3 divides among the ranks."""
    divided = [weight for weight in module.parameters() if hasattr(weight, "ds_id")]
    if not divided:
        yield
        return

    import deepspeed

    with deepspeed.zero.GatheredParameters(divided):
        yield


def _buffer_name(name: str) -> str:
    # The name of a buffer must not hold a dot.
    return name.replace(".", "/")
