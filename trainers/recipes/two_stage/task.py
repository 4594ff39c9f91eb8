"""Learns from people's ratings: a branch, branches together, or what joins trained branches.

The engine knows nothing of stages: each model of two-stage-aver is a run of its own, and stage 2 is
a run whose model holds kept branches. All models of a corpus are validated and evaluated against
the same ratings (`data.target.stimulus`), whichever they learn, since only then can their figures
be compared.

Shapes: N utterances, C classes.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.config_values import from_mapping, to_mapping
from shards.loading.batch_plan import PlannedBatch, UtterancePlan, evaluation_batches
from shards.loading.index import CorpusIndex
from shards.loading.inputs import InputName
from shards.loading.known_speakers import training_utterances
from shards.loading.loader import BatchReader
from shards.loading.targets import TargetConfig, resolve_classes
from shards.storage.files import flush_tree
from shards.tables.feature_store import FeatureStore, open_features
from trainers.engine.ranks import on_first_rank
from trainers.evaluation.targets import TARGETS
from trainers.models.losses import class_balanced_cross_entropy
from trainers.models.two_stage.recognizer import TwoStageRecognizer
from trainers.preparation.length_limit import LengthLimit
from trainers.recipes.recipe import Run
from trainers.recipes.two_stage.config import TwoStageOptions
from trainers.recipes.two_stage.first_stage import INPUTS, new_recognizer
from trainers.recipes.two_stage.labels import Rated, rated_utterances, weights_of
from trainers.recipes.two_stage.model import TARGET_NAME, TwoStageModel
from trainers.recipes.two_stage.second_stage import TrainedBranch, joined, load_branches
from trainers.recipes.two_stage.stored_states import require_same_states
from trainers.task import TrainingModel

STATES: InputName = "states"
VALIDATION_UTTERANCES = 32

log = logging.getLogger(__name__)


class TwoStageTask:
    """One training task of the recipe `two-stage`; every rank makes the same."""

    def __init__(self, run: Run, options: TwoStageOptions, corpus: CorpusIndex) -> None:
        self._run, self._options, self._corpus = run, options, corpus
        self._data, self._engine = run.data, run.engine

        self._branches: list[TrainedBranch] = []
        if options.branches:
            self._branches = load_branches(run, options, corpus.digest)
        config = self._target_config()
        self._features: FeatureStore | None = None
        if options.features_folder is not None:
            self._features = open_features(options.features_folder, run.shards)

        # Only sound tells its length when it is decoded.
        is_sound = self._read(self.inputs) == ["sound"]
        self._limit = LengthLimit(
            run.data if is_sound else replace(run.data, modality="face"), seed=run.engine.seed
        )
        train = self._limit.within(
            training_utterances(
                corpus, run.data.num_speakers, run.data.known_seconds, run.data.known_split
            ),
            "train",
        )
        names = self._names(train, config)
        self.target = TARGETS["ratings"](names, config)
        self._train = self._rated(train, "train")
        self._validation = self._rated(
            self._limit.within(corpus.split("validation"), "validation"), "validation"
        )

        self._weights: NDArray[np.float64] | None = None
        if options.class_weights == "balanced":
            self._weights = weights_of(self._train.shares, names, options.class_weight_beta)

    @property
    def identity(self) -> str:
        """The text that tells whether a position in a stream of batches belongs to this task."""
        engine, view = self._engine, self._data.utterances
        return f"{self.train.digest} {view} {engine.seed} {engine.batches_per_step}"

    @property
    def inputs(self) -> list[InputName]:
        """The names of the model's inputs."""
        if self._options.inputs is not None:
            return INPUTS[self._options.inputs]

        taken = {name for branch in self._branches for name in branch.model.input_names}
        return [name for name in INPUTS["both"] if name in taken]

    @property
    def train(self) -> CorpusIndex:
        """The training utterances."""
        return self._train.index

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
        """The number of classes."""
        return len(self.target.names)

    def prepare(self, out: Path, say: Callable[[str], None]) -> None:
        """List the utterances that are too long."""
        on_first_rank(lambda: self._limit.write(out))

    def training_reader(self) -> BatchReader:
        """Return a reader of training batches."""
        return self._training_reader(self._read(self.inputs))

    def validation_reader(self) -> BatchReader:
        """Return a reader of validation batches."""
        return BatchReader(
            self._validation.index,
            self._read(self.inputs),
            crop=self._limit.validation_crop,
            features=self._features,
        )

    def keys(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the keys of the training utterances `rows`."""
        return self.train.keys(rows)

    def plan(self) -> UtterancePlan:
        """Plan every utterance once an epoch."""
        seconds = self._limit.seconds(self.train)
        return UtterancePlan(seconds, self._data.utterances, seed=self._engine.seed)

    def validation_batches(self) -> list[PlannedBatch]:
        """Batch the validation split, one speaker at a time."""
        return evaluation_batches(self._validation.index.rows_by_speaker(), VALIDATION_UTTERANCES)

    def build_model(self) -> TwoStageModel:
        """Build a model with the same weights on every rank, and say how large it is."""
        torch.manual_seed(self._engine.seed)
        described = {
            "names": self.target.names,
            "labels": self._options.labels,
            "trained_on": self._trained_on(),
        }
        if self._branches:
            recognizer = joined(self._branches, self._options, **described)
        else:
            recognizer = new_recognizer(
                self._run, self._options, self.train, self._training_reader, **described
            )

        if self._features is not None:
            folder = str(self._options.features_folder)
            require_same_states(recognizer, self._features, self.train, folder)

        recognizer.config.parameter_counts = recognizer.parameter_counts()
        on_first_rank(lambda: _say_size(recognizer))
        weights = None if self._weights is None else torch.from_numpy(self._weights).float()
        return TwoStageModel(recognizer, weights)

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        """Compute the loss on what is learned, and the figures against the target's ratings."""
        weights = None if self._weights is None else torch.from_numpy(self._weights)
        losses_N = class_balanced_cross_entropy(
            torch.from_numpy(scores).double(),
            torch.from_numpy(self._validation.shares[rows]),
            weights,
        )

        truth = self._validation.truth.take(rows)
        known = np.flatnonzero(truth.known)
        figures = self.target.score(
            truth.take(known),
            np.exp(scores[known]),
            self._validation.index.speaker_of_rows[rows[known]],
        ).summary()
        return {"loss": float(losses_N.mean()), **figures}

    def objective(self, figures: Mapping[str, float]) -> float:
        """The negative loss, or the figure that the options name: the higher, the better."""
        return -figures["loss"] if self._options.best_by == "loss" else figures["macro_f1"]

    def export(self, model: TrainingModel, folder: Path) -> None:
        """Write the recognizer as `from_pretrained` reads it, in float32 at any precision."""
        assert isinstance(model, TwoStageModel)  # noqa: S101 (this task made it)
        plain = TwoStageRecognizer(model.recognizer.config)
        plain.load_state_dict(model.recognizer.state_dict())
        plain.save_pretrained(folder)
        flush_tree(folder)

    def _training_reader(self, inputs: list[InputName]) -> BatchReader:
        return BatchReader(
            self.train,
            inputs,
            {TARGET_NAME: self._train.shares},
            cache_bytes=self._data.cache_bytes,
            crop=self._limit.training_crop,
            features=self._features if "states" in inputs else None,
        )

    def _read(self, inputs: Sequence[InputName]) -> list[InputName]:
        """What is read for these inputs: stored states in place of sound, if there are any."""
        stored = {} if self._options.features_folder is None else {"sound": STATES}
        return [stored.get(name, name) for name in inputs]

    def _target_config(self) -> TargetConfig:
        """The target of the run, or of its branches where the run names none."""
        own = self._data.target
        if own.kind == "ratings":
            return own
        return from_mapping(TargetConfig, self._branches[0].model.config.trained_on["target"])

    def _names(self, train: CorpusIndex, config: TargetConfig) -> tuple[str, ...]:
        """The classes: those of the branches, or those that the training utterances have."""
        if self._branches:
            return tuple(self._branches[0].model.config.names)
        return resolve_classes(train, config)

    def _rated(self, index: CorpusIndex, split: str) -> Rated:
        return rated_utterances(
            index,
            self.target.learned,
            self.target.names,
            labels=self._options.labels,
            split=split,
            permuted_by=self._engine.seed if self._options.permuted_labels else None,
        )

    def _trained_on(self) -> dict[str, Any]:
        data, options = self._data, self._options
        return {
            "target": to_mapping(self.target.learned),
            "labels": options.labels,
            "permuted_labels": options.permuted_labels,
            **data.as_heard,
            "corpus": self.corpus_digest,
            "branches": [
                {"folder": branch.folder, "trained_on": branch.model.config.trained_on}
                for branch in self._branches
            ],
        }


def _say_size(recognizer: TwoStageRecognizer) -> None:
    counts = recognizer.config.parameter_counts
    log.info(
        "%d parameters, of which %d are trained (encoders %d, branches %d, shared layers %d)",
        *(counts[name] for name in ("all", "trained", "encoders", "branches", "shared")),
    )
