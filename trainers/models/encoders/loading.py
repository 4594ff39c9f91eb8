"""Encoders out of checkpoints: a folder or a hub name, whole or not at all."""

from pathlib import Path

import torch
from transformers import AutoModel

from shards.config import ConfigError
from shards.loading.inputs import Modality
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.registry import register_models
from trainers.models.encoders.speech import normalizes


def load_encoder(folder_or_name: str, revision: str | None = None) -> LayerwiseEncoder:
    """A pretrained encoder: hub name with a pinned revision, or a local folder. Weights must be
    safetensors.

    Raises ConfigError for what cannot be loaded, and for a checkpoint that lacks weights:
    transformers would print a note and make them up.
    """
    if not Path(folder_or_name).is_dir() and not revision:
        raise ConfigError(
            f"encoder.checkpoint {folder_or_name}: no such folder; for a hub model give "
            "encoder.revision too, a full commit"
        )
    where = {"revision": revision} if revision else {}
    register_models()
    try:
        model, found = AutoModel.from_pretrained(
            folder_or_name,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **where,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"encoder.checkpoint {folder_or_name}: {error}") from error
    missing = sorted(
        set(found["missing_keys"]) - {"masked_spec_embed"}
    )  # which masked prediction learns anew
    if missing:
        raise ConfigError(
            f"encoder.checkpoint {folder_or_name}: got a checkpoint without {', '.join(missing)}, "
            f"expected all weights of a {model.config.model_type} model; give a whole one"
        )
    return LayerwiseEncoder(model, normalize=normalizes(model.config))


def require_modality(encoder: LayerwiseEncoder, modality: Modality) -> None:
    """Raise ConfigError for an encoder of something else."""
    if encoder.modality != modality:
        raise ConfigError(
            f"encoder.checkpoint: got an encoder of {encoder.modality}, expected one of "
            f"{modality}, as data.modality says; change one of the two"
        )
