"""The training loop, on DeepSpeed: the same in one process, under torchrun and in a Ray Train worker.

Random numbers are seeded by the global number of each batch, before it is computed. So a step does not depend on how
many workers share it nor on whether the run was interrupted, and neither order nor dropout needs saving. Keeping the
generators' states in checkpoints was the alternative; it cannot survive a change of the number of workers.

AdamW is torch's own, handed to DeepSpeed: its fused one has to be compiled first.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from shards.config import ConfigError, to_mapping
from shards.loading.index import read_index
from shards.loading.loader import Batch, TrainingLoader, read_once
from shards.storage.files import atomic_write
from trainers.config import TrainConfig
from trainers.engine.batch_statistics import BatchStatistics
from trainers.engine.buffers import load_buffers, save_buffers
from trainers.engine.checkpoints import (
    RESULT_NAME,
    STATE_TAG,
    UNIVERSAL_CLIENT_STATE,
    CheckpointFolder,
    make_universal,
    read_progress,
    recover_folder,
    refuse_used_folder,
    replace_folder,
    require_complete,
    storage_failures,
)
from trainers.engine.process_group import deepspeed_config, join_group
from trainers.engine.ranks import on_every_rank, on_first_rank
from trainers.engine.schedules import batch_seed, rate_at
from trainers.engine.shared_folder import require_shared
from trainers.engine.tracking import Tracker, open_trackers, require_trackers
from trainers.recipes.recognition.task import make_task
from trainers.resuming import refuse_another_run, write_config

log = logging.getLogger(__name__)

BEST_NAME, LAST_NAME = "best", "last"
OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a run reached."""

    steps: int
    best_step: int
    best: dict[str, float]
    stopped_early: bool
    padding_share: float
    corpus: str  # the digest of what was trained on


@dataclass(slots=True)
class _Reached:
    """What is saved beside the weights."""

    step: int = 0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    stopped_early: bool = False


@dataclass(slots=True)
class _SinceLog:
    """What training took since the last logged step; validation and checkpoints are not counted."""

    seconds: float = 0.0
    num_utterances: int = 0
    wait_before: float = 0.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """A batch of the present step, without its inputs."""

    number: int
    rows: torch.Tensor
    loss: torch.Tensor


def run_training(config: TrainConfig, on_step: OnStep | None = None) -> TrainingResult:
    """Train, or go on training; returns when done. Every rank calls it; rank 0 writes.

    Raises ConfigError for what cannot be trained, and OSError when the disk fails: the run resumes after.
    """
    transformers_logging.disable_progress_bar()  # a bar a saved file says nothing
    join_group()
    config.check_workers(distributed.get_world_size())
    return _Run(config, on_step).run()


class _Run:
    """One run of one rank."""

    def __init__(self, config: TrainConfig, on_step: OnStep | None) -> None:
        self._config, self._engine_config = config, config.engine
        self._on_step = on_step or (lambda *_: None)
        self._rank, self._world_size = distributed.get_rank(), distributed.get_world_size()
        self._out = Path(config.out)
        self._checkpoints = CheckpointFolder(self._out / "checkpoints")
        corpus = on_every_rank(lambda: read_index(config.shards))
        self._corpus_digest = corpus.digest
        self._task = on_every_rank(lambda: make_task(config, corpus))
        self._loader = TrainingLoader(
            self._task.training_reader(),
            self._task.plan(),
            identity=self._task.identity,
            batches_per_step=self._engine_config.batches_per_step,
            rank=self._rank,
            world_size=self._world_size,
            num_workers=config.data.num_workers,
        )
        self._reached = _Reached()
        self._since_log = _SinceLog()

    def run(self) -> TrainingResult:
        """Build or restore, then step until the end."""
        checkpoint = self._prepare()
        self._build(checkpoint)
        if checkpoint is not None and self._reached.best_step == self._reached.step:
            self._export(BEST_NAME)  # the run may have been killed between this checkpoint and its export
        trackers = self._trackers()
        try:
            self._loop(trackers)
        finally:
            for tracker in trackers:
                tracker.close()
        return self._finish()

    def _prepare(self) -> Path | None:
        """The checkpoint to go on from; makes the folder ready."""
        checkpoint = on_first_rank(self._make_ready)  # one for all: a network file system may show others less
        if self._world_size > 1:
            require_shared(self._out)
        if checkpoint is not None:
            progress = read_progress(checkpoint)
            self._reached = _Reached(**progress["reached"])
            self._reached.stopped_early = self._is_patience_spent()  # it may be another patience by now
            self._loader.load_state_dict(progress["loader"])
        on_first_rank(lambda: write_config(self._out, self._config))
        return checkpoint

    def _make_ready(self) -> Path | None:
        """Refuse what cannot be done here, and clear what killed runs left; the checkpoint to go on from."""
        require_trackers(self._engine_config.trackers)
        refuse_used_folder(self._out, resume=self._config.resume)
        self._out.mkdir(parents=True, exist_ok=True)
        self._checkpoints.clear()
        for name in (BEST_NAME, LAST_NAME):
            recover_folder(self._out / name)
        checkpoint = self._checkpoints.newest()
        if checkpoint is not None:
            refuse_another_run(self._out, self._config)
            require_complete(checkpoint)
        return checkpoint

    def _build(self, checkpoint: Path | None) -> None:
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        universal = checkpoint is not None and self._must_convert(checkpoint)
        self._task.prepare(
            self._out, lambda what: self._on_step(self._reached.step, self._engine_config.num_steps, what)
        )
        self._model = on_every_rank(self._task.build_model)
        optimiser = torch.optim.AdamW(
            [parameter for parameter in self._model.parameters() if parameter.requires_grad],
            lr=self._engine_config.learning_rate,
            weight_decay=self._engine_config.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_at(step, self._engine_config))
        self._engine, *_ = deepspeed.initialize(
            model=self._model,
            optimizer=optimiser,
            lr_scheduler=schedule,
            config=deepspeed_config(self._engine_config, self._world_size, universal=universal),
            dist_init_required=False,
        )
        self._statistics = BatchStatistics(self._model)  # now: a model that is moved to a GPU gets other buffers
        if checkpoint is not None:
            folder, tag = checkpoint, STATE_TAG
            if universal:
                tag = on_first_rank(lambda: make_universal(folder)).name
            self._engine.load_checkpoint(str(folder), tag=tag)
            load_buffers(self._model, folder)  # a universal checkpoint holds parameters only

    def _must_convert(self, checkpoint: Path) -> bool:
        """Whether the checkpoint is divided among another number of workers than this."""
        written_by = int(read_progress(checkpoint)["world_size"])
        return written_by != self._world_size and self._engine_config.zero_stage > 0

    def _trackers(self) -> list[Tracker]:
        if self._rank:
            return []
        flat = {"recipe": self._config.recipe, **to_mapping(self._config)["engine"]}
        return open_trackers(self._out, self._engine_config.trackers, flat, first_step=self._reached.step)

    def _loop(self, trackers: list[Tracker]) -> None:
        batches = iter(self._loader)
        engine, reached = self._engine_config, self._reached
        while reached.step < engine.num_steps and not reached.stopped_early:
            started = time.perf_counter()
            terms, num_utterances = self._step(batches)
            self._since_log.seconds += time.perf_counter() - started
            self._since_log.num_utterances += num_utterances
            reached.step += 1
            if reached.step % engine.log_every == 0 or reached.step == engine.num_steps:
                self._log(trackers, terms)
            is_last = reached.step == engine.num_steps
            is_better = (reached.step % engine.validate_every == 0 or is_last) and self._validate(trackers)
            # Saved before it is exported: a run that resumes from an older checkpoint would leave a `best` of its past.
            if reached.step % engine.checkpoint_every == 0 or is_last or is_better or reached.stopped_early:
                self._save()
            if is_better:
                self._export(BEST_NAME)

    def _step(self, batches: Iterator[Batch]) -> tuple[dict[str, float], int]:
        """One optimiser step; the terms of the loss averaged over the batches of all ranks."""
        self._model.train()
        totals: dict[str, torch.Tensor] = {}
        seen: list[_Seen] = []
        num_utterances = 0
        num_batches = self._engine_config.batches_per_step
        self._statistics.begin_step()
        for _ in range(num_batches // self._world_size):
            batch = next(batches).to(self._engine.device)
            torch.manual_seed(batch_seed(self._engine_config.seed, batch.number))
            terms = self._engine(batch)
            self._engine.backward(terms["loss"])
            self._engine.step()
            self._statistics.end_batch()
            num_utterances += len(batch)
            seen.append(_Seen(batch.number, batch.rows, terms["loss"].detach()))
            for name, value in terms.items():
                totals[name] = totals.get(name, torch.zeros((), device=value.device)) + value.detach().float()
        self._model.after_step()
        self._statistics.end_step(num_batches)
        names = sorted(totals)
        numbers = torch.stack([*(totals[name] for name in names), totals["loss"].new_tensor(num_utterances)])
        distributed.all_reduce(numbers)
        *sums, total_utterances = numbers.tolist()
        means = {name: value / num_batches for name, value in zip(names, sums, strict=True)}
        if not math.isfinite(means["loss"]):
            self._refuse_to_go_on(means["loss"], seen)
        return means, round(total_utterances)

    def _refuse_to_go_on(self, loss: float, seen: Sequence[_Seen]) -> NoReturn:
        """Raise ConfigError, on every rank, that names the batches of all ranks whose loss was no number."""
        mine = [
            f"batch {batch.number} ({', '.join(self._task.keys(batch.rows.numpy(force=True)))})"
            for batch in seen
            if not batch.loss.isfinite()
        ]
        parts: list[Any] = [None] * self._world_size
        distributed.all_gather_object(parts, mine)
        where = "; ".join(sorted(name for part in parts for name in part)) or "the sum over the ranks"
        raise ConfigError(
            f"the loss is {loss} at step {self._reached.step + 1}, in {where}; look at these utterances, or start anew "
            "in another --out with a lower engine.learning_rate or engine.precision float32"
        )

    def _log(self, trackers: list[Tracker], terms: dict[str, float]) -> None:
        since = self._since_log
        numbers = {
            **terms,
            "learning_rate": self._engine.get_lr()[0],
            "epoch": self._loader.epochs,
            "utterances_per_second": since.num_utterances / since.seconds,
            "data_wait_share": (self._loader.wait_seconds - since.wait_before) / since.seconds,
            "padding_share": self._loader.padding_share,
        }
        self._since_log = _SinceLog(wait_before=self._loader.wait_seconds)
        for tracker in trackers:
            tracker.log(self._reached.step, numbers)
        note = (
            f"loss {terms['loss']:.3f}, {numbers['utterances_per_second']:.0f} utterances a second, "
            f"{numbers['data_wait_share']:.0%} waiting for data"
        )
        self._on_step(self._reached.step, self._engine_config.num_steps, note)

    def _validate(self, trackers: list[Tracker]) -> bool:
        """Score the validation split; whether it is the best so far."""
        scores = self._task.validate(*self._validation_scores())
        reached, better = self._reached, self._task.objective
        for tracker in trackers:
            tracker.log(reached.step, {f"validation_{name}": value for name, value in scores.items()})
        if not reached.best or better(scores) > better(reached.best):
            reached.best, reached.best_step, reached.since_best = dict(scores), reached.step, 0
            return True
        reached.since_best += 1
        reached.stopped_early = self._is_patience_spent()
        return False

    def _is_patience_spent(self) -> bool:
        return 0 < self._engine_config.patience <= self._reached.since_best

    def _validation_scores(self) -> tuple[Any, Any]:
        self._model.eval()
        rows, scores = [], []
        batches = read_once(
            self._task.validation_reader(),
            self._task.validation_batches(),
            rank=self._rank,
            world_size=self._world_size,
        )
        for batch in batches:
            found = self._model.scores(batch.to(self._engine.device)).float().cpu().numpy()
            if batch.number >= 0:
                rows.append(batch.rows.numpy())
                scores.append(found)
        mine = (
            np.concatenate(rows) if rows else np.empty(0, dtype=np.int64),
            np.concatenate(scores) if scores else np.empty((0, self._task.score_width), dtype=np.float32),
        )
        parts: list[Any] = [None] * self._world_size
        distributed.all_gather_object(parts, mine)
        return _join_scores(parts)

    def _save(self) -> None:
        """All ranks write their part; rank 0 makes the whole visible."""
        temporary = self._checkpoints.temporary(self._reached.step)
        with storage_failures(temporary):
            self._engine.save_checkpoint(
                str(temporary), tag=STATE_TAG, client_state=dict(UNIVERSAL_CLIENT_STATE), save_latest=False
            )
            if self._rank == 0:
                save_buffers(self._model, temporary)
        self._barrier()
        if self._rank == 0:
            progress = {
                "reached": asdict(self._reached),
                "loader": self._loader.state_dict(),
                "world_size": self._world_size,
            }
            self._checkpoints.commit(self._reached.step, progress, keep=self._engine_config.keep_checkpoints)
        self._barrier()

    def _export(self, name: str) -> None:
        """The model as `from_pretrained` reads it, replaced as a whole."""
        import deepspeed

        parameters = list(self._model.parameters()) if self._engine_config.zero_stage == 3 else []
        with deepspeed.zero.GatheredParameters(parameters):
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
            corpus=self._corpus_digest,
        )
        if self._rank == 0:
            with atomic_write(str(self._out / RESULT_NAME)) as stream:
                stream.write((json.dumps(asdict(result), indent=2) + "\n").encode())
        return result

    def _barrier(self) -> None:
        if self._world_size > 1:
            distributed.barrier()


def _join_scores(parts: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> tuple[Any, Any]:
    """Rows and scores of all ranks, in the order of rows."""
    rows, scores = zip(*parts, strict=True)
    all_rows = np.concatenate(rows)
    order = np.argsort(all_rows, kind="stable")
    return all_rows[order], np.concatenate(scores)[order]
