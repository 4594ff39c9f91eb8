"""The training loop on DeepSpeed: the same in one process, under torchrun and in a Ray worker.

Before a batch is computed, the random number generator is seeded by the run's seed and the batch's
global number. So the result of a step depends neither on how many workers share the step nor on
whether the run was interrupted, and nothing about the order of training or dropout has to be saved.
The alternative was to keep the states of the generators in checkpoints; it lost, because these
states are of no use to another number of workers.

The optimizer is torch's own AdamW, which is handed to DeepSpeed. DeepSpeed's fused AdamW lost,
because it has to be compiled first.
"""

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from shards.loading.loader import TrainingLoader
from shards.progress import OnProgress, unseen
from shards.storage.documents import write_json
from trainers.engine.buffers import load_buffers, save_buffers
from trainers.engine.checkpoints import (
    CHECKPOINTS_NAME,
    RESULT_NAME,
    STATE_TAG,
    UNIVERSAL_CLIENT_STATE,
    CheckpointFolder,
    make_universal,
    read_progress,
    recover_folder,
    replace_folder,
    require_complete,
    storage_failures,
)
from trainers.engine.course import Course, Leg
from trainers.engine.master_weights import MasterWeights
from trainers.engine.optimizer import make_optimizer, own_options
from trainers.engine.process_group import deepspeed_config
from trainers.engine.ranks import on_every_rank, on_first_rank
from trainers.engine.shared_folder import require_shared
from trainers.engine.step import StepOutcome, Stepper
from trainers.engine.tracking import Tracker, open_trackers
from trainers.engine.validation import OnValidation, Validated, unwatched, validation_scores
from trainers.settings.engine import EngineConfig
from trainers.task import Task

BEST_NAME, LAST_NAME = "best", "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """The result of a finished run.

    `best` holds the validation figures of the best model, which was found at `best_step`.
    `padding_share` is the share of padding in all training batches. `corpus` is the digest of the
    corpus that was trained on.
    """

    steps: int
    best_step: int
    best: dict[str, float]
    stopped_early: bool
    padding_share: float
    corpus: str


@dataclass(slots=True)
class _Reached:
    """How far a run has come; this is saved in every checkpoint.

    `since_best` counts the validations since the best one.
    """

    step: int = 0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    stopped_early: bool = False


@dataclass(slots=True)
class _SinceLog:
    """The cost of training since the last logged step, without validation and checkpoints.

    `wait_before` is the loader's total waiting time in seconds at the last logged step.
    """

    seconds: float = 0.0
    num_utterances: int = 0
    wait_before: float = 0.0


class TrainingRun:
    """One rank's side of a run. Call `restore` and then `run`.

    Every rank makes its own `TrainingRun`, and rank 0 writes the files. `parameters` describe the
    run to the services that track it.
    """

    def __init__(
        self,
        config: EngineConfig,
        out: Path,
        task: Task,
        *,
        parameters: Mapping[str, Any],
        on_step: OnProgress = unseen,
        on_validation: OnValidation = unwatched,
    ) -> None:
        self._config, self._out, self._task, self._parameters = config, out, task, parameters
        self._on_step, self._on_validation = on_step, on_validation
        self._rank, self._world_size = distributed.get_rank(), distributed.get_world_size()
        self._checkpoints = CheckpointFolder(out / CHECKPOINTS_NAME)
        self._checkpoint: Path | None = None

        self._loader = TrainingLoader(
            task.training_reader(),
            task.plan(),
            identity=task.identity,
            batches_per_step=config.batches_per_step,
            rank=self._rank,
            world_size=self._world_size,
            num_workers=task.num_workers,
        )
        self._num_steps = config.max_steps
        if config.num_epochs is not None:
            self._num_steps = self._loader.steps_of(config.num_epochs)
        self._course = Course([Leg(begin=0, end=self._num_steps)], config)
        self._reached = _Reached()
        self._since_log = _SinceLog()

    def restore(self) -> None:
        """Make the folder ready, and go to the position of its newest checkpoint.

        Raises ConfigError when the checkpoint belongs to other data, when one of its files is
        missing or damaged, or when some rank does not see the folder.
        """
        # The first rank chooses the checkpoint for all ranks: on a network file system, some ranks
        # may not see the newest one yet.
        self._checkpoint = on_first_rank(self._make_ready)
        if self._world_size > 1:
            require_shared(self._out)

        if self._checkpoint is not None:
            progress = read_progress(self._checkpoint)
            self._reached = _Reached(**progress["reached"])
            # Decided again, because the resumed run may have another patience than the one before.
            self._reached.stopped_early = self._is_patience_spent()
            self._loader.load_state_dict(progress["loader"])
            if legs := progress.get("legs"):
                before = Course([Leg(**leg) for leg in legs], self._config)
                self._course = before.extended(self._reached.step, self._num_steps)

    def run(self) -> TrainingResult:
        """Build the model, load the checkpoint if there is one, and train until the end."""
        self._build()
        # The best model is exported after its checkpoint is written, and the run may have been
        # killed between the two.
        if self._checkpoint is not None and self._reached.best_step == self._reached.step:
            self._export(BEST_NAME)

        # A run that goes on has no result: what an earlier end had reached would be taken for it.
        if self._rank == 0 and self._reached.step < self._num_steps:
            (self._out / RESULT_NAME).unlink(missing_ok=True)

        trackers = self._trackers()
        try:
            self._loop(trackers)
        finally:
            for tracker in trackers:
                tracker.close()

        return self._finish()

    def _make_ready(self) -> Path | None:
        """Clear away what killed runs left. Returns the checkpoint to resume from, or None."""
        self._out.mkdir(parents=True, exist_ok=True)
        self._checkpoints.clear()
        for name in (BEST_NAME, LAST_NAME):
            recover_folder(self._out / name)

        checkpoint = self._checkpoints.newest()
        if checkpoint is not None:
            require_complete(checkpoint)
        return checkpoint

    def _build(self) -> None:
        """Build the task's model, hand it to DeepSpeed, and load the checkpoint's state."""
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        universal = self._must_convert()

        self._task.prepare(
            self._out, lambda what: self._on_step(self._reached.step, self._num_steps, what)
        )
        self._model = on_every_rank(self._task.build_model)
        if self._config.gradient_checkpointing:
            self._model.checkpoint_gradients()
        # Made before DeepSpeed rounds the weights.
        self._masters = MasterWeights(self._model) if self._config.precision == "bfloat16" else None

        optimizer = make_optimizer(self._model, self._config)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._course.rate)
        self._engine, *_ = deepspeed.initialize(
            model=self._model,
            optimizer=optimizer,
            lr_scheduler=schedule,
            config=deepspeed_config(self._config, self._world_size, universal=universal),
            dist_init_required=False,
        )
        if self._masters is not None:
            self._masters.give_to(self._engine.optimizer)
        self._stepper = Stepper(self._engine, self._model, self._task, self._config)

        if self._checkpoint is not None:
            self._load(self._checkpoint, universal=universal)

    def _must_convert(self) -> bool:
        """Whether the checkpoint is divided among another number of workers than this run has.

        Without ZeRO, a checkpoint is not divided, so any number of workers loads it as it is.
        """
        if self._checkpoint is None:
            return False

        written_by = int(read_progress(self._checkpoint)["world_size"])
        return written_by != self._world_size and self._config.zero_stage > 0

    def _load(self, checkpoint: Path, *, universal: bool) -> None:
        tag = on_first_rank(lambda: make_universal(checkpoint)).name if universal else STATE_TAG
        with own_options(self._engine.basic_optimizer, self._rate_of(self._reached.step)):
            self._engine.load_checkpoint(str(checkpoint), tag=tag)
        # A universal checkpoint holds parameters only, so buffers always come from their own file.
        load_buffers(self._model, checkpoint)

    def _trackers(self) -> list[Tracker]:
        if self._rank:
            return []

        return open_trackers(
            self._out, self._config.trackers, self._parameters, first_step=self._reached.step
        )

    def _loop(self, trackers: list[Tracker]) -> None:
        batches = iter(self._loader)
        config, reached = self._config, self._reached

        while reached.step < self._num_steps and not reached.stopped_early:
            started = time.perf_counter()
            outcome = self._stepper.take(reached.step + 1, batches)
            self._since_log.seconds += time.perf_counter() - started
            self._since_log.num_utterances += outcome.num_utterances
            reached.step += 1

            is_last = reached.step == self._num_steps
            if reached.step % config.log_every == 0 or is_last:
                self._log(trackers, outcome)
            validated = None
            if reached.step % config.validate_every == 0 or is_last:
                validated = self._validate(trackers)
            is_better = validated is not None and reached.best_step == reached.step

            # The checkpoint comes before the export. If the run were killed between an export and
            # its checkpoint, it would resume from an older step, and `best` could be a model that
            # the resumed run never reaches again.
            if (
                reached.step % config.checkpoint_every == 0
                or is_last
                or is_better
                or reached.stopped_early
            ):
                self._save()
            if is_better:
                self._export(BEST_NAME)
            # Last, because whoever is told may end the run.
            if validated is not None:
                self._on_validation(validated)

    def _log(self, trackers: list[Tracker], outcome: StepOutcome) -> None:
        since = self._since_log
        numbers = {
            **outcome.terms,
            # DeepSpeed's own is already the rate of the next step.
            "learning_rate": self._rate_of(self._reached.step - 1),
            "epoch": self._loader.epochs,
            "utterances_per_second": since.num_utterances / since.seconds,
            "data_wait_share": (self._loader.wait_seconds - since.wait_before) / since.seconds,
            "padding_share": self._loader.padding_share,
        }
        self._since_log = _SinceLog(wait_before=self._loader.wait_seconds)

        for tracker in trackers:
            tracker.log(self._reached.step, numbers)

        note = (
            f"loss {outcome.terms['loss']:.3f}, {numbers['utterances_per_second']:.0f} utterances "
            f"per second, {numbers['data_wait_share']:.0%} of the time waiting for data"
        )
        self._on_step(self._reached.step, self._num_steps, note)

    def _rate_of(self, step: int) -> float:
        return self._config.learning_rate * self._course.rate(step)

    def _validate(self, trackers: list[Tracker]) -> Validated:
        """Validate and log the figures."""
        scores = self._task.validate(
            *validation_scores(self._task, self._model, self._engine.device)
        )
        for tracker in trackers:
            tracker.log(
                self._reached.step, {f"validation_{name}": value for name, value in scores.items()}
            )

        reached, better = self._reached, self._task.objective
        if not reached.best or better(scores) > better(reached.best):
            reached.best, reached.best_step, reached.since_best = dict(scores), reached.step, 0
        else:
            reached.since_best += 1
            reached.stopped_early = self._is_patience_spent()

        return Validated(step=reached.step, figures=scores, objective=better(scores))

    def _is_patience_spent(self) -> bool:
        return 0 < self._config.patience <= self._reached.since_best

    def _save(self) -> None:
        """Write a checkpoint: each rank writes its part, and rank 0 makes the whole visible."""
        temporary = self._checkpoints.temporary(self._reached.step)
        with storage_failures(temporary):
            self._engine.save_checkpoint(
                str(temporary),
                tag=STATE_TAG,
                client_state=dict(UNIVERSAL_CLIENT_STATE),
                save_latest=False,
            )
            if self._rank == 0:
                save_buffers(self._model, temporary)

        # Rank 0 counts the bytes of all parts and gives the folder its final name, so it waits
        # until every rank has written its part.
        self._barrier()
        if self._rank == 0:
            progress = {
                "reached": asdict(self._reached),
                "loader": self._loader.state_dict(),
                "world_size": self._world_size,
                "legs": [asdict(leg) for leg in self._course.legs],
            }
            self._checkpoints.commit(
                self._reached.step, progress, keep=self._config.keep_checkpoints
            )
        self._barrier()

    def _export(self, name: str) -> None:
        """Export the model's float32 weights to the folder `name`, in place of an older export.

        `from_pretrained` can load the folder, which always holds one whole export.
        """
        import deepspeed

        # ZeRO 3 divides the weights among the ranks. They are gathered by all ranks together, also
        # by those that do not write.
        parameters = list(self._model.parameters()) if self._config.zero_stage == 3 else []
        weights = nullcontext() if self._masters is None else self._masters.in_state_dict()
        with weights, deepspeed.zero.GatheredParameters(parameters):
            if self._rank == 0:
                temporary = self._out / f".{name}.tmp"
                with storage_failures(temporary):
                    self._task.export(self._model, temporary)
                replace_folder(temporary, self._out / name)
        self._barrier()

    def _finish(self) -> TrainingResult:
        self._export(LAST_NAME)

        reached = self._reached
        result = TrainingResult(
            steps=reached.step,
            best_step=reached.best_step,
            best=reached.best,
            stopped_early=reached.stopped_early,
            padding_share=self._loader.padding_share,
            corpus=self._task.corpus_digest,
        )

        # Written after the export, because others take a run with a result for a finished one.
        if self._rank == 0:
            write_json(str(self._out / RESULT_NAME), asdict(result))
        return result

    def _barrier(self) -> None:
        if self._world_size > 1:
            distributed.barrier()
