"""Learns to recognize emotion: the vanilla baseline, and what all recipes of the family share.

Shapes: N utterances, C classes, V values.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.config import ConfigError
from shards.config_values import to_mapping
from shards.loading.batch_plan import (
    BatchPlan,
    PlannedBatch,
    SpeakerSetPlan,
    SpeakerSetView,
    UtterancePlan,
    UtteranceView,
    evaluation_batches,
)
from shards.loading.index import CorpusIndex
from shards.loading.inputs import INPUT_OF
from shards.loading.known_speakers import training_utterances
from shards.loading.loader import BatchReader
from shards.loading.subsets import subset
from shards.loading.targets import (
    Targets,
    labels_outside,
    read_targets,
    require_known_labels,
    resolve_classes,
    shown_counts,
)
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.storage.files import flush_tree
from trainers.engine.ranks import on_first_rank
from trainers.evaluation.target import Target
from trainers.evaluation.targets import TARGETS
from trainers.models.audio_classification import export_recognizer
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder, require_modality
from trainers.models.lora import attach_lora, merge_lora
from trainers.models.parts.device import default_device
from trainers.models.parts.masking import SpecAugment
from trainers.models.personal.adapted_encoder import (
    ORIGINAL_NAME,
    SpeakerState,
    load_speakers,
    save_encoder,
)
from trainers.models.recognizer import EmotionRecognizer, is_recognizer
from trainers.models.recognizer_config import RecognizerConfig
from trainers.models.trained import TrainedRecognizer, load_trained
from trainers.preparation.length_limit import LengthLimit
from trainers.preparation.proxy_speakers import assign_speakers
from trainers.preparation.small_encoder import set_statistics, small_encoder_config
from trainers.preparation.video_input import clip_format
from trainers.recipes.recipe import Run
from trainers.recipes.recognition.config import RecognitionConfig
from trainers.recipes.recognition.model import RecognitionModel
from trainers.recipes.recognition.model_card import CardFacts, write_card
from trainers.task import TrainingModel

log = logging.getLogger(__name__)
VANILLA_VALIDATION_UTTERANCES = 32


class RecognitionTask:
    """One training task, prepared: model, training plan, validation batches.

    Every rank makes the same. This is the vanilla baseline; the other recipes of the family
    override what they change.
    """

    def __init__(self, run: Run, options: RecognitionConfig, corpus: CorpusIndex) -> None:
        self._encoder, self._data, self._engine = run.encoder, run.data, run.engine
        self._options, self._corpus, self._recipe = options, corpus, run.recipe
        self._allow_partial_start = run.allow_partial_start

        data = run.data
        self._limit = LengthLimit(data, seed=run.engine.seed)
        train = self._limit.within(
            training_utterances(corpus, data.num_speakers, data.known_seconds, data.known_split),
            "train",
        )
        self.target = TARGETS[data.target.target_kind](
            resolve_classes(train, data.target), data.target
        )
        self.train, self._train_targets = subset(
            *_with_target(train, self.target, "train"), data.num_utterances, data.subset_seed
        )
        self.validation, self._validation_targets = _with_target(
            self._limit.within(corpus.split("validation"), "validation"), self.target, "validation"
        )

        self._original: LayerwiseEncoder | None = None
        self._numbers: Mapping[str, int] = {}
        # For the model card; None until this process has validated.
        self._last_figures: Mapping[str, float] | None = None
        self._clip = clip_format(run.encoder, data.faces) if data.modality == "video" else None

    @property
    def identity(self) -> str:
        """The text that tells whether a position in a stream of batches belongs to this task."""
        # Nothing is added for the default: positions of earlier releases stay valid.
        sampling = "" if self._data.sampling == "shuffled" else f" {self._data.sampling}"
        return (
            f"{self.train.digest} {self.view} {self._engine.seed} {self._engine.batches_per_step}"
            f"{sampling}"
        )

    @property
    def view(self) -> UtteranceView | SpeakerSetView:
        """What each training batch is made of."""
        return self._data.sets if self._options.learns_from_sets else self._data.utterances

    @property
    def corpus_digest(self) -> str:
        """The digest of the whole corpus."""
        return self._corpus.digest

    @property
    def num_workers(self) -> int:
        """The number of processes that decode training batches."""
        return self._data.num_workers

    @property
    def score_width(self) -> int:
        """The number of classes or values."""
        return len(self.target.names)

    @property
    def validation_set_size(self) -> int:
        """How many utterances of a speaker are validated together."""
        view = self.view
        if isinstance(view, SpeakerSetView):
            return view.set_size
        return VANILLA_VALIDATION_UTTERANCES

    def prepare(self, out: Path, say: Callable[[str], None]) -> None:
        """List the utterances that are too long; these recipes need no other files."""
        on_first_rank(lambda: self._limit.write(out))

    def training_reader(self) -> BatchReader:
        """Return a reader of training batches."""
        inputs, targets = [INPUT_OF[self._data.modality]], self._train_targets.by_name
        return BatchReader(
            self.train,
            inputs,
            targets,
            cache_bytes=self._data.cache_bytes,
            clip=self._clip,
            crop=self._limit.training_crop,
        )

    def validation_reader(self) -> BatchReader:
        """Return a reader of validation batches."""
        return BatchReader(
            self.validation,
            [INPUT_OF[self._data.modality]],
            clip=self._clip,
            crop=self._limit.validation_crop,
        )

    def keys(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the keys of the training utterances `rows`."""
        return self.train.keys(rows)

    def plan(self) -> BatchPlan:
        """Plan the order of training: utterances in any order, or every speaker once an epoch."""
        view = self.view
        if isinstance(view, SpeakerSetView):
            return SpeakerSetPlan(self.train.rows_by_speaker(), view, seed=self._engine.seed)

        by_class = self._data.sampling == "class_balanced"
        return UtterancePlan(
            self._limit.seconds(self.train),
            self._data.utterances,
            seed=self._engine.seed,
            classes=self._train_targets.labels if by_class else None,
        )

    def validation_batches(self) -> list[PlannedBatch]:
        """Batch the validation split: one speaker at a time, in sets of the training size."""
        return evaluation_batches(self.validation.rows_by_speaker(), self.validation_set_size)

    def build_model(self) -> RecognitionModel:
        """Build a model with the same weights on every rank."""
        torch.manual_seed(self._engine.seed)
        recognizer = self._build_recognizer()
        _require_heard(recognizer.encoder, self.train, "train")
        _require_heard(recognizer.encoder, self.validation, "validation")
        if self._encoder.checkpoint is None:
            set_statistics(
                recognizer.encoder, self.training_reader(), len(self.train), seed=self._engine.seed
            )
        if self._encoder.augments:
            self._augment(recognizer)
        if self._encoder.lora_rank:
            self._attach_lora(recognizer)
        recognizer.encoder.freeze(
            front_end=self._encoder.freezes_front_end(by_default=True)
            or self._encoder.lora_rank > 0,
            num_layers=self._encoder.freeze_layers,
        )

        is_balanced = self._options.class_weights == "balanced"
        return RecognitionModel(
            recognizer,
            self.target,
            term_weights=self.term_weights(),
            class_weights=self.target.class_weights(self._train_targets) if is_balanced else None,
            row_weights=self.row_weights(),
            numbers=self._numbers,
        )

    def term_weights(self) -> Mapping[str, float]:
        """The weight of each term of the loss."""
        return {"supervised": 1.0}

    def row_weights(self) -> Tensor | None:
        """The weight of each training utterance; None when all weigh the same."""
        return None

    def new_encoder(self) -> dict[str, Any]:
        """The configuration of the encoder of a run that starts from no checkpoint."""
        return small_encoder_config(self._encoder, self._data.modality, self.training_reader())

    def personal_options(self) -> dict[str, Any]:
        """Fields of the recognizer's configuration that make it personal."""
        return {}

    def require_speakers_usable(self) -> None:
        """Raise ConfigError when a checkpoint's speaker embeddings are of no use here."""
        if self._options.learns_from_sets:
            raise ConfigError(
                "encoder.checkpoint: got speaker embeddings (papt), which models that hear sets of "
                "a speaker's utterances cannot use; leave out model.standardize_frames, or give an "
                "encoder without them"
            )

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        """Compute the figures of the validation split from `scores` [N, C] of its `rows`."""
        truth = replace(self._validation_targets, array=self._validation_targets.array[rows])
        figures = self.target.score(truth, scores, self.validation.speaker_of_rows[rows]).summary()
        self._last_figures = figures
        return figures

    def objective(self, figures: Mapping[str, float]) -> float:
        """Macro-F1 for classes, or CCC for values."""
        return figures[self.target.best_figure]

    def export(self, model: TrainingModel, folder: Path) -> None:
        """Write the recognizer as `from_pretrained` reads it, in float32 at any precision."""
        assert isinstance(model, RecognitionModel)  # noqa: S101 (this task made it)
        folder.mkdir(parents=True, exist_ok=True)

        plain = EmotionRecognizer(model.recognizer.config)
        if self._encoder.lora_rank:
            self._attach_lora(plain)
        plain.load_state_dict(model.recognizer.state_dict())
        if self._encoder.lora_rank:
            merge_lora(plain.encoder)
        export_recognizer(plain, folder)

        if self._original is not None:
            save_encoder(self._original, folder / ORIGINAL_NAME)
        write_card(folder, plain.config, self._card_facts())
        flush_tree(folder)

    def _augment(self, recognizer: EmotionRecognizer) -> None:
        options = self._encoder
        spans = SpecAugment(
            time_probability=options.mask_time_probability,
            time_length=options.mask_time_length,
            channel_probability=options.mask_channel_probability,
            channel_length=options.mask_channel_length,
        )
        recognizer.encoder.augment(spans, learned=options.mask_time_embedding == "learned")

    def _attach_lora(self, recognizer: EmotionRecognizer) -> None:
        attach_lora(
            recognizer.encoder, rank=self._encoder.lora_rank, alpha=self._encoder.lora_alpha
        )

    def _card_facts(self) -> CardFacts:
        return CardFacts(
            recipe=self._recipe,
            encoder=self._encoder.checkpoint,
            revision=self._encoder.revision,
            corpus_digest=self.corpus_digest,
            num_utterances=len(self.train),
            num_speakers=len(self.train.speakers),
            num_validation_utterances=len(self.validation),
            num_validation_speakers=len(self.validation.speakers),
            figures=self._last_figures,
        )

    def _build_recognizer(self) -> EmotionRecognizer:
        """Build the recognizer: new, around a pretrained encoder, or from another run's export."""
        checkpoint = self._encoder.checkpoint
        if checkpoint is not None and is_recognizer(checkpoint):
            return self._go_on(_load_start(checkpoint))

        pretrained = (
            None if checkpoint is None else load_encoder(checkpoint, self._encoder.revision)
        )
        speakers = None if checkpoint is None else load_speakers(checkpoint)

        recognizer = EmotionRecognizer(self._recognizer_config(pretrained, speakers))
        if pretrained is not None:
            recognizer.encoder.model.load_state_dict(pretrained.model.state_dict())
        if speakers is not None and recognizer.speakers is not None:
            recognizer.speakers.load_state_dict(speakers.embedding.state_dict())
            self._know_speakers(speakers)

        return recognizer

    def _go_on(self, start: TrainedRecognizer) -> EmotionRecognizer:
        """Build the recognizer with what another run has learned."""
        model, speakers = start.model, start.speakers
        recognizer = EmotionRecognizer(
            self._recognizer_config(model.encoder, speakers, model.config.trained_on)
        )
        recognizer.start_from(
            model, str(self._encoder.checkpoint), allow_partial=self._allow_partial_start
        )
        if speakers is not None:
            self._know_speakers(speakers)
        return recognizer

    def _know_speakers(self, state: SpeakerState) -> None:
        """Find out whose embedding each speaker of this task gets."""
        self._original = state.original.to(default_device())
        for index in (self.train, self.validation):
            found = assign_speakers(state, index, self._data.modality, self._clip)
            self._numbers = {**self._numbers, **found}

    def _trained_on(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Describe which labels and speakers this run has learned from.

        `start` describes the same of the run that this one started from, because this run has then
        heard its speakers too.
        """
        data = self._data
        return {
            "target": to_mapping(data.target),
            **data.as_heard,
            "subset_seed": data.subset_seed,
            "corpus": self.corpus_digest,
            "start": dict(start),
        }

    def _recognizer_config(
        self,
        encoder: LayerwiseEncoder | None,
        speakers: SpeakerState | None,
        start: Mapping[str, Any] | None = None,
    ) -> RecognizerConfig:
        data = self._data
        if speakers is not None:
            self.require_speakers_usable()
        if encoder is None:
            sizes = self.new_encoder()
        else:
            sizes = encoder.model.config.to_dict()
            require_modality(encoder, data.modality)

        return RecognizerConfig(
            encoder=sizes,
            names=self.target.names,
            is_values=self.target.kind == "values",
            modality=data.modality,
            clip=None if self._clip is None else to_mapping(self._clip),
            normalise=encoder is not None and encoder.normalizes,
            trained_on=self._trained_on(start or {}),
            **self._options.head_fields(),
            **self.personal_options(),
            **({} if speakers is None else speakers.described()),
        )


def _load_start(folder: str) -> TrainedRecognizer:
    try:
        return load_trained(folder)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"encoder.checkpoint: {error}") from error


def _require_heard(encoder: LayerwiseEncoder, index: CorpusIndex, split: str) -> None:
    """Raise ConfigError when the split has utterances longer than the encoder can hear."""
    if encoder.max_samples is None:
        return

    most = encoder.max_samples / SAMPLE_RATE_HZ
    longer = int((index.durations > most).sum())
    if longer:
        raise ConfigError(
            f"encoder.checkpoint: got an encoder that hears at most {most:.0f} s, but {longer} of "
            f"{len(index)} utterances of the split {split} are longer; import the corpus without "
            "them, or cut them there with the columns start and end"
        )


def _with_target(index: CorpusIndex, target: Target, split: str) -> tuple[CorpusIndex, Targets]:
    """Keep the utterances of `index`, the split `split`, that have a target, and read these.

    Says how many utterances it leaves out, and which labels they have. Raises ConfigError when none
    is left, or when a label is none of the classes and the options do not drop it.
    """
    config, names = target.learned, target.names
    require_known_labels(index, config, names, split)
    known = read_targets(index, config, names).known
    if not known.any():
        raise ConfigError(
            f"data.target.kind {config.kind}: the split {split} has no utterance with "
            f"{target.wanted_in_json} {', '.join(names)}"
        )

    if not known.all():
        outside = labels_outside(index, config, names)
        unlabeled = int((~known).sum()) - sum(outside.values())
        counts = outside | ({f"no {config.kind}": unlabeled} if unlabeled else {})
        log.warning(
            "%d of %d utterances of the split %s are left out: %s",
            (~known).sum(),
            len(index),
            split,
            shown_counts(counts),
        )

    chosen = index.take(np.flatnonzero(known))
    return chosen, read_targets(chosen, config, names)
