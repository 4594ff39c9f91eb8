"""Keeps the buffers of a model in a file of a checkpoint.

Buffers are what a model keeps besides its parameters: running statistics, or the restarts of a
codebook. DeepSpeed saves buffers too, but a universal checkpoint, from which another number of
workers resumes, holds parameters only. A model that resumed from one would silently have the
buffers of a new model.
"""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

BUFFERS_NAME = "buffers.safetensors"


def save_buffers(model: nn.Module, checkpoint: Path) -> None:
    """Write the buffers of `model` into `checkpoint`.

    Buffers are equal on every rank, so one rank writes them for all.
    """
    save_file(
        {name: buffer.contiguous() for name, buffer in _buffers(model).items()},
        checkpoint / BUFFERS_NAME,
    )


def load_buffers(model: nn.Module, checkpoint: Path) -> None:
    """Set the buffers of `model` to those that `save_buffers` has written into `checkpoint`."""
    saved = load_file(checkpoint / BUFFERS_NAME)
    for name, buffer in _buffers(model).items():
        buffer.copy_(saved[name])


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers by name, without those that the model can compute again."""
    # `state_dict` leaves out buffers that were registered as not persistent.
    kept = model.state_dict().keys()

    return {name: buffer for name, buffer in model.named_buffers() if name in kept}
