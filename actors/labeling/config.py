"""What a panel file says: the checkpoints for each modality, their precision, and the decoding.

Imports no torch, as the driver and the reader processes read it too. Everything here that can
change a label is part of the panel's digest (`panel_identity`). `batching` cannot, as no label
depends on its batchmates; it is left out of the digest, so that a run can be tuned without labeling
anything twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from actors.inference.checkpoints import CheckpointConfig
from actors.inference.config import BatchingConfig, Precision
from actors.labeling.labelers.config import (
    AcousticsConfig,
    LabelerConfig,
    SpeechRecognitionConfig,
    TextLabelerConfig,
)
from actors.reading.config import MediaConfig
from shards.config import ConfigError, option, require_positive
from shards.config_values import from_mapping
from shards.storage.files import read_bytes

MAX_PANEL_FILE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectivesConfig:
    """Extra columns for multimodal adaptive pre-training; each is made only when asked for."""

    acoustics: AcousticsConfig | None = option(
        help="mean over time of 25 acoustic descriptors", default=None
    )
    sentiment: CheckpointConfig | None = option(
        help="text classifier with the classes negative, neutral, positive", default=None
    )
    face_embedding: CheckpointConfig | None = option(
        help="image backbone whose pooled features are averaged over face crops", default=None
    )
    face_features: int | None = option(
        help="in place of face_embedding, where samples have face.npy and no video: the number of "
        "values of a frame of face.npy, whose mean over frames becomes the face embedding",
        default=None,
    )
    speaker_vector: CheckpointConfig | None = option(
        help="audio backbone whose last layer is averaged over time", default=None
    )

    def __post_init__(self) -> None:
        require_positive(self, "face_features")
        if self.face_features is not None and self.face_embedding is not None:
            raise ConfigError(
                "objectives: got face_embedding and face_features, expected one of the two, as "
                "both become the column face_embedding"
            )

    @property
    def need_no_model(self) -> bool:
        """Whether an objective is asked for that loads no checkpoint."""
        return self.acoustics is not None or self.face_features is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelConfig:
    """The panel: every labeler that looks at every utterance."""

    audio: LabelerConfig | None = option(help="speech emotion classifier", default=None)
    vision: LabelerConfig | None = option(
        help="image classifier over face crops, or a classifier over face.npy", default=None
    )
    text: TextLabelerConfig | None = option(
        help="text emotion classifier over transcripts", default=None
    )
    speech_recognition: SpeechRecognitionConfig | None = option(
        help="transcribes utterances that have no transcript", default=None
    )
    objectives: ObjectivesConfig = option(help="extra columns", default_factory=ObjectivesConfig)
    precision: Precision = option(
        help="auto: bfloat16 where the hardware has it and a labeler's measured drift stays within "
        "max_drift",
        default="auto",
    )
    max_drift: float = option(
        help="largest change of any probability that bfloat16 may make on the probe input",
        default=0.02,
    )
    window_seconds: float = option(
        help="longer recordings are cut into equal windows of at most this length; the label is "
        "the mean over windows",
        default=30.0,
    )
    media: MediaConfig = option(help="decoding", default_factory=MediaConfig)
    batching: BatchingConfig = option(
        help="batch sizes; no label depends on them", default_factory=BatchingConfig
    )

    def __post_init__(self) -> None:
        if not 0 < self.max_drift < 1:
            raise ConfigError(
                f"max_drift: got {self.max_drift}, expected a probability between 0 and 1"
            )
        if not 1 <= self.window_seconds <= 120:
            raise ConfigError(f"window_seconds: got {self.window_seconds}, expected 1 to 120")
        if not self.checkpoints() and not self.objectives.need_no_model:
            raise ConfigError("the panel has no labeler: give at least one of audio, vision, text")

    def checkpoints(self) -> dict[str, CheckpointConfig]:
        """Every model of the panel by the name of its option."""
        named: dict[str, CheckpointConfig | None] = {
            "audio": self.audio,
            "vision": self.vision,
            "text": self.text,
            "speech_recognition": self.speech_recognition,
            "sentiment": self.objectives.sentiment,
            "face_embedding": self.objectives.face_embedding,
            "speaker_vector": self.objectives.speaker_vector,
        }

        return {name: config for name, config in named.items() if config is not None}

    @property
    def objectives_need_audio(self) -> bool:
        """Whether an objective is computed from the waveform."""
        objectives = self.objectives
        return objectives.acoustics is not None or objectives.speaker_vector is not None

    @property
    def objectives_need_vision(self) -> bool:
        """Whether an objective is computed from face crops."""
        return self.objectives.face_embedding is not None

    @classmethod
    def load(cls, url: str) -> "PanelConfig":
        """Read a YAML panel file.

        A relative checkpoint is looked for beside the file, then in the working directory; where it
        is in neither it is taken for a hub name. Raises ConfigError when the file cannot be used.
        """
        try:
            values = yaml.safe_load(read_bytes(url, max_bytes=MAX_PANEL_FILE_BYTES))
        except FileNotFoundError as error:
            raise ConfigError(f"panel file {url}: not found") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"panel file {url}: not readable as YAML: {error}") from error

        if not isinstance(values, Mapping):
            raise ConfigError(
                f"panel file {url}: got {type(values).__name__}, expected options such as 'audio:'"
            )

        _refuse_former(values, url)
        return from_mapping(cls, _anchor(values, Path(url).parent), where="panel")


def _refuse_former(values: Mapping[str, Any], url: str) -> None:
    """Raise ConfigError for an option whose successor needs a decision."""
    objectives = values.get("objectives")
    if isinstance(objectives, Mapping) and "egemaps" in objectives:
        raise ConfigError(
            f"panel file {url}: objectives.egemaps is now objectives.acoustics; "
            "`acoustics: {features: egemaps, frames: all}` gives the same numbers, and `frames: "
            "voiced` those that eGeMAPS itself gives for pitch"
        )


def _anchor(value: Any, folder: Path, name: str = "") -> Any:
    """Make relative `checkpoint` and `detector` paths absolute.

    A path is looked for beside the panel file, then in the working directory; one that is in
    neither stays as it is.
    """
    if isinstance(value, Mapping):
        return {str(key): _anchor(item, folder, str(key)) for key, item in value.items()}

    if name in ("checkpoint", "detector") and isinstance(value, str) and value:
        for base in (folder, Path()):
            if (base / value).exists():
                return str((base / value).resolve())
    return value
