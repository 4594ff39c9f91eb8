"""Loads encoders from checkpoints: a folder or a hub name, with all weights or not at all."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from shards.config import ConfigError
from shards.loading.inputs import Modality
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.registry import register_models
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.models.encoders.speech.waveform import normalizes
from trainers.models.encoders.statistics import StatisticsEncoder, StatisticsEncoderConfig

log = logging.getLogger(__name__)


def load_encoder(
    folder_or_name: str,
    revision: str | None = None,
    *,
    options: tuple[str, str] = ("encoder.checkpoint", "encoder.revision"),
) -> LayerwiseEncoder:
    """Load a pretrained encoder: a local folder, or a hub name with a pinned revision.

    Weights must be safetensors. Raises ConfigError for what cannot be loaded and for a checkpoint
    that lacks weights or has more of the encoder than its configuration says: transformers would
    only print a note, and make them up or drop them. Errors name the encoder and its revision by
    `options`.
    """
    option, revision_option = options
    if not Path(folder_or_name).is_dir() and not revision:
        raise ConfigError(
            f"{option} {folder_or_name}: no such folder; for a hub model give "
            f"{revision_option} too, a full commit"
        )

    _require_safetensors(folder_or_name, option)
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
        remedy = ""
        if not Path(folder_or_name).is_dir() and "safetensors" in str(error):
            remedy = (
                f"; if its weights are pickled, `hf download {folder_or_name} --revision "
                f"{revision} --local-dir FOLDER` and then `emostream convert FOLDER --out NEW` "
                "make a folder to give"
            )
        raise ConfigError(f"{option} {folder_or_name}: {error}{remedy}") from error

    # Masked prediction learns its mask embedding anew, and a decoder is left out.
    missing = sorted(
        name
        for name in set(found["missing_keys"]) - {"masked_spec_embed", "body.mask_embedding"}
        if not name.startswith("decoder.")
    )
    if missing:
        raise ConfigError(
            f"{option} {folder_or_name}: got a checkpoint without {', '.join(missing)}, "
            f"expected all weights of a {model.config.model_type} model; give a whole one"
        )

    _require_no_leftovers(model, found["unexpected_keys"], f"{option} {folder_or_name}")
    return LayerwiseEncoder(encoder_of(model), normalize=normalizes(model.config))


def build_encoder(values: dict[str, Any]) -> Any:
    """Build an encoder with fresh weights from its configuration."""
    if values["model_type"] == SequenceEncoderConfig.model_type:
        return SequenceEncoder(SequenceEncoderConfig.from_dict(values))
    if values["model_type"] == StatisticsEncoderConfig.model_type:
        return StatisticsEncoder(StatisticsEncoderConfig.from_dict(values))
    register_models()
    rest = {name: value for name, value in values.items() if name != "model_type"}
    return encoder_of(AutoModel.from_config(AutoConfig.for_model(values["model_type"], **rest)))


def _require_safetensors(folder_or_name: str, option: str) -> None:
    """Raise ConfigError for a folder whose weights are only pickled."""
    folder = Path(folder_or_name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return

    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled:
        raise ConfigError(
            f"{option} {folder}: got only pickled weights ({', '.join(pickled)}), which "
            "are not opened, as that could execute anything; make safetensors of them with "
            f"`emostream convert {folder} --out {folder}-safetensors`, and give that folder"
        )


def encoder_of(model: Any) -> Any:
    """The encoder within what transformers loads or builds: Whisper's has a decoder beside it."""
    return model.encoder if model.config.model_type == "whisper" else model


def _require_no_leftovers(model: Any, unexpected: Iterable[str], where: str) -> None:
    """Raise ConfigError when weights of the encoder itself found no place: a thirteenth layer, say.

    A head behind the encoder (of speech recognition, of another pre-training) is named and left.
    """
    prefix = f"{model.base_model_prefix}."
    parts = {name for name, _ in model.named_children()}
    names = sorted(unexpected)
    leftovers = [name for name in names if name.removeprefix(prefix).split(".")[0] in parts]

    if leftovers:
        raise ConfigError(
            f"{where}: its configuration has no place for {len(leftovers)} of its weights, such as "
            f"{leftovers[0]}; expected the config.json that the weights were saved with"
        )
    if names:
        log.warning("%s: not part of the encoder: %s", where, ", ".join(names))


def require_modality(
    encoder: LayerwiseEncoder, modality: Modality, *, option: str = "encoder.checkpoint"
) -> None:
    """Raise ConfigError unless the encoder, which `option` names, takes `modality`."""
    if encoder.modality != modality:
        raise ConfigError(
            f"{option}: got an encoder of {encoder.modality}, expected one of "
            f"{modality}, as data.modality says; change one of the two"
        )
