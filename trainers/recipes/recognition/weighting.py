"""Weighting (Sridhar and Busso 2022): the recognition task with more weight on some speakers."""

from pathlib import Path

import torch
from torch import Tensor

from shards.loading.index import CorpusIndex
from trainers.recipes.recipe import Run
from trainers.recipes.recognition.config import WeightingConfig
from trainers.recipes.recognition.similar_speakers import Choice, adaptation_set
from trainers.recipes.recognition.task import RecognitionTask


class WeightingTask(RecognitionTask):
    """The recognition task with weighted training utterances."""

    def __init__(self, run: Run, options: WeightingConfig, corpus: CorpusIndex) -> None:
        super().__init__(run, options, corpus)
        self._weighting, self._out = options, Path(run.out)

    def row_weights(self) -> Tensor:
        """Weigh utterances more if their speakers are like the target speakers; the mean is 1."""
        options = self._weighting
        choice = Choice(
            train=self.train,
            target=self._corpus.split(options.target_split),
            options=options,
            modality=self._data.modality,
            seed=self._engine.seed,
            clip=self._clip,
            encoder=self._encoder,
        )
        chosen = adaptation_set(choice, self._out)

        speakers = self.train.table["speaker"].to_pylist()
        weights = torch.tensor(
            [options.weight if speaker in chosen else 1.0 for speaker in speakers]
        )
        return weights / weights.mean()
