"""Continued masked-cluster prediction: the recipes `tapt` and `papt` (papt-pldc, sections 3 and 4).

The encoder goes on learning to predict the pseudo-labels of hidden frames, on the corpus it will be used on and without
emotion labels; PAPT learns an embedding of every speaker along. Validation is the same loss on utterances held out from
the training speakers, since others have no embedding.

What is exported is the encoder as transformers reads it; PAPT adds the embeddings and the original encoder, which finds
the proxies of unseen speakers. Either is an `encoder.checkpoint` to fine-tune from.

Shapes: N utterances, S samples, T frames, H hidden frames.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.batch_plan import PlannedBatch, UtterancePlan, evaluation_batches
from shards.loading.index import CorpusIndex
from shards.loading.loader import BatchReader
from shards.loading.targets import no_targets
from trainers.config import TrainConfig
from trainers.engine.ranks import on_every_rank, on_first_rank
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder, require_modality
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.models.masked_predictor import MaskedPredictor
from trainers.models.parts.device import default_device
from trainers.models.personal.adapted_encoder import SpeakerState, save_encoder
from trainers.models.personal.speaker_embedding import SpeakerEmbedding
from trainers.preparation.proxy_speakers import speaker_vectors
from trainers.preparation.small_encoder import set_statistics, small_encoder_config
from trainers.recipes.papt.config import PaptConfig, PretrainConfig
from trainers.recipes.papt.frame_features import FrameFeatures, LayerFeatures, Mfcc
from trainers.recipes.papt.model import SCORE_NAMES, PretrainingModel
from trainers.recipes.papt.pseudo_labels import PseudoLabelJob, PseudoLabels
from trainers.task import OnPreparation, TrainingModel

log = logging.getLogger(__name__)

SAMPLE_RATE_HZ = 16_000
LARGE_WIDTH, LARGE_PROJECTION, BASE_PROJECTION = 1024, 768, 256
VALIDATION_UTTERANCES = 32


class PretrainingTask:
    """TAPT or PAPT on some splits of a corpus."""

    score_width = len(SCORE_NAMES)

    def __init__(self, config: TrainConfig, options: PretrainConfig, corpus: CorpusIndex) -> None:
        self._config, self._options = config, options
        self._everything = _long_enough(corpus, options)
        held_out = hold_out(self._everything, options.held_out_share, seed=config.engine.seed)
        self._train_rows, self._held_out_rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        self._train = self._everything.take(self._train_rows)
        self._held_out = self._everything.take(self._held_out_rows)
        self._labels: dict[str, PseudoLabels] = {}
        self._original: LayerwiseEncoder | None = None
        self._names: list[str] = []

    @property
    def identity(self) -> str:
        """What a position in the stream of batches belongs to."""
        engine = self._config.engine
        view = self._config.data.utterances
        return f"{self._train.digest} {view} {self._options.max_samples} {engine.seed} {engine.batches_per_step}"

    def prepare(self, out: Path, on_progress: OnPreparation) -> None:
        """Compute the pseudo-labels, unless they are there; the ranks share the work."""
        options, rank = self._options, distributed.get_rank()
        job = PseudoLabelJob(
            out / "pseudo_labels",
            self._everything,
            on_every_rank(self._frame_features),
            {
                "layer": options.label_layer,
                "num_labels": options.num_labels,
                "encoder": self._config.encoder.checkpoint,
                "revision": self._config.encoder.revision,
                "cluster_frames": options.cluster_frames,
                "seed": self._config.engine.seed,
            },
        )
        on_progress("clustering frames into pseudo-labels")
        on_first_rank(
            lambda: job.fit(
                num_labels=options.num_labels, max_frames=options.cluster_frames, seed=self._config.engine.seed
            )
        )
        job.assign(
            lambda done, total: on_progress(f"pseudo-labels of {done} of {total} shards"),
            rank=rank,
            world_size=distributed.get_world_size(),
        )
        distributed.barrier()
        labels = job.read()
        self._labels = {"train": labels.take(self._train_rows), "validation": labels.take(self._held_out_rows)}

    def training_reader(self) -> BatchReader:
        """Reads training batches."""
        cache_bytes = self._config.data.cache_bytes
        return BatchReader(self._train, no_targets(self._train), "audio", cache_bytes=cache_bytes)

    def validation_reader(self) -> BatchReader:
        """Reads the held-out utterances."""
        return BatchReader(self._held_out, no_targets(self._held_out), "audio")

    def keys(self, rows: NDArray[np.int64]) -> list[str]:
        """The training utterances `rows` by name."""
        return self._train.keys(rows)

    def plan(self) -> UtterancePlan:
        """Every utterance once an epoch, at the length it is cropped to."""
        longest = self._options.max_samples / SAMPLE_RATE_HZ
        seconds = np.minimum(self._train.durations, longest)
        return UtterancePlan(seconds, self._config.data.utterances, seed=self._config.engine.seed)

    def validation_batches(self) -> list[PlannedBatch]:
        """One speaker at a time."""
        return evaluation_batches(self._held_out.rows_by_speaker(), VALIDATION_UTTERANCES)

    def build_model(self) -> PretrainingModel:
        """The encoder with a new head and, for PAPT, new embeddings; the same on every rank."""
        torch.manual_seed(self._config.engine.seed)
        encoder = self._encoder()
        speakers = self._speakers(encoder) if isinstance(self._options, PaptConfig) else None
        encoder.freeze(front_end=self._config.freezes_front_end, num_layers=self._config.encoder.freeze_layers)
        predictor = MaskedPredictor(
            encoder,
            self._options.num_labels,
            projection_size=self._options.projection_size or projection_size_for(encoder.width),
            temperature=self._options.temperature,
            speakers=speakers,
        )
        numbers = {name: number for number, name in enumerate(self._names)}
        return PretrainingModel(predictor, self._options, self._labels, numbers)

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        """Mean loss and accuracy over the hidden frames of the held-out utterances."""
        loss, correct, frames = scores.astype(np.float64).sum(axis=0)
        return {"masked": float(loss / max(1.0, frames)), "accuracy": float(correct / max(1.0, frames))}

    def objective(self, figures: Mapping[str, float]) -> float:
        """The loss on hidden frames, the lower the better."""
        return -figures["masked"]

    def export(self, model: TrainingModel, folder: Path) -> None:
        """The encoder; with embeddings, these and the original encoder beside it."""
        assert isinstance(model, PretrainingModel)  # noqa: S101 (this task made it)
        predictor, state = model.predictor, None
        if predictor.speakers is not None and self._original is not None:
            assert isinstance(self._options, PaptConfig)  # noqa: S101 (only it has embeddings)
            state = SpeakerState(self._names, self._options.fusion, predictor.speakers, self._original)
        save_encoder(predictor.encoder, folder, state)

    def _frame_features(self) -> FrameFeatures:
        layer = self._options.label_layer
        return Mfcc() if layer is None else LayerFeatures(self._encoder().to(default_device()), layer)

    def _encoder(self) -> LayerwiseEncoder:
        """The encoder that training starts from."""
        config = self._config.encoder
        if config.checkpoint is not None:
            encoder = load_encoder(config.checkpoint, config.revision)
            require_modality(encoder, "audio")
            return encoder
        sizes = small_encoder_config(config, "audio", self.training_reader())
        encoder = LayerwiseEncoder(SequenceEncoder(SequenceEncoderConfig(**sizes)))
        set_statistics(encoder, self.training_reader(), len(self._train), seed=self._config.engine.seed)
        return encoder

    def _speakers(self, encoder: LayerwiseEncoder) -> SpeakerEmbedding:
        """New embeddings, with the vectors that the original encoder gives the speakers."""
        assert isinstance(self._options, PaptConfig)  # noqa: S101 (the caller asked)
        self._original = self._encoder().to(default_device())
        self._names, vectors = speaker_vectors(self._original, self._train, "audio")
        speakers = SpeakerEmbedding(len(self._names), encoder.width, vectors.shape[1], self._options.fusion)
        speakers.vectors.copy_(torch.from_numpy(vectors))
        return speakers


def projection_size_for(width: int) -> int:
    """HuBERT's final projection: 768 for large models, 256 for base ones."""
    return LARGE_PROJECTION if width >= LARGE_WIDTH else BASE_PROJECTION


def hold_out(index: CorpusIndex, share: float, *, seed: int) -> NDArray[np.bool_]:
    """Which utterances validate: `share` of each speaker's, at least one where a speaker has two or more."""
    rng, held_out = np.random.default_rng(seed), np.zeros(len(index), dtype=bool)
    for rows in index.rows_by_speaker().values():
        number = min(len(rows) - 1, max(1, round(share * len(rows))))
        held_out[rng.permutation(rows)[:number]] = True
    if not held_out.any():
        raise ConfigError("held_out_share: no speaker has two utterances, so none can be held out for validation")
    return held_out


def _long_enough(corpus: CorpusIndex, options: PretrainConfig) -> CorpusIndex:
    index = corpus.split(*options.splits)
    long = np.flatnonzero(index.durations * SAMPLE_RATE_HZ >= options.min_samples)
    if not len(long):
        longest = np.max(np.nan_to_num(index.durations)) * SAMPLE_RATE_HZ
        raise ConfigError(
            f"min_samples: got {options.min_samples}, and no utterance is known to be that long: by the "
            f"`duration_seconds` of their json, the longest has {longest:.0f} samples"
        )
    log.info("%d of %d utterances have %d samples or more", len(long), len(index), options.min_samples)
    return index.take(long)
