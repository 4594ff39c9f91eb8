"""The trials of a sweep on Ray Tune, which draws the values, places the trials, and ends bad ones.

A trial is a run in OUT/NAME, which resumes from its own checkpoints. Tune's state lies in OUT/tune,
so that a sweep goes on where it was; a run's folder is found by the number of its trial.
"""

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from cluster.exit_status import ExitStatus
from cluster.nodes.session import ray_session
from cluster.progress import progress
from cluster.training.ending import ending_of
from cluster.training.shares import Share, share_of, threads_wanted
from cluster.training.sweep import LISTS, SweepConfig, Values, as_read, read_sweep, with_options
from cluster.training.sweep_table import (
    BEST_NAME,
    TABLE_NAME,
    Trial,
    ranked,
    shown,
    write_best,
    write_table,
)
from cluster.training.worker import SentRun, train_in_worker, use_threads
from shards.config import ConfigError
from shards.config_values import to_mapping
from shards.progress import OnProgress, unseen
from shards.storage.files import atomic_write
from trainers.config import TrainConfig

if TYPE_CHECKING:
    from trainers.engine.run import TrainingResult
    from trainers.engine.validation import Validated

Say = Callable[[str], None]
TUNE_NAME, SWEEP_NAME = "tune", "sweep.yaml"
TRIAL_FAILURES = 1
# More validations than any run has: a number that a run reached would end it before its export.
MAX_VALIDATIONS = 10**6
# Before the names of a validation's figures, among what Tune adds of its own.
FIGURE = "validation_"


def run_sweep(config: TrainConfig, path: str, say: Say) -> int:
    """Try the options of the file `path`, and write the table and the best options.

    Raises ConfigError for a file or a folder that cannot be used.
    """
    if config.num_workers > 1:
        raise ConfigError(
            f"--num-workers: got {config.num_workers} with --sweep, expected 1: trials are trained "
            "side by side, each by one process"
        )
    sweep = read_sweep(path, config)
    out = Path(config.out).absolute()
    _claim(out, sweep, config)

    # Tune's newer output prints even when it is told to be silent.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # It logs the failure of a trial as a traceback; here the table and a line say it.
    logging.getLogger("ray.tune.execution").setLevel(logging.CRITICAL)
    with ray_session(config.address) as nodes, progress("sweep", "trials") as update:
        share = share_of(
            nodes,
            num_runs=sweep.num_trials,
            num_workers=1,
            num_threads=threads_wanted(),
        )
        Shown.update = staticmethod(update)
        results = _tuner(out, sweep, config, share).fit()

    return _finish(out, config, results, sweep, say)


def _claim(out: Path, sweep: SweepConfig, config: TrainConfig) -> None:
    """Write down what the sweep is.

    Raises ConfigError when the folder holds another one, or one that is not to be resumed.
    """
    options = to_mapping(config)
    for name in ("out", "resume", "sweep", "address"):
        del options[name]
    text = yaml.safe_dump({"sweep": to_mapping(sweep), "options": options}, sort_keys=False)

    kept = out / SWEEP_NAME
    if kept.exists() and not config.resume:
        raise ConfigError(
            f"--out {config.out}: got a folder with a sweep, expected a folder without; add "
            "--resume to go on with that sweep, or give another folder"
        )
    if kept.exists() and kept.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"resume: the sweep in {config.out} was started with other options or another --sweep "
            f"({kept} shows them); give these, or another --out"
        )

    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(str(kept)) as stream:
        stream.write(text.encode())


def _tuner(out: Path, sweep: SweepConfig, config: TrainConfig, share: Share) -> Any:
    """The sweep of the folder `out`, as far as it has come."""
    trainable = tune.with_resources(
        tune.with_parameters(
            _train_trial, config=config, out=str(out), folder=os.getcwd(), share=share
        ),
        {"cpu": share.num_cpus, "gpu": share.num_gpus},
    )
    space = {name: _space(config, name, values) for name, values in sweep.values().items()}

    state = str(out / TUNE_NAME)
    if tune.Tuner.can_restore(state):
        return tune.Tuner.restore(state, trainable, resume_errored=True, param_space=space)

    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="objective",
            mode="max",
            num_samples=sweep.trials,
            search_alg=tune.search.BasicVariantGenerator(
                max_concurrent=share.at_once, random_state=sweep.seed
            ),
            scheduler=_scheduler(sweep),
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=TUNE_NAME,
            storage_path=str(out),
            failure_config=tune.FailureConfig(max_failures=TRIAL_FAILURES),
            verbose=0,
            callbacks=[Shown(sweep.num_trials)],
        ),
    )


def _space(config: TrainConfig, name: str, values: Values) -> Any:
    if values.kind in LISTS:
        items = [as_read(config, name, item) for item in values.items]
        return tune.grid_search(items) if values.kind == "grid" else tune.choice(items)
    return getattr(tune, values.kind)(*values.items)


def _scheduler(sweep: SweepConfig) -> Any:
    if sweep.scheduler == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="validations", grace_period=sweep.min_validations, max_t=MAX_VALIDATIONS
    )


def _name(trial: Any) -> str:
    """`trial-00003`, from Tune's own name of the trial, which ends in its number."""
    return f"trial-{trial.trial_id.rpartition('_')[2]}"


class Shown(tune.Callback):
    """Counts the trials that have ended.

    Tune saves its callbacks and makes them again when a sweep is resumed, and a progress bar cannot
    be saved, so `update` belongs to the class.
    """

    update: ClassVar[OnProgress] = staticmethod(unseen)

    def __init__(self, total: int) -> None:
        self._total = total
        self._ended: set[str] = set()
        self._best = -math.inf

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        """Show the best validation so far."""
        self._best = max(self._best, result["objective"])
        Shown.update(len(self._ended), self._total, f"best validation so far {self._best:.4f}")

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Count a trial that has ended."""
        self._ended.add(trial.trial_id)
        Shown.update(len(self._ended), self._total, f"best validation so far {self._best:.4f}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Count a trial that has failed too often."""
        self.on_trial_complete(iteration, trials, trial)


def _train_trial(
    chosen: Mapping[str, Any], *, config: TrainConfig, out: str, folder: str, share: Share
) -> None:
    """Do the run of a trial, in a process that Tune has started for it."""
    use_threads(share.num_cpus)
    latest: dict[str, Any] = {"objective": math.nan}
    is_end = False

    def on_step(done: int, total: int, note: str = "") -> None:
        nonlocal is_end
        is_end = done >= total

    def on_validation(validated: "Validated") -> None:
        nonlocal latest
        latest = _row(validated, config)
        # The scheduler may end the process at any report, and the last export is still to come.
        if not is_end:
            tune.report(latest)

    def train() -> "TrainingResult":
        name = tune.get_context().get_trial_name()
        run = SentRun.of(with_options(config, chosen, out=f"{out}/{name}"), folder)
        return train_in_worker(run, on_step, on_validation)

    ending = ending_of(train)
    if ending.kind == "stopped":
        raise OSError(ending.reason)
    tune.report(latest | {"state": ending.kind, "reason": ending.reason})


def _row(validated: "Validated", config: TrainConfig) -> dict[str, Any]:
    """What Tune is told of a validation; its number is the same after a resume."""
    return {
        "objective": validated.objective,
        "validations": math.ceil(validated.step / config.engine.validate_every),
        "step": validated.step,
        "state": "training",
        "reason": "",
        **{f"{FIGURE}{name}": value for name, value in validated.figures.items()},
    }


def _trial(result: Any, sweep: SweepConfig) -> Trial:
    """A trial as Tune has kept it."""
    last = result.metrics or {}
    state, reason = last.get("state", "unfinished"), last.get("reason", "")
    if result.error is not None:
        state, reason = "failed", str(result.error).strip().splitlines()[-1]
    elif state == "training":
        state = "ended" if sweep.scheduler == "asha" else "unfinished"

    options = {name: result.config[name] for name in sweep.options}
    rows = result.metrics_dataframe
    # A trial that failed before its first validation has no columns.
    if rows is None or "objective" not in rows or not rows["objective"].notna().any():
        return Trial(name=Path(result.path).name, state=state, options=options, reason=reason)

    best = rows.loc[rows["objective"].idxmax()]
    return Trial(
        name=Path(result.path).name,
        state=state,
        options=options,
        objective=float(best["objective"]),
        best_step=int(best["step"]),
        figures={
            column.removeprefix(FIGURE): float(best[column])
            for column in rows.columns
            if column.startswith(FIGURE)
        },
        reason=reason,
    )


def _finish(out: Path, config: TrainConfig, results: Any, sweep: SweepConfig, say: Say) -> int:
    """Write the table and the best options, and return the exit status."""
    trials = [_trial(result, sweep) for result in results]
    if not trials:
        sys.stderr.write("the sweep was interrupted before its first trial; add --resume\n")
        return ExitStatus.UNFINISHED

    write_table(out, trials)
    say(shown(trials))
    best = ranked(trials)[0]
    if best.objective is not None:
        write_best(out, with_options(config, best.options, out=config.out), best)
        say(
            f"the best options, by validation, are in {config.out}/{BEST_NAME}, all trials in "
            f"{config.out}/{TABLE_NAME}\n"
        )

    for one in trials:
        if one.reason:
            sys.stderr.write(f"emostream train: {one.name}: {one.reason}\n")
    remaining = sweep.num_trials - results.num_terminated
    if remaining:
        sys.stderr.write(
            f"{remaining} of {sweep.num_trials} trials failed or are unfinished; run the same "
            "command with --resume to go on with them\n"
        )
    return ExitStatus.UNFINISHED if remaining else ExitStatus.DONE
