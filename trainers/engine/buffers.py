"""What a model keeps besides parameters, in a file of a checkpoint: running statistics, a
codebook's restarts.

DeepSpeed saves buffers too, but its universal checkpoints, by which another number of workers
resumes, hold parameters only: resumed from one, the buffers would be a new model's, without a word.
"""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

BUFFERS_NAME = "buffers.safetensors"


def save_buffers(model: nn.Module, checkpoint: Path) -> None:
    """Write what a model keeps besides parameters: running statistics, a codebook's restarts. Alike
    on every rank.
    """
    save_file(
        {name: buffer.contiguous() for name, buffer in _buffers(model).items()},
        checkpoint / BUFFERS_NAME,
    )


def load_buffers(model: nn.Module, checkpoint: Path) -> None:
    """Put back what `save_buffers` has written."""
    saved = load_file(checkpoint / BUFFERS_NAME)
    for name, buffer in _buffers(model).items():
        buffer.copy_(saved[name])


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Those that are saved with a model."""
    kept = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}
