"""Loads what the recipe `two-stage` has exported."""

from pathlib import Path

from shards.config import ConfigError
from shards.storage.documents import read_json
from trainers.models.two_stage.configuration import TwoStageConfig
from trainers.models.two_stage.recognizer import TwoStageRecognizer


def is_two_stage(folder: str) -> bool:
    """Whether `folder` holds an exported two-stage model."""
    path = Path(folder) / "config.json"
    return path.is_file() and read_json(path).get("model_type") == TwoStageConfig.model_type


def load_two_stage(folder: str, *, option: str = "--checkpoint") -> TwoStageRecognizer:
    """The model in `folder`, on the CPU. Raises ConfigError, which names `option`, for any other.

    transformers shows a progress bar for every file that it loads, unless it is told not to.
    """
    if not is_two_stage(folder):
        raise ConfigError(
            f"{option} {folder}: no model of the recipe two-stage; expected a folder such as "
            "RUN/best"
        )

    try:
        return TwoStageRecognizer.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{option} {folder}: cannot be loaded: {error}") from error
