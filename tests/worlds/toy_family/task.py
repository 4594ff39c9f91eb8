"""The task of the toy family: it learns classes of sound with a new encoder of its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.config_values import to_mapping
from shards.loading.batch_plan import BatchPlan, PlannedBatch, UtterancePlan, evaluation_batches
from shards.loading.index import CorpusIndex
from shards.loading.loader import Batch, BatchReader
from shards.loading.targets import read_targets, resolve_classes
from tests.worlds.toy_family.config import SmoothedConfig
from trainers.evaluation.targets import ClassTarget
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.recognizer_config import RecognizerConfig
from trainers.preparation.small_encoder import small_encoder_config
from trainers.recipes.recipe import Run
from trainers.task import TrainingModel


class SmoothedModel(TrainingModel):
    """A recognizer with cross-entropy against targets that give every class a share."""

    def __init__(self, recognizer: EmotionRecognizer, smoothing: float) -> None:
        super().__init__()
        self.recognizer, self._smoothing = recognizer, smoothing

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        targets_NC = batch.targets["classes"]
        targets_NC = (1 - self._smoothing) * targets_NC + self._smoothing / targets_NC.shape[1]
        losses_N = -(targets_NC * self._logits(batch).log_softmax(dim=1)).sum(dim=1)
        return {"loss": losses_N.mean()}

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        return self._logits(batch).softmax(dim=1)

    def _logits(self, batch: Batch) -> Tensor:
        heard = batch.inputs["sound"]
        logits_NC: Tensor = self.recognizer(heard.values, heard.lengths, batch.sets).scores_NC
        return logits_NC


class SmoothedTask:
    """A task that uses nothing of another family."""

    num_workers = 0

    def __init__(self, run: Run, options: SmoothedConfig, corpus: CorpusIndex) -> None:
        self._run, self._options = run, options
        self._train, self._validation = corpus.split("train"), corpus.split("validation")
        self.corpus_digest = corpus.digest
        self._names = resolve_classes(self._train, run.data.target)
        self._truth = read_targets(self._validation, run.data.target, self._names)
        self._target = ClassTarget(self._names)

    @property
    def identity(self) -> str:
        return f"{self._train.digest} {self._run.data.utterances} {self._run.engine.seed}"

    @property
    def score_width(self) -> int:
        return len(self._names)

    def prepare(self, out: Path, say: Callable[[str], None]) -> None:
        say("nothing to prepare")

    def training_reader(self) -> BatchReader:
        targets = read_targets(self._train, self._run.data.target, self._names)
        return BatchReader(self._train, ["sound"], targets.by_name)

    def validation_reader(self) -> BatchReader:
        return BatchReader(self._validation, ["sound"])

    def keys(self, rows: NDArray[np.int64]) -> list[str]:
        return self._train.keys(rows)

    def plan(self) -> BatchPlan:
        return UtterancePlan(
            self._train.durations, self._run.data.utterances, seed=self._run.engine.seed
        )

    def validation_batches(self) -> list[PlannedBatch]:
        return evaluation_batches(self._validation.rows_by_speaker(), 8)

    def build_model(self) -> SmoothedModel:
        torch.manual_seed(self._run.engine.seed)
        encoder = small_encoder_config(self._run.encoder, "audio", self.training_reader())
        trained_on = {"target": to_mapping(self._run.data.target), "start": {}}
        config = RecognizerConfig(encoder=encoder, names=self._names, trained_on=trained_on)
        return SmoothedModel(EmotionRecognizer(config), self._options.smoothing)

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        truth = replace(self._truth, array=self._truth.array[rows])
        return self._target.score(truth, scores, self._validation.speaker_of_rows[rows]).summary()

    def objective(self, figures: Mapping[str, float]) -> float:
        return figures["macro_f1"]

    def export(self, model: TrainingModel, folder: Path) -> None:
        assert isinstance(model, SmoothedModel)
        model.recognizer.save_pretrained(folder)
