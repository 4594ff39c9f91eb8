"""Loads what a run has exported: the recognizer, and the speakers that it was personalized with."""

from dataclasses import dataclass
from pathlib import Path

from trainers.models.encoders.loading import load_encoder
from trainers.models.personal.adapted_encoder import ORIGINAL_NAME, SpeakerState
from trainers.models.recognizer import EmotionRecognizer


@dataclass(frozen=True)
class TrainedRecognizer:
    """A recognizer and, if it has speaker embeddings, its speakers.

    `speakers` also holds the encoder that finds proxies; it is None without embeddings.
    """

    model: EmotionRecognizer
    speakers: SpeakerState | None


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
