"""Continued masked-cluster prediction: the recipes `tapt` and `papt` (papt-pldc, sections 3 and 4).

The encoder continues to learn to predict the pseudo-labels of hidden frames, on the corpus on which
it will be used and without emotion labels. PAPT also learns an embedding for each speaker.
Validation is the same loss on held-out utterances of the training speakers, because other speakers
have no embedding.

The encoder is exported as transformers reads it. PAPT adds the embeddings and the original encoder,
which finds the proxies of unseen speakers. Either export is an `encoder.checkpoint` to fine-tune
from.

Shapes: N utterances, S samples, T frames, H hidden frames.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.batch_plan import UtterancePlan
from shards.loading.index import CorpusIndex
from shards.loading.loader import BatchReader
from shards.media.sound_format import SAMPLE_RATE_HZ
from trainers.engine.ranks import on_every_rank, on_first_rank
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.masked_predictor import MaskedPredictor
from trainers.models.parts.dropout import set_dropout
from trainers.models.personal.adapted_encoder import SpeakerState, save_encoder
from trainers.models.personal.speaker_embedding import SpeakerEmbedding
from trainers.preparation.durations import with_durations
from trainers.preparation.encoder_start import first_sound_encoder
from trainers.preparation.hold_out import hold_out
from trainers.preparation.length_limit import LengthLimit
from trainers.recipes.papt.config import PretrainConfig
from trainers.recipes.papt.label_source import LabelSource
from trainers.recipes.papt.model import SCORE_NAMES, PretrainingModel
from trainers.recipes.papt.prediction_head import read_prediction_head
from trainers.recipes.papt.pseudo_labels import PseudoLabels
from trainers.recipes.recipe import Run
from trainers.recipes.unlabeled_task import UnlabeledTask
from trainers.task import TrainingModel

log = logging.getLogger(__name__)

LARGE_WIDTH = 1024
LARGE_PROJECTION, BASE_PROJECTION = 768, 256
LARGE_FRONT_END_GRADIENT, BASE_FRONT_END_GRADIENT = 1.0, 0.1


class PretrainingTask(UnlabeledTask):
    """The task of `tapt` or `papt` on some splits of a corpus."""

    score_width = len(SCORE_NAMES)

    def __init__(self, run: Run, options: PretrainConfig, corpus: CorpusIndex) -> None:
        super().__init__(run, corpus)
        self._limit = LengthLimit(run.data, seed=run.engine.seed)
        # Long utterances are cut here by the model, which must know which labels are left.
        longest = min(options.max_samples, self._limit.max_cropped_seconds * SAMPLE_RATE_HZ)
        self._options = replace(options, max_samples=int(longest))

        known = with_durations(corpus.split(*options.splits), on_first_rank)
        chosen = self._limit.within(known, " ".join(options.splits))
        self._everything = _long_enough(chosen, options)

        held_out = hold_out(self._everything, options.held_out_share, seed=run.engine.seed)
        self.divide(self._everything, held_out)
        self._labels: dict[str, PseudoLabels] = {}
        self.speaker_names: list[str] = []

    @property
    def stream_options(self) -> Sequence[object]:
        """The length that the model crops utterances to."""
        return (self._options.max_samples,)

    def prepare(self, out: Path, say: Callable[[str], None]) -> None:
        """Compute the pseudo-labels, unless they are there; the ranks share the work."""
        on_first_rank(lambda: self._limit.write(out))
        seed = self._engine.seed
        source = on_every_rank(
            lambda: LabelSource(self._options, self._encoder, self.first_encoder, seed=seed)
        )
        job = on_every_rank(lambda: source.job(out / "pseudo_labels", self._everything))

        say("clustering frames into pseudo-labels")
        on_first_rank(lambda: source.find_centers(job))
        job.assign(
            lambda done, total, note="": say(f"pseudo-labels of {done} of {total} shards"),
            rank=distributed.get_rank(),
            world_size=distributed.get_world_size(),
        )
        distributed.barrier()

        labels = job.read()
        self._labels = {
            "train": labels.take(self._train_rows),
            "validation": labels.take(self._held_out_rows),
        }

    def training_reader(self) -> BatchReader:
        """Return a reader of training batches."""
        return BatchReader(self.train, ["sound"], cache_bytes=self._data.cache_bytes)

    def validation_reader(self) -> BatchReader:
        """Return a reader of the held-out utterances."""
        return BatchReader(self._held_out, ["sound"])

    def plan(self) -> UtterancePlan:
        """Plan every utterance once an epoch, at the length that it is cropped to."""
        longest = self._options.max_samples / SAMPLE_RATE_HZ
        seconds = np.minimum(self.train.durations, longest)
        return UtterancePlan(seconds, self._data.utterances, seed=self._engine.seed)

    def build_model(self) -> PretrainingModel:
        """Build the encoder with its head; it is the same on every rank."""
        torch.manual_seed(self._engine.seed)
        encoder = self.first_encoder()
        speakers = self.make_speakers(encoder.width)

        encoder.freeze(
            front_end=self._encoder.freezes_front_end(by_default=False),
            num_layers=self._encoder.freeze_layers,
        )

        if self._options.encoder_dropout is not None:
            set_dropout(encoder, self._options.encoder_dropout)

        predictor = self._predictor(encoder, speakers)
        numbers = {name: number for number, name in enumerate(self.speaker_names)}
        return PretrainingModel(predictor, self._options, self._labels, numbers)

    def make_speakers(self, width: int) -> SpeakerEmbedding | None:
        """Make embeddings of `width` for the speakers `speaker_names`.

        None in recipes that do not tell speakers apart.
        """
        return None

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        """Mean loss and accuracy over the hidden frames of the held-out utterances."""
        loss, correct, frames = scores.astype(np.float64).sum(axis=0)
        return {
            "masked": float(loss / max(1.0, frames)),
            "accuracy": float(correct / max(1.0, frames)),
        }

    def objective(self, figures: Mapping[str, float]) -> float:
        """The negative loss on hidden frames: the higher, the better."""
        return -figures["masked"]

    def export(self, model: TrainingModel, folder: Path) -> None:
        """Write the encoder and, if there are any, its speakers."""
        assert isinstance(model, PretrainingModel)  # noqa: S101 (this task made it)
        save_encoder(model.predictor.encoder, folder, self.speaker_state(model.predictor))

    def speaker_state(self, predictor: MaskedPredictor) -> SpeakerState | None:
        """What was learned of speakers; None in recipes that do not tell speakers apart."""
        return None

    def _predictor(
        self, encoder: LayerwiseEncoder, speakers: SpeakerEmbedding | None
    ) -> MaskedPredictor:
        """Build the predictor with a new head, or with HuBERT's own."""
        options, width = self._options, encoder.width
        head = None
        if options.prediction_head is not None:
            head = read_prediction_head(
                options.prediction_head,
                checkpoint=self._encoder.checkpoint,
                revision=self._encoder.revision,
                num_labels=options.num_labels,
                width=width,
            )

        size = options.projection_size
        if head is not None and size not in (None, head.size):
            raise ConfigError(
                f"model.projection_size: got {size}, but model.prediction_head projects to "
                f"{head.size} numbers; leave projection_size out"
            )

        predictor = MaskedPredictor(
            encoder,
            options.num_labels,
            projection_size=size or (head.size if head else projection_size_for(width)),
            temperature=options.temperature,
            front_end_gradient=options.front_end_gradient or front_end_gradient_for(width),
            speakers=speakers,
        )
        if head is not None:
            predictor.take_head(head.weight_PD, head.bias_P, head.labels_LP)

        return predictor

    def first_encoder(self) -> LayerwiseEncoder:
        """Load or make the encoder that training starts from."""
        return first_sound_encoder(
            self._encoder,
            self.training_reader,
            len(self.train),
            seed=self._engine.seed,
            allow_partial=self._allow_partial_start,
        )


def projection_size_for(width: int) -> int:
    """The width of HuBERT's final projection: 768 for large models, 256 for base ones."""
    return LARGE_PROJECTION if width >= LARGE_WIDTH else BASE_PROJECTION


def front_end_gradient_for(width: int) -> float:
    """HuBERT's share of the gradient that reaches the convolutions: all for large models."""
    return LARGE_FRONT_END_GRADIENT if width >= LARGE_WIDTH else BASE_FRONT_END_GRADIENT


def _long_enough(index: CorpusIndex, options: PretrainConfig) -> CorpusIndex:
    long = np.flatnonzero(index.durations * SAMPLE_RATE_HZ >= options.min_samples)
    if not len(long):
        longest = index.durations.max() * SAMPLE_RATE_HZ
        raise ConfigError(
            f"min_samples: got {options.min_samples}, but the longest utterance has "
            f"{longest:.0f} samples"
        )

    log.info(
        "%d of %d utterances have %d samples or more", len(long), len(index), options.min_samples
    )
    return index.take(long)
