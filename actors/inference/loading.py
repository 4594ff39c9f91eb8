"""Loads a checkpoint's model: safetensors only, no remote code, every weight present.

Where a checkpoint lacks weights, transformers fills in random numbers and warns. For a labeler that
is a disaster nobody sees (the backbone of a classifier loads, and labels noise), so here it is an
error.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.nn.utils import parametrize

from actors.inference.channels_last import avoid_layout_copies
from shards.config import ConfigError

# Only training uses these (masked frames of wav2vec 2.0 and similar models); several published
# checkpoints lack them.
UNUSED_WEIGHTS = ("masked_spec_embed",)


def load_model(model_class: Any, folder: Path, *, dtype: torch.dtype, device: torch.device) -> Any:
    """Load `model_class` from `folder`, ready for inference.

    Raises ConfigError when weights are missing or cannot be read.
    """
    try:
        model, report = model_class.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"checkpoint {folder}: cannot be loaded as {model_class.__name__}: {error}"
        ) from error

    missing = sorted(name for name in report["missing_keys"] if not name.endswith(UNUSED_WEIGHTS))
    if missing:
        raise ConfigError(
            f"checkpoint {folder}: lacks {len(missing)} weights of {type(model).__name__} "
            f"({', '.join(missing[:3])}, ...), which would be random; expected a checkpoint "
            "fine-tuned for this task"
        )

    return ready_for_inference(model, device)


def ready_for_inference(model: Any, device: torch.device) -> Any:
    """Bring `model` to `device`, in the form that computes fastest and can no longer be trained."""
    model.eval().requires_grad_(False)
    _fold_parametrizations(model)
    if device.type == "cpu":
        avoid_layout_copies(model)
    return model.to(device)


def _fold_parametrizations(model: Any) -> None:
    """Compute weight-normalized weights once instead of in every forward pass."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
