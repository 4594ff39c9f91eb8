"""A run without gradient steps: a model is fitted for each of a few settings, and the best is kept.

It leaves what a run of the training loop leaves (`best`, `last`, `train.json`, `metrics.jsonl`),
so everything that reads runs reads this one. A "step" is a setting. There are no checkpoints: a fit
that was killed begins again, for it takes seconds. `last` equals `best`, because the model that was
fitted last is no further trained than the others, only fitted with the last setting.

Fitting within the training loop was the alternative: a model whose gradients are 0, for one step.
It lost because the loop's options (rate, decay, precision) would be taken and mean nothing.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shards.config import ConfigError
from shards.progress import OnProgress, unseen
from shards.storage.documents import read_json, write_json
from trainers.engine.checkpoints import (
    RESULT_NAME,
    recover_folder,
    replace_folder,
    storage_failures,
)
from trainers.engine.ranks import on_first_rank
from trainers.engine.run import BEST_NAME, LAST_NAME, TrainingResult
from trainers.engine.tracking import open_trackers
from trainers.engine.validation import OnValidation, Validated, unwatched
from trainers.settings.engine import EngineConfig
from trainers.task import FittedTask, TrainingModel


class FittingRun:
    """One rank's side of a run; the first rank fits and writes, the others help to measure."""

    def __init__(
        self,
        config: EngineConfig,
        out: Path,
        task: FittedTask,
        *,
        parameters: Mapping[str, Any],
        on_step: OnProgress = unseen,
        on_validation: OnValidation = unwatched,
    ) -> None:
        self._config, self._out, self._task, self._parameters = config, out, task, parameters
        self._on_step, self._on_validation = on_step, on_validation

    def restore(self) -> None:
        """Make the folder ready. Raises ConfigError when it holds the result of other data."""
        on_first_rank(self._make_ready)

    def run(self) -> TrainingResult:
        """Fit the candidates and export the best, unless a finished run lies in the folder."""
        finished = on_first_rank(self._finished)
        if finished is not None:
            return finished

        self._task.measure(lambda what: self._on_step(0, self._task.num_candidates, what))
        return on_first_rank(self._fit)

    def _make_ready(self) -> None:
        self._out.mkdir(parents=True, exist_ok=True)
        for name in (BEST_NAME, LAST_NAME):
            recover_folder(self._out / name)

        finished = self._finished()
        if finished is not None and finished.corpus != self._task.corpus_digest:
            raise ConfigError(
                f"resume: {self._out} holds a model of another corpus (digest {finished.corpus}, "
                f"now {self._task.corpus_digest}); give the shards that it was fitted on, or "
                "another --out"
            )

    def _finished(self) -> TrainingResult | None:
        path = self._out / RESULT_NAME
        return TrainingResult(**read_json(path)) if path.exists() else None

    def _fit(self) -> TrainingResult:
        """Fit every candidate; each that is better than all before it becomes `best`."""
        best: dict[str, float] = {}
        best_step = number = 0
        trackers = open_trackers(self._out, self._config.trackers, self._parameters, first_step=0)

        try:
            for number, candidate in enumerate(self._task.candidates(), start=1):
                figures = dict(candidate.figures)
                validated = {f"validation_{name}": value for name, value in figures.items()}
                for tracker in trackers:
                    tracker.log(number, {**candidate.setting, **validated})

                objective = self._task.objective(figures)
                if not best or objective > self._task.objective(best):
                    best, best_step = figures, number
                    self._export(candidate.model)
                self._on_validation(Validated(step=number, figures=figures, objective=objective))
                self._on_step(number, self._task.num_candidates, _shown(candidate.setting))
        finally:
            for tracker in trackers:
                tracker.close()

        result = TrainingResult(
            steps=number,
            best_step=best_step,
            best=best,
            stopped_early=False,
            padding_share=0.0,
            corpus=self._task.corpus_digest,
        )
        # Written after the exports, because others take a run with a result for a finished one.
        write_json(str(self._out / RESULT_NAME), asdict(result))
        return result

    def _export(self, model: TrainingModel) -> None:
        for name in (BEST_NAME, LAST_NAME):
            temporary = self._out / f".{name}.tmp"
            with storage_failures(temporary):
                self._task.export(model, temporary)
            replace_folder(temporary, self._out / name)


def _shown(setting: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in setting.items())
