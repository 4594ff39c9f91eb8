"""The recipe `speaker-normalized`: regression on statistics that are standardized by speaker.

It is the baseline that every personalization has to beat. An utterance is described by means and
deviations of its cepstra (or by the pooled features of a frozen encoder), these are standardized by
the speaker's own utterances, whose labels nobody needs, and scikit-learn fits the rest. The fit
becomes the weights of an ordinary recognizer, which is evaluated, compared and asked as others are.

A speaker of whom two utterances are heard is standardized otherwise than one of whom a hundred are.
So the regression learns from several copies of the training set: in each, a speaker's utterances
are standardized in sets of another size. Validation speakers are standardized by all of theirs.

Shapes: N utterances, M of all copies of the training set, D width, W classes or values.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shards.config import ConfigError
from shards.loading.batch_plan import evaluation_batches
from shards.loading.index import CorpusIndex
from shards.loading.inputs import INPUT_OF
from shards.loading.loader import BatchReader
from trainers.engine.ranks import on_every_rank
from trainers.models.encoders.statistics import StatisticsEncoderConfig
from trainers.models.parts.device import default_device
from trainers.models.parts.functionals import NUM_CEPSTRA
from trainers.models.recognizer import EmotionRecognizer
from trainers.preparation.measured_utterances import pooled_features
from trainers.preparation.small_encoder import feature_size
from trainers.recipes.recipe import Run
from trainers.recipes.recognition.config import SpeakerNormalizedConfig
from trainers.recipes.recognition.model import RecognitionModel
from trainers.recipes.recognition.regression import Layers, fit_classes, fit_values
from trainers.recipes.recognition.task import RecognitionTask
from trainers.task import Candidate


@dataclass(frozen=True, slots=True)
class _Features:
    """Standardized features of the two splits, and the model that they were made with.

    `train_MD` are those of the training utterances `rows_M`, which occur several times.
    """

    model: RecognitionModel
    train_MD: NDArray[np.float32]
    rows_M: NDArray[np.int64]
    validation_ND: Tensor


class SpeakerNormalizedTask(RecognitionTask):
    """The recognition task, solved by regression on features standardized by speaker."""

    def __init__(self, run: Run, options: SpeakerNormalizedConfig, corpus: CorpusIndex) -> None:
        super().__init__(run, options, corpus)
        if len(self.train.speakers) < 2:
            raise ConfigError(
                "recipe speaker-normalized: got one speaker in the training split, expected at "
                "least two, to know how speakers differ"
            )
        self._fit_options = options
        self._features: _Features | None = None

    @property
    def num_candidates(self) -> int:
        """The number of strengths of the penalty."""
        return len(self._fit_options.regularization)

    def measure(self, say: Callable[[str], None]) -> None:
        """Measure the utterances of both splits; the ranks share the work."""
        model = on_every_rank(self.build_model)
        recognizer = model.recognizer.eval()

        say("measuring the training utterances")
        train_ND = self._measured(recognizer, self.train)
        say("measuring the validation utterances")
        validation_ND = self._measured(recognizer, self.validation)

        standardizer = recognizer.standardizer
        assert standardizer is not None  # noqa: S101 (this recipe's options ask for it)
        standardizer.learn(train_ND, self._sets(self.train, 0))

        copies = [
            standardizer(train_ND, self._sets(self.train, size))[0].numpy()
            for size in self._fit_options.set_sizes
        ]
        rows_M = np.tile(np.arange(len(self.train)), len(copies))
        sets_N = self._sets(self.validation, 0)
        self._features = _Features(
            model, np.concatenate(copies), rows_M, standardizer(validation_ND, sets_N)[0]
        )

    def candidates(self) -> Iterator[Candidate]:
        """A fit for each strength of the penalty, with its figures on the validation split."""
        assert self._features is not None  # noqa: S101 (`measure` comes first)
        found, rows = self._features, np.arange(len(self.validation))
        head = found.model.recognizer.head

        for strength in self._fit_options.regularization:
            _set_layers(head, self._fit(found, strength))
            with torch.inference_mode():
                answers = self.target.answers(head(found.validation_ND)).numpy()
            yield Candidate({"regularization": strength}, self.validate(rows, answers), found.model)

    def new_encoder(self) -> dict[str, Any]:
        """The encoder without weights, which measures statistics."""
        if self._data.modality == "audio":
            config = StatisticsEncoderConfig(front_end="cepstra", feature_size=NUM_CEPSTRA)
        else:
            size = feature_size(self.training_reader())
            config = StatisticsEncoderConfig(front_end="face", feature_size=size)

        return config.to_dict() | {"model_type": StatisticsEncoderConfig.model_type}

    def _fit(self, found: _Features, strength: float) -> Layers:
        options, seed = self._fit_options, self._engine.seed
        targets = self._train_targets.take(found.rows_M)
        if targets.kind == "values":
            return fit_values(
                found.train_MD, targets.array, strength, options.hidden_units, seed=seed
            )

        weights_MW = targets.array
        if options.class_weights == "balanced":
            weights_W = self.target.class_weights(targets)
            assert weights_W is not None  # noqa: S101 (a target of classes has them)
            weights_MW = weights_MW * weights_W.numpy()
        return fit_classes(found.train_MD, weights_MW, strength, options.hidden_units, seed=seed)

    def _sets(self, index: CorpusIndex, size: int) -> Tensor:
        """The number of each utterance's set [N], in sets of `size` of a speaker; 0: of all."""
        planned = evaluation_batches(index.rows_by_speaker(), size, seed=self._engine.seed)
        sets_N = np.empty(len(index), dtype=np.int64)
        for number, batch in enumerate(planned):
            sets_N[batch.rows] = number
        return torch.from_numpy(sets_N)

    def _measured(self, recognizer: EmotionRecognizer, index: CorpusIndex) -> Tensor:
        """Features [N, D] of the utterances of `index`."""
        reader = BatchReader(index, [INPUT_OF[self._data.modality]], clip=self._clip)
        encoder = recognizer.encoder.to(default_device())
        features_ND = pooled_features(encoder, reader, len(index))
        encoder.cpu()
        return features_ND


def _set_layers(head: nn.Module, layers: Layers) -> None:
    """Make the linear layers of `head` those that were fitted."""
    linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(linear, layers, strict=True):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
