"""What is trained: a recipe turns options and an index into a model with a loss, its batches, and its validation.

The engine knows none of this; it takes steps on `TrainingModel.forward` and compares what `validate` returns.

Shapes: N utterances, C classes, V values.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shards.batch_plan import BatchPlan, PlannedBatch, SpeakerSetPlan, UtterancePlan, evaluation_batches
from shards.config import ConfigError
from shards.corpus_index import CorpusIndex
from shards.loader import Batch, BatchReader
from shards.targets import Targets, read_targets, resolve_classes
from trainers.losses import balanced_class_weights, ccc_loss, soft_cross_entropy
from trainers.metrics import score_classes, score_values
from trainers.models.encoder import LayerwiseEncoder, load_encoder
from trainers.models.recognizer import EmotionRecognizer, Recognition, RecognizerConfig, is_recognizer
from trainers.models.sequence_encoder import SequenceEncoder, SequenceEncoderConfig
from trainers.settings import FinetuneConfig, SetPeerConfig, TrainConfig

STATISTICS_UTTERANCES = 500
VANILLA_VALIDATION_UTTERANCES = 32


class TrainingModel(nn.Module):
    """A recogniser with its loss: `forward(batch)` gives named terms, of which `loss` is minimised."""

    def __init__(self, recognizer: EmotionRecognizer, config: FinetuneConfig, class_weights: Tensor | None) -> None:
        super().__init__()
        self.recognizer = recognizer
        self._config = config
        self._class_weights = class_weights

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 8 for SetPeER; the supervised term alone without P."""
        found = self.recognizer(batch.inputs, batch.lengths, batch.sets)
        terms = {"supervised": self._supervised(found, batch), **found.terms}
        if isinstance(self._config, SetPeerConfig):
            config = self._config
            loss = config.classification_weight * terms["supervised"]
            loss = loss + config.contrastive_weight * terms.get("nce", 0.0) + config.vq_weight * terms["vq"]
        else:
            loss = terms["supervised"]
        return {"loss": loss, **terms}

    def after_step(self) -> None:
        """To be called by every rank after each optimiser step."""
        self.recognizer.after_step()

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """Probabilities [N, C] or values [N, V]."""
        found = self.recognizer(batch.inputs, batch.lengths, batch.sets)
        return found.scores_NC if self.recognizer.config.is_values else found.scores_NC.softmax(dim=-1)

    def _supervised(self, found: Recognition, batch: Batch) -> Tensor:
        if self.recognizer.config.is_values:
            return ccc_loss(found.scores_NC, batch.values)
        weights = None if self._class_weights is None else self._class_weights.to(batch.probs.device)
        return soft_cross_entropy(found.scores_NC, batch.probs, weights)


class RecognitionTask:
    """One training task, prepared: model, training plan, validation batches. Every rank makes the same."""

    def __init__(self, config: TrainConfig, corpus: CorpusIndex) -> None:
        self._config, self._options = config, config.recipe_config()
        train = corpus.split("train")
        self.names = resolve_classes(train, config.data.target)
        self.train, self._train_targets = _with_target(train, config, self.names)
        self.validation, self.validation_targets = _with_target(corpus.split("validation"), config, self.names)

    @property
    def identity(self) -> str:
        """What a position in the stream of batches belongs to."""
        view = self._config.data.sets if self._is_setpeer else self._config.data.utterances
        return f"{self.train.digest} {view} {self._config.engine.seed} {self._config.engine.batches_per_step}"

    @property
    def metric(self) -> str:
        """What decides which checkpoint is best; higher is better."""
        return "ccc" if self._config.data.target.kind == "values" else "macro_f1"

    @property
    def _is_setpeer(self) -> bool:
        return isinstance(self._options, SetPeerConfig)

    def training_reader(self) -> BatchReader:
        """Reads training batches."""
        return BatchReader(self.train, self._train_targets, self._config.data.modality)

    def validation_reader(self) -> BatchReader:
        """Reads validation batches."""
        return BatchReader(self.validation, self.validation_targets, self._config.data.modality)

    def plan(self) -> BatchPlan:
        """The order of training."""
        data, seed = self._config.data, self._config.engine.seed
        if self._is_setpeer:
            return SpeakerSetPlan(self.train.rows_by_speaker(), data.sets, seed=seed)
        return UtterancePlan(self.train.durations, data.utterances, seed=seed)

    def validation_batches(self) -> list[PlannedBatch]:
        """One speaker at a time, in sets of the size trained with."""
        size = self._config.data.sets.set_size if self._is_setpeer else VANILLA_VALIDATION_UTTERANCES
        return evaluation_batches(self.validation.rows_by_speaker(), size)

    def build_model(self) -> TrainingModel:
        """A model with the same weights on every rank."""
        torch.manual_seed(self._config.engine.seed)
        recognizer = self._build_recognizer()
        if recognizer.encoder.is_small and self._config.encoder.checkpoint is None:
            self._set_statistics(recognizer.encoder)
        freeze_front_end = self._config.encoder.checkpoint is not None and self._config.encoder.freeze_front_end
        recognizer.encoder.freeze(front_end=freeze_front_end, num_layers=self._config.encoder.freeze_layers)
        weights = None
        if self._options.class_weights == "balanced" and not self._train_targets.is_values:
            weights = balanced_class_weights(torch.from_numpy(self._train_targets.probs.sum(axis=0)))
        return TrainingModel(recognizer, self._options, weights)

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        """Figures on the validation split: `scores` [N, C] of its utterances `rows`."""
        speakers = np.asarray(self.validation.table["speaker"].to_pylist(), dtype=object)[rows]
        if self.validation_targets.is_values:
            return score_values(self.validation_targets.values[rows], scores, speakers).summary()
        return score_classes(
            self.validation_targets.labels[rows], scores.argmax(axis=1), speakers, self.names
        ).summary()

    def _build_recognizer(self) -> EmotionRecognizer:
        """From nothing, from a pretrained encoder, or from what another run exported."""
        pretrained, start = None, None
        checkpoint = self._config.encoder.checkpoint
        if checkpoint is not None and is_recognizer(checkpoint):
            start = _load_start(checkpoint)
            pretrained = start.encoder
        elif checkpoint is not None:
            pretrained = load_encoder(checkpoint, self._config.encoder.revision)
        config = RecognizerConfig(
            encoder=self._small_encoder() if pretrained is None else pretrained.model.config.to_dict(),
            names=self.names,
            is_values=self._config.data.target.kind == "values",
            modality=self._config.data.modality,
            normalise=pretrained is not None and pretrained.normalises,
            head=self._options.head,
            head_dropout=self._options.head_dropout,
            **_personalisation(self._options),
        )
        recognizer = EmotionRecognizer(config)
        if start is not None:
            recognizer.start_from(start)
        elif pretrained is not None:
            recognizer.encoder.model.load_state_dict(pretrained.model.state_dict())
        return recognizer

    def _small_encoder(self) -> dict[str, Any]:
        encoder, modality = self._config.encoder, self._config.data.modality
        config = SequenceEncoderConfig(
            front_end="mel" if modality == "audio" else "face",
            feature_size=80 if modality == "audio" else self._feature_size(),
            hidden_size=encoder.hidden_size,
            num_hidden_layers=encoder.num_layers,
            num_attention_heads=encoder.num_heads,
            intermediate_size=encoder.intermediate_size,
            dropout_probability=encoder.dropout,
        )
        return config.to_dict() | {"model_type": SequenceEncoderConfig.model_type}

    def _feature_size(self) -> int:
        first = PlannedBatch(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
        return int(self.training_reader()[0, first].inputs.shape[-1])

    @torch.inference_mode()
    def _set_statistics(self, encoder: LayerwiseEncoder) -> None:
        """Mean and standard deviation of each feature over some training utterances."""
        small = encoder.model
        assert isinstance(small, SequenceEncoder)  # noqa: S101 (the caller asked)
        reader, rng = self.training_reader(), np.random.default_rng(self._config.engine.seed)
        chosen = rng.permutation(len(self.train))[:STATISTICS_UTTERANCES]
        frames = []
        for rows in np.array_split(chosen, max(1, len(chosen) // 32)):
            batch = reader[0, PlannedBatch(rows, np.arange(len(rows)))]
            features, lengths = small.features(batch.inputs, batch.lengths)
            frames += [row[:length] for row, length in zip(features, lengths.tolist(), strict=True)]
        joined = torch.cat(frames).double()
        small.set_statistics(joined.mean(dim=0).float(), joined.std(dim=0).float())


def export(model: TrainingModel, folder: Path) -> None:
    """The recogniser as `from_pretrained` reads it, in float32 whatever it was trained in."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = EmotionRecognizer(model.recognizer.config)
    plain.load_state_dict(model.recognizer.state_dict())
    plain.save_pretrained(folder)
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _load_start(folder: str) -> EmotionRecognizer:
    try:
        return EmotionRecognizer.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"encoder.checkpoint: {error}") from error


def _personalisation(options: FinetuneConfig) -> dict[str, Any]:
    if not isinstance(options, SetPeerConfig):
        return {}
    names = ("num_prefixes", "code_width", "num_codes", "quantized", "normalise_codes", "restart_codes", "commitment")
    extractor = {name: value for name, value in asdict(options).items() if name in names}
    temperature = options.temperature if options.contrastive_weight else None
    return {"fusion": options.fusion, "extractor": extractor, "contrast_temperature": temperature}


def _with_target(index: CorpusIndex, config: TrainConfig, names: tuple[str, ...]) -> tuple[CorpusIndex, Targets]:
    """The utterances of `index` that have a target, and these targets."""
    known = read_targets(index, config.data.target, names).known
    if not known.any():
        raise ConfigError(
            f"data.target.kind {config.data.target.kind}: no utterance of a split has one of {', '.join(names)}"
        )
    chosen = index.take(np.flatnonzero(known))
    return chosen, read_targets(chosen, config.data.target, names)


def join_scores(parts: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> tuple[Any, Any]:
    """Rows and scores of all ranks, one row once, in the order of rows."""
    rows, scores = zip(*parts, strict=True)
    all_rows = np.concatenate(rows)
    order = np.argsort(all_rows, kind="stable")
    return all_rows[order], np.concatenate(scores)[order]
