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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from shards.config_values import from_mapping
from shards.loading.inputs import INPUT_OF, InputName
from shards.media.clip_format import ClipFormat
from shards.storage.documents import read_json
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import build_encoder
from trainers.models.encoders.seams import BeforeLayer
from trainers.models.heads import build_head
from trainers.models.parts.partial_start import require_whole_start
from trainers.models.parts.pooling import masked_mean
from trainers.models.personal.frame_standardizer import FrameStandardizer
from trainers.models.personal.halves import halve
from trainers.models.personal.set_fusion import Contrast, SetFuser
from trainers.models.personal.speaker_embedding import SpeakerEmbedding
from trainers.models.personal.speaker_prefix import PersonalizedFeatureExtractor
from trainers.models.personal.speaker_standardizer import SpeakerStandardizer
from trainers.models.recognizer_config import RecognizerConfig
from trainers.models.recognizer_start import answers_of, differences, personalization
from trainers.models.standard import is_standard, load_standard, read_description

NUM_HEADS = 4

log = logging.getLogger(__name__)


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
        self.encoder = LayerwiseEncoder(build_encoder(config.encoder), normalize=config.normalise)
        self.head = build_head(config, self.encoder.width)

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
    def input_names(self) -> list[InputName]:
        """The same as a list, as models of several inputs have it."""
        return [self.input_name]

    @property
    def feature_width(self) -> int:
        """How many numbers the pooled features of an utterance are."""
        return self.encoder.width

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
                differences(personalization(self.config), personalization(other.config)),
            ),
            "head": differences(answers_of(self.config), answers_of(other.config)),
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
    return path.is_file() and read_json(path).get("model_type") == RecognizerConfig.model_type
