"""The emotion recognizer: an encoder and a head, personalized by a set of utterances or not.

Personalized, it is SetPeER (setpeer-emoceleb, section IV; see `personal/set_fusion.py`), or its
features are standardized by speaker (`personal/speaker_standardizer.py`). Without personalization
it is the vanilla baseline. By default a set's prefix, or its mean and deviation, is made from the
utterances that it serves. `source` makes it from others, which the controls with wrong or disjoint
support need.

`save_pretrained` saves it and `from_pretrained` loads it, whatever the encoder.

Shapes: N utterances, T frames, D width, B sets, Q embeddings, C classes or values.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from shards.config_values import from_mapping
from shards.loading.inputs import INPUT_OF, InputName
from shards.loading.targets import TargetKind
from shards.media.clip_format import ClipFormat
from shards.storage.documents import read_json
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import encoder_of
from trainers.models.encoders.registry import register_models
from trainers.models.encoders.seams import BeforeLayer
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.models.encoders.statistics import StatisticsEncoder, StatisticsEncoderConfig
from trainers.models.losses import Similarity
from trainers.models.parts.float32_buffers import Float32Buffers
from trainers.models.parts.partial_start import require_whole_start
from trainers.models.parts.pooling import masked_mean
from trainers.models.personal.frame_standardizer import FrameStandardizer
from trainers.models.personal.halves import halve
from trainers.models.personal.set_fusion import Contrast, Fusion, SetFuser
from trainers.models.personal.speaker_embedding import SpeakerEmbedding, SpeakerFusion
from trainers.models.personal.speaker_prefix import PersonalizedFeatureExtractor
from trainers.models.personal.speaker_standardizer import SpeakerStandardizer
from trainers.models.standard import is_standard, load_standard, read_description

NUM_HEADS = 4
BATCH_NORM_MOMENTUM = 0.1

log = logging.getLogger(__name__)

_MODEL_TYPE = "emostream_recognizer"
_LACKING = object()


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

    model_type = _MODEL_TYPE

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
        return "values" if self.is_values else "classes"


@dataclass(frozen=True)  # no slots: ZeRO 3 looks for tensors in __dict__
class Recognition:
    """What one pass recognizes.

    `scores_NC` [N, C] are logits or values, and `pooled_ND` [N, D] the pooled features, before any
    standardization. `speakers_BD` [B, D] is P's embedding of each set, averaged over layers and Q,
    or the mean by which a set is standardized, and else None. `codes` are those that P used.
    `terms` are the losses that P adds; `nce` is there in training only, but then always, because
    ranks compare their terms.
    """

    scores_NC: Tensor
    pooled_ND: Tensor
    speakers_BD: Tensor | None
    codes: tuple[Tensor, ...]
    terms: dict[str, Tensor]


class EmotionRecognizer(PreTrainedModel):
    """Recognizes the emotion classes or values of utterances of one or more speakers."""

    config_class = RecognizerConfig
    main_input_name = "inputs"

    def __init__(self, config: RecognizerConfig) -> None:
        super().__init__(config)
        self.encoder = LayerwiseEncoder(_build_encoder(config.encoder), normalize=config.normalise)
        self.head = _build_head(config, self.encoder.width)

        self.extractor: PersonalizedFeatureExtractor | None = None
        self.standardizer: SpeakerStandardizer | None = None
        self.cross_attention: nn.MultiheadAttention | None = None
        self.speakers: SpeakerEmbedding | None = None

        if config.speakers:
            self.speakers = SpeakerEmbedding(
                len(config.speakers),
                self.encoder.width,
                config.speaker_vector_width,
                config.speaker_fusion,
            )

        if config.speaker_prior is not None:
            self.standardizer = SpeakerStandardizer(self.encoder.width, config.speaker_prior)

        if config.fusion != "none":
            options = dict(config.extractor)
            # config.json keeps the spelling it began with.
            normalize_codes = options.pop("normalise_codes", False)
            self.extractor = PersonalizedFeatureExtractor(
                self.encoder.width,
                len(self.encoder.layers),
                normalize_codes=normalize_codes,
                **options,
            )

        if config.fusion == "cross_attention":
            self.cross_attention = nn.MultiheadAttention(
                self.encoder.width, NUM_HEADS, batch_first=True
            )

        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep each part's own initialization."""

    @property
    def classifier(self) -> nn.Linear:
        """The last layer of the head, from features to scores."""
        *_, last = self.head.children()
        assert isinstance(last, nn.Linear)  # noqa: S101 (both kinds of head end so)
        return last

    @property
    def hears_sets(self) -> bool:
        """Whether it recognizes an utterance by others of the same speaker."""
        made_of_sets = self.extractor is not None or self.standardizer is not None
        return made_of_sets or bool(self.config.standardize_frames)

    @property
    def input_name(self) -> InputName:
        """The name of the input that it takes from a batch."""
        return INPUT_OF[self.config.modality]

    @property
    def clip_format(self) -> ClipFormat | None:
        """The clips that its encoder takes; None when it sees no video."""
        return (
            None
            if self.config.clip is None
            else from_mapping(ClipFormat, self.config.clip, where="clip")
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> "EmotionRecognizer":
        """Load what `save_pretrained` or `export_recognizer` wrote.

        Raises ValueError for a checkpoint that lacks weights: transformers would only print a note
        and leave these weights uninitialized.
        """
        if is_standard(folder):
            return cls._from_standard(folder)

        model, found = super().from_pretrained(folder, output_loading_info=True, **options)
        if found["missing_keys"]:
            raise ValueError(
                f"{folder}: got a checkpoint without {', '.join(sorted(found['missing_keys']))}, "
                "expected one that this version exported; train it again"
            )

        return model

    @classmethod
    def _from_standard(cls, folder: str | Path) -> "EmotionRecognizer":
        """Load a recognizer that was exported as a classifier of transformers."""
        model = cls(RecognizerConfig.from_dict(read_description(folder)))
        encoder, classifier = load_standard(folder)
        model.encoder.model.load_state_dict(encoder)
        model.classifier.load_state_dict(classifier)
        return model

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        sets: Tensor,
        source: Tensor | None = None,
        speakers: Tensor | None = None,
    ) -> Recognition:
        """Recognize utterances of one or more sets.

        `sets` [N] numbers each utterance's set, 0 to B - 1. Prefixes, or means and deviations, are
        made from the utterances where `source` [N] is true. With speaker embeddings, `speakers`
        [N] is the number of each utterance's embedding. Raises ValueError for a set without a
        source, and if there are embeddings but no `speakers`.
        """
        if self.speakers is not None:
            return self._recognize_known(inputs, lengths, speakers)
        if self.hears_sets:
            _require_source(sets, source)
        if self.standardizer is not None:
            pooled_ND = masked_mean(*self.encoder(inputs, lengths))
            standardized_ND, means_BD = self.standardizer(pooled_ND, sets, source)
            return Recognition(self.head(standardized_ND).float(), pooled_ND, means_BD, (), {})

        fuser = None if self.extractor is None else self._fuser(self.extractor, sets, source)
        before_layer: BeforeLayer | None = fuser
        if self.config.standardize_frames:
            before_layer = FrameStandardizer(sets, source, fuser)
        frames_NTD, mask_NT = self.encoder(inputs, lengths, before_layer)
        pooled_ND = masked_mean(frames_NTD, mask_NT)
        scores_NC = self.head(pooled_ND).float()
        if fuser is None:
            return Recognition(scores_NC, pooled_ND, None, (), {})

        return Recognition(
            scores_NC, pooled_ND, fuser.speakers(), tuple(fuser.codes), fuser.terms()
        )

    def _fuser(
        self, extractor: PersonalizedFeatureExtractor, sets_N: Tensor, source_N: Tensor | None
    ) -> SetFuser:
        """Build what runs P in one pass; the halves of sets are drawn once, for all layers."""
        if source_N is None:
            source_N = torch.ones_like(sets_N, dtype=torch.bool)

        config, contrast = self.config, None
        if self.training and config.contrast_temperature is not None:
            contrast = Contrast(
                halve(sets_N, source_N), config.contrast_similarity, config.contrast_temperature
            )
        return SetFuser(extractor, config.fusion, self.cross_attention, sets_N, source_N, contrast)

    def after_step(self) -> None:
        """Update P's codebook; every rank must call this after each optimizer step."""
        if self.extractor is not None and self.extractor.quantizer is not None:
            self.extractor.quantizer.after_step()

    def start_from(
        self, other: "EmotionRecognizer", checkpoint: str, *, allow_partial: bool = False
    ) -> None:
        """Take over what `other`, which lies in `checkpoint`, has learned.

        Parts that `other` lacks stay new. Raises ConfigError when a part of it has no place here,
        such as P with another number of codes, unless a partial start is allowed.
        """
        differ = {
            **dict.fromkeys(
                ("extractor", "cross_attention", "speakers"),
                _differences(_personalization(self.config), _personalization(other.config)),
            ),
            "head": _differences(_answers(self.config), _answers(other.config)),
        }

        parts = dict(other.named_children())
        fitting = [name for name in parts if not differ.get(name)]
        lost = {
            f"{name}.{key}": tensor
            for name, part in parts.items()
            if name not in fitting
            for key, tensor in part.state_dict().items()
        }
        why = [text for name in parts if name not in fitting for text in differ[name]]
        require_whole_start(lost, checkpoint, dict.fromkeys(why), allow_partial=allow_partial)

        for name in fitting:
            getattr(self, name).load_state_dict(parts[name].state_dict())
        log.info("taken over from the checkpoint: %s", ", ".join(sorted(fitting)))

    def _recognize_known(
        self, inputs: Tensor, lengths: Tensor, speakers_N: Tensor | None
    ) -> Recognition:
        if self.speakers is None or speakers_N is None:
            raise ValueError(
                "speakers: got none, expected the number of each utterance's speaker embedding"
            )
        frames_NTD, mask_NT = self.encoder(inputs, lengths, self.speakers.before_layer(speakers_N))
        pooled_ND = masked_mean(*self.speakers.after_layers(frames_NTD, mask_NT, speakers_N))
        return Recognition(self.head(pooled_ND).float(), pooled_ND, None, (), {})


def _require_source(sets_N: Tensor, source_N: Tensor | None) -> None:
    """Raise ValueError for a set without an utterance to know its speaker by."""
    if source_N is None:
        return

    if len(torch.unique(sets_N[source_N])) < len(torch.unique(sets_N)):
        raise ValueError(
            "source: got a set without an utterance that its prefix could be made from, expected "
            "at least one"
        )


def is_recognizer(folder: str) -> bool:
    """Whether `folder` holds an exported recognizer and not only an encoder."""
    if is_standard(folder):
        return True
    path = Path(folder) / "config.json"
    return path.is_file() and read_json(path).get("model_type") == _MODEL_TYPE


def _personalization(config: RecognizerConfig) -> dict[str, object]:
    """What two recognizers must share if one is to use the other's P or speaker embeddings.

    The weight of the commitment is a matter of the loss.
    """
    described = {
        "model.fusion": config.fusion,
        "model.standardize_frames": config.standardize_frames,
        "the speakers with an embedding": config.speakers,
        "the place of these embeddings": config.speaker_fusion if config.speakers else None,
    }
    # config.json keeps the spelling it began with.
    spelled = {"normalise_codes": "normalize_codes"}
    options = {
        f"model.{spelled.get(name, name)}": value
        for name, value in config.extractor.items()
        if name != "commitment"
    }
    return described | options


def _answers(config: RecognizerConfig) -> dict[str, object]:
    """What two recognizers must share if one is to use the other's head."""
    return {
        "the values" if config.is_values else "the classes": config.names,
        "model.head": config.head,
    }


def _differences(mine: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """What differs, for people.

    What only one of the two has is told if nothing else differs: without P, all its options lack.
    """
    differ = [
        name
        for name in dict.fromkeys([*theirs, *mine])
        if theirs.get(name, _LACKING) != mine.get(name, _LACKING)
    ]
    shared = [name for name in differ if name in theirs and name in mine]

    return [
        f"{name}: {_shown(theirs.get(name))} there, {_shown(mine.get(name))} here"
        for name in shared or differ
    ]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} ({', '.join(map(str, value[:8]))}{', ...' if len(value) > 8 else ''})"
    return "none" if value is None else str(value)


def _build_encoder(values: dict[str, Any]) -> Any:
    """Build an encoder with fresh weights from its configuration."""
    if values["model_type"] == SequenceEncoderConfig.model_type:
        return SequenceEncoder(SequenceEncoderConfig.from_dict(values))
    if values["model_type"] == StatisticsEncoderConfig.model_type:
        return StatisticsEncoder(StatisticsEncoderConfig.from_dict(values))
    register_models()
    rest = {name: value for name, value in values.items() if name != "model_type"}
    return encoder_of(AutoModel.from_config(AutoConfig.for_model(values["model_type"], **rest)))


class _BatchNorm(Float32Buffers, nn.BatchNorm1d):
    """Batch norm in float32, whatever the precision of the weights.

    A batch of one has no variance and is normalized by the running statistics.
    """

    def forward(self, hidden_ND: Tensor) -> Tensor:
        found_ND = F.batch_norm(
            hidden_ND.float(),
            self.running_mean,
            self.running_var,
            self.weight.float(),
            self.bias.float(),
            training=self.training and len(hidden_ND) > 1,
            momentum=BATCH_NORM_MOMENTUM,
            eps=self.eps,
        )

        return found_ND.to(hidden_ND.dtype)


def _build_head(config: RecognizerConfig, width: int) -> nn.Module:
    """One linear layer, two, or PAPT's interpreter {128, 32} (papt-pldc, section 5)."""
    num_scores = len(config.names)
    if config.head == "linear":
        return nn.Sequential(nn.Dropout(config.head_dropout), nn.Linear(width, num_scores))

    if config.head == "two_layer":
        return nn.Sequential(
            nn.Linear(width, config.head_width),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.head_width, num_scores),
        )

    parts: list[nn.Module] = []
    for before, after in pairwise((width, 128, 32)):
        parts += [
            nn.Linear(before, after),
            _BatchNorm(after),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
        ]

    return nn.Sequential(*parts, nn.Linear(32, num_scores))
