"""What a recognizer is made of, as config.json holds it."""

from collections.abc import Sequence
from typing import Any, Literal

from transformers import PretrainedConfig

from shards.loading.targets import TargetKind
from trainers.models.encoders.sequence import SequenceEncoderConfig
from trainers.models.losses import Similarity
from trainers.models.personal.set_fusion import Fusion
from trainers.models.personal.speaker_embedding import SpeakerFusion


class RecognizerConfig(PretrainedConfig):
    """What a recognizer is made of and what it was trained on.

    `names` are the classes, or the values when `is_values`; `encoder` is the encoder's own
    configuration. `normalise` says whether waveforms are normalized; keys of config.json keep the
    spelling they began with. `clip` is the format of a video encoder's clips. The head `two_layer`
    has a hidden layer of `head_width`. With a `speaker_prior`, pooled features are standardized by
    speaker, and the training speakers count as that many utterances in the deviations. With
    `standardize_frames`, what enters the first layer is standardized by speaker. Without a
    `contrast_temperature`, training has no L_NCE. `speakers` are those that have an embedding
    (PAPT). `trained_on` says which labels the recognizer learned from (`target`), of how many
    speakers (`num_speakers`), how much of the test speakers (`known_seconds` of `known_split`), and
    the same of the recognizer that this one started from (`start`).
    """

    model_type = "emostream_recognizer"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        names: Sequence[str] = (),
        is_values: bool = False,
        modality: str = "audio",
        clip: dict[str, Any] | None = None,
        normalise: bool = False,
        head: Literal["linear", "two_layer", "interpreter"] = "linear",
        head_dropout: float = 0.1,
        head_width: int = 256,
        speaker_prior: float | None = None,
        standardize_frames: bool = False,
        fusion: Fusion = "none",
        extractor: dict[str, Any] | None = None,
        contrast_temperature: float | None = 0.1,
        contrast_similarity: Similarity = "dot",
        speakers: Sequence[str] = (),
        speaker_fusion: SpeakerFusion = "last",
        speaker_vector_width: int = 0,
        trained_on: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder or {"model_type": SequenceEncoderConfig.model_type}
        self.names = list(names)
        self.is_values = is_values
        self.modality = modality
        self.clip = clip
        self.normalise = normalise
        self.head = head
        self.head_dropout = head_dropout
        self.head_width = head_width
        self.speaker_prior = speaker_prior
        self.standardize_frames = standardize_frames
        self.fusion = fusion
        self.extractor = extractor or {}
        self.contrast_temperature = contrast_temperature
        self.contrast_similarity = contrast_similarity
        self.speakers = list(speakers)
        self.speaker_fusion = speaker_fusion
        self.speaker_vector_width = speaker_vector_width
        self.trained_on = trained_on or {}
        super().__init__(**kwargs)

    @property
    def target_kind(self) -> TargetKind:
        """Which kind of target the `names` stand for."""
        if self.is_values:
            return "values"
        is_rated = self.trained_on.get("target", {}).get("kind") == "ratings"
        return "ratings" if is_rated else "classes"
