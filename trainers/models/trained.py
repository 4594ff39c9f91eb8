"""Loads what a run has exported: the recognizer, and the speakers that it was personalized with.

A run may start from the encoder of such a recognizer, so it is loaded here too.
"""

from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging as transformers_logging

from shards.config import ConfigError
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.models.personal.adapted_encoder import ORIGINAL_NAME, SpeakerState
from trainers.models.recognizer import EmotionRecognizer, is_recognizer
from trainers.models.two_stage.loading import is_two_stage, load_two_stage
from trainers.models.two_stage.recognizer import TwoStageRecognizer


@dataclass(frozen=True)
class TrainedRecognizer:
    """A recognizer and, if it has speaker embeddings, its speakers.

    `speakers` also holds the encoder that finds proxies; it is None without embeddings.
    """

    model: EmotionRecognizer
    speakers: SpeakerState | None


@dataclass(frozen=True)
class TrainedTwoStage:
    """A model of the recipe `two-stage`, which knows no speakers."""

    model: TwoStageRecognizer
    speakers: None = None


Trained = TrainedRecognizer | TrainedTwoStage


def require_trained(folder: str) -> Trained:
    """The model of any recipe that people name by `--checkpoint`, on the CPU.

    Raises ConfigError when `folder` holds none, or one that cannot be loaded.
    """
    if not is_two_stage(folder):
        return require_recognizer(folder)

    transformers_logging.disable_progress_bar()
    return TrainedTwoStage(load_two_stage(folder))


def require_recognizer(folder: str) -> TrainedRecognizer:
    """The recognizer that people name by `--checkpoint`, on the CPU.

    Raises ConfigError when `folder` holds no recognizer, or one that cannot be loaded.
    """
    if not (Path(folder) / "config.json").exists():
        raise ConfigError(
            f"--checkpoint {folder}: no exported model; expected a folder such as RUN/best"
        )

    if is_two_stage(folder):
        raise ConfigError(
            f"--checkpoint {folder}: got a model of the recipe two-stage, which `emostream "
            "evaluate` alone can use; expected one of another recipe"
        )

    # transformers would show one progress bar for every file that it loads.
    transformers_logging.disable_progress_bar()
    try:
        if is_recognizer(folder):
            return load_trained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--checkpoint {folder}: cannot be loaded: {error}") from error

    raise ConfigError(
        f"--checkpoint {folder}: got another model, expected a recognizer; fine-tune an encoder "
        f"first, with `emostream train finetune --set encoder.checkpoint={folder}`"
    )


def load_trained(folder: str | Path) -> TrainedRecognizer:
    """Load the recognizer in `folder`, as `train` exported it.

    Raises OSError or ValueError for what cannot be read, and ConfigError when the original encoder
    is missing.
    """
    model = EmotionRecognizer.from_pretrained(folder, use_safetensors=True)
    if model.speakers is None:
        return TrainedRecognizer(model, None)

    original = load_encoder(str(Path(folder) / ORIGINAL_NAME))
    config = model.config
    return TrainedRecognizer(
        model, SpeakerState(config.speakers, config.speaker_fusion, model.speakers, original)
    )


def encoder_of(checkpoint: str, revision: str | None = None) -> LayerwiseEncoder:
    """Load an encoder: one alone (see `load_encoder`), or that of an exported recognizer.

    Raises ConfigError for what cannot be loaded.
    """
    if not is_recognizer(checkpoint):
        return load_encoder(checkpoint, revision)

    try:
        return load_trained(checkpoint).model.encoder
    except (OSError, ValueError) as error:
        raise ConfigError(f"encoder.checkpoint: {error}") from error
