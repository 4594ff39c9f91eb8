"""The cells of the two-stage benchmark: one model on one corpus with one training seed.

As in the personalization benchmark, whose code runs them, a cell has a file, and is not computed
again when the file is there. The file holds what models are compared by; the tables read the rest
from the evaluation's metrics.json, which is kept beside the model.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.training.personalization_cells import Result, read_result, write_result
from tests.benchmarks.training.two_stage_runs import Bench, plain


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one corpus with one training seed.

    `kind` is that of the model: stage-1, one-step or stage-2. Stages come one after the other, so
    that nothing is trained by two processes.
    """

    kind: str
    corpus: str
    name: str
    seed: int

    def path(self, bench: Bench) -> Path:
        """The file of the result."""
        return bench.folder / "cells" / self.corpus / f"{plain(self.name)}-{self.seed}.json"

    def result(self, bench: Bench) -> Result | None:
        """The result, if there is one."""
        return read_result(self.path(bench))

    def run(self, bench: Bench) -> Result:
        """Compute the cell, unless it has a result, and write it.

        `seconds` are those of the processor, of all threads: the commands run in this process.
        """
        found = self.result(bench)
        if found is not None:
            return found

        started = time.process_time()
        bench.train(self.corpus, self.name, self.seed)
        metrics = self.metrics(bench)
        found = Result(
            {"macro_f1": 100 * metrics["scores"]["macro_f1"]},
            {name: 100 * one["f1"] for name, one in metrics["per_speaker"].items()},
            time.process_time() - started,
        )
        write_result(self.path(bench), found)
        return found

    def metrics(self, bench: Bench) -> dict[str, Any]:
        """All figures of the evaluation."""
        return bench.evaluate(self.corpus, self.name, self.seed)
