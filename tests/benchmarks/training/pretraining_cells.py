"""The cells of the pre-training benchmark: one encoder on one corpus with one training seed.

As in the personalization benchmark, whose code runs them, a cell has a file, and is not computed
again when the file is there. Figures are accuracies in percent over utterances of unseen speakers
(except in random folds, which share speakers), by what was measured. `speakers` are those of each
speaker, named "SETTING|SPEAKER", by which encoders are compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.grouping import group_rows
from tests.benchmarks.training.personalization_cells import Found, Result, kept, read_result
from tests.benchmarks.training.pretraining_corpora import RAVDESS
from tests.benchmarks.training.pretraining_runs import (
    METHODS,
    Bench,
    Setting,
    has_tokens,
    pool_of,
    settings_of,
)
from trainers.probing.config import OF_TOKENS
from trainers.probing.results import Answers


@dataclass(frozen=True, slots=True)
class Cell:
    """One encoder on one corpus with one training seed.

    `kind` is world, foreign, talk, apart or ravdess.
    """

    kind: str
    corpus: str
    name: str
    seed: int

    @property
    def world(self) -> str:
        """The world whose pools the encoder is pre-trained on."""
        return RAVDESS if self.kind == RAVDESS else f"world-{self.corpus.rpartition('-')[2]}"

    def corpora(self, bench: Bench) -> set[str]:
        """Every corpus that the cell needs."""
        needed = {setting.corpus for setting in settings_of(self.kind, self.corpus, bench.sizes)}
        encoder = METHODS[self.name]
        while encoder.kind != "spectral":
            needed.add(pool_of(self.world, encoder))
            if encoder.start is None:
                break
            encoder = METHODS[encoder.start]
        return needed

    def path(self, bench: Bench) -> Path:
        """The file of the result."""
        name = self.name.replace(" ", "-").replace(",", "")
        return bench.folder / "cells" / self.kind / f"{self.corpus}-{name}-{self.seed}.json"

    def result(self, bench: Bench) -> Result | None:
        """The result, if there is one."""
        return read_result(self.path(bench))

    def run(self, bench: Bench) -> Result:
        """Compute the cell, unless it has a result, and write it."""
        return kept(self.path(bench), lambda: self._measure(bench))

    def _measure(self, bench: Bench) -> Found:
        figures: dict[str, float] = {}
        speakers: dict[str, float] = {}
        is_spectral = METHODS[self.name].kind == "spectral"

        settings = settings_of(self.kind, self.corpus, bench.sizes)
        features = {
            corpus: bench.features(self.world, self.name, self.seed, corpus)
            for corpus in dict.fromkeys(setting.corpus for setting in settings)
        }

        for setting in settings:
            if setting.view in OF_TOKENS and not has_tokens(self.name):
                continue
            if is_spectral and setting.view != "frames" and setting.history is None:
                continue  # statistics are pooled as they are
            made = features[setting.corpus]
            probed = bench.probe(made, setting, is_spectral=is_spectral, seed=self.seed)
            accuracy = probed.document["figures"]["pooled"]["accuracy"]["value"]
            figures[setting.name] = 100 * accuracy
            speakers |= _speakers(probed.answers, setting)

        return figures, speakers


def of_setting(speakers: Mapping[str, float], setting: str) -> dict[str, float]:
    """Each speaker's accuracy in one setting."""
    split = {name: name.rpartition("|") for name in speakers}
    return {split[name][2]: speakers[name] for name in speakers if split[name][0] == setting}


def _speakers(answers: Answers, setting: Setting) -> dict[str, float]:
    """Each tested speaker's accuracy in percent, over all choices of training utterances."""
    is_right = answers.truth == answers.predicted
    return {
        f"{setting.name}|{speaker}": 100 * float(np.mean(is_right[rows]))
        for speaker, rows in group_rows(answers.speaker).items()
    }
