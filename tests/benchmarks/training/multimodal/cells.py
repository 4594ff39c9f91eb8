"""The cells of the multimodal benchmark: one method on one corpus with one training seed.

As in the personalization benchmark, whose code runs them, a cell has a file, and is not computed
again when the file is there. Figures of probes and of fine-tuning are accuracy and macro-F1 in
percent, by the number of labels; `speakers` are accuracies of each tested speaker, named
"SETTING|SPEAKER".
"""

from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.training.multimodal.corpora import RAVDESS
from tests.benchmarks.training.multimodal.cost import measure_cost
from tests.benchmarks.training.multimodal.methods import METHODS
from tests.benchmarks.training.multimodal.runs import RAVDESS_FOLDS, Answers, Bench, plain
from tests.benchmarks.training.multimodal.sentiment import measure_sentiment
from tests.benchmarks.training.personalization_cells import Found, Result, kept, read_result

ALL, F1 = "all", ", F1"
SENTIMENT, COST = "sentiment", "cost"


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement; `kind` is one of the parts, or a part of the weights or of RAVDESS."""

    kind: str
    corpus: str
    name: str
    seed: int

    def corpora(self) -> set[str]:
        """Every corpus that the cell needs."""
        pool = METHODS[self.name].pool if self.name in METHODS else None
        return {self.corpus} if pool is None else {self.corpus, pool}

    def result(self, bench: Bench) -> Result | None:
        """The result, if there is one."""
        return read_result(self.path(bench))

    def run(self, bench: Bench) -> Result:
        """Compute the cell, unless it has a result, and write it."""
        return kept(self.path(bench), lambda: self._measure(bench))

    def path(self, bench: Bench) -> Path:
        """The file of the result."""
        name = f"{self.corpus}-{plain(self.name)}-{self.seed}.json"
        return bench.folder / "cells" / self.kind / name

    def _measure(self, bench: Bench) -> Found:
        if self.kind == SENTIMENT:
            return measure_sentiment(bench, self.corpus, self.name), {}
        if self.kind == COST:
            return measure_cost(bench, self.corpus, self.seed), {}
        if self.corpus == RAVDESS:
            return self._recorded(bench)
        return self._synthetic(bench)

    def _synthetic(self, bench: Bench) -> Found:
        figures: dict[str, float] = {}
        speakers: dict[str, float] = {}
        for num_labels in (*bench.sizes.labels, None):
            answers = self._answers(bench, num_labels)
            setting = ALL if num_labels is None else str(num_labels)
            mine = _figures(setting, answers)
            figures, speakers = figures | mine[0], speakers | mine[1]
        return figures, speakers

    def _answers(self, bench: Bench, num_labels: int | None) -> Answers:
        if self.kind.endswith("finetune"):
            return bench.finetune(
                self.corpus, self.name, self.seed, num_labels=num_labels, fold=None
            )
        return bench.probe(self.corpus, self.name, self.seed, num_labels)

    def _recorded(self, bench: Bench) -> Found:
        """Test every fold by what knows nothing of it; figures are over all utterances."""
        parts = [self._answers_of_fold(bench, fold) for fold in range(RAVDESS_FOLDS)]
        return _figures(ALL, Answers.joined(parts))

    def _answers_of_fold(self, bench: Bench, fold: int) -> Answers:
        if self.kind.endswith("finetune"):
            return bench.finetune(self.corpus, self.name, self.seed, num_labels=None, fold=fold)
        return bench.probe_fold(self.corpus, self.name, self.seed, fold)


def _figures(setting: str, answers: Answers) -> Found:
    figures = {setting: answers.accuracy, f"{setting}{F1}": answers.macro_f1}
    per_speaker = answers.per_speaker().items()
    return figures, {f"{setting}|{speaker}": own for speaker, own in per_speaker}
