"""`emostream label`: predictions for every utterance of every shard, exactly once, on Ray.

Writes `OUT/<shard>-<digest>.parquet` per shard and `OUT/label-summary.json`. Ray Data was tried and lost: its row
checkpoint relabels dropped rows, and an actor pool that takes every CPU starves its own readers.
"""

import concurrent.futures
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from actors.panel_config import PanelConfig, PanelIdentity, panel_identity
from actors.shard_labeling import ShardOutcome, ShardTask
from cluster.label_plan import LabelPlan, make_plan, remove_leftovers, remove_superseded
from cluster.progress import progress
from shards.config import ConfigError, option
from shards.naming import list_names
from shards.predictions import count_errors, read_info
from shards.storage import atomic_write, join, list_files, make_directory

EXIT_DAMAGED_SHARDS = 3
EXIT_UNFINISHED = 4
SUMMARY_NAME = "label-summary.json"
FOOTER_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Options of `emostream label`."""

    shards: str = option(help="Tar shards: a glob ('s3://corpus/*.tar', 'train-{000..099}.tar'), folder or file.")
    out: str = option(help="Folder for the prediction tables, local or remote.")
    panel: str = option(help="YAML file that names the labelers.")
    num_labelers: int | None = option(default=None, help="Labelers at work; without it one a GPU, or one a CPU.")
    address: str | None = option(default=None, help="Ray cluster to use; without it, the one submitted to or a local.")
    num_readers: int = option(default=2, help="Reader processes beside each labeler: shards decoded ahead.")
    max_attempts: int = option(default=5, help="Times a shard is tried in one run before it is given up.")

    def __post_init__(self) -> None:
        for name in ("num_labelers", "num_readers", "max_attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')}: got {value}, expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSummary:
    """What a job amounts to: every input is an utterance with predictions, one with a reason, or a shard with one."""

    num_shards: int
    num_labeled: int
    num_reused: int
    unreadable: tuple[dict[str, str], ...]
    failed: tuple[dict[str, object], ...]
    num_utterances: int
    num_rejected: int
    rejected: dict[str, int]
    hours_of_audio: float
    superseded_tables_removed: int
    panel_digest: str
    seconds: float

    @property
    def exit_status(self) -> int:
        """0 all read, 3 finished but with damaged shards, 4 unfinished."""
        if self.failed:
            return EXIT_UNFINISHED
        return EXIT_DAMAGED_SHARDS if self.unreadable else 0


def run_label(config: LabelConfig) -> int:
    """The command: label, print the summary, return the exit status."""
    summary = label(config)
    print_summary(summary, config)
    return summary.exit_status


def label(config: LabelConfig) -> LabelSummary:
    """Label every shard that has no table yet. Raises ConfigError for an unusable panel, corpus or cluster."""
    started = time.monotonic()
    panel = PanelConfig.load(config.panel)
    identity = panel_identity(panel)
    files = list_files(config.shards)
    make_directory(config.out)
    plan = make_plan(config.shards, files, config.out, identity.digest)
    outcomes, failed = _label_missing(config, panel, identity, plan) if plan.todo else ([], [])
    outcomes = [*outcomes, *_reused_outcomes(plan.reused)]
    superseded = 0
    if not failed:
        superseded = remove_superseded(plan, config.out)
        remove_leftovers(list_names(config.out), plan, config.out)
    summary = _summary(plan, outcomes, failed, identity, superseded, time.monotonic() - started)
    with atomic_write(join(config.out, SUMMARY_NAME)) as stream:
        stream.write(json.dumps(asdict(summary), indent=2).encode())
    return summary


def print_summary(summary: LabelSummary, config: LabelConfig) -> None:
    """The summary for a person, on standard output."""
    write = sys.stdout.write
    write(
        f"{summary.num_utterances} utterances ({summary.hours_of_audio:.2f} h of audio) in {summary.num_shards} "
        f"shards: {summary.num_labeled} labeled now, {summary.num_reused} before, {summary.seconds:.1f} s\n"
    )
    for code, number in sorted(summary.rejected.items()):
        write(f"  without a full set of predictions: {number} x {code}\n")
    for shard in summary.unreadable:
        write(f"  damaged shard {shard['shard']}: {shard['error']}\n")
    for failure in summary.failed:
        write(f"  NOT labeled {failure['name']} ({failure['attempts']} attempts): {failure['error']}\n")
    if summary.failed:
        write("unfinished: run the same command again; finished shards are not opened\n")
    write(f"predictions in {config.out}\n")


def _label_missing(
    config: LabelConfig, panel: PanelConfig, identity: PanelIdentity, plan: LabelPlan
) -> tuple[list[ShardOutcome], list[dict[str, object]]]:
    from cluster.label_run import LabelRun  # Ray is imported only by a run that needs it
    from cluster.placement import place_labelers
    from cluster.ray_session import ray_session

    with ray_session(config.address) as nodes, progress("label", "shards") as update:
        run = LabelRun(
            config=panel,
            identity=identity,
            num_readers=config.num_readers,
            max_attempts=config.max_attempts,
            on_progress=_with_rate(update, len(plan.todo)),
        )
        run.run(plan.todo, place_labelers(nodes, config.num_labelers))
    return run.outcomes, [asdict(failure) for failure in run.failed]


def _with_rate(update: Callable[..., None], total: int) -> Callable[[int, int], None]:
    started = time.monotonic()

    def on_progress(finished: int, utterances: int) -> None:
        rate = utterances / max(time.monotonic() - started, 1e-9)
        update(finished, total, note=f"{utterances} utterances, {rate:.1f} a second")

    return on_progress


def _reused_outcomes(tasks: Iterable[ShardTask]) -> list[ShardOutcome]:
    with concurrent.futures.ThreadPoolExecutor(FOOTER_THREADS) as pool:
        return list(pool.map(_reused_outcome, tasks))


def _reused_outcome(task: ShardTask) -> ShardOutcome:
    info = read_info(task.table_url)
    rejected, seconds = count_errors(task.table_url)
    return ShardOutcome(
        name=task.name,
        num_utterances=info.num_rows,
        seconds_of_audio=seconds,
        rejected=rejected,
        shard_error=info.shard_error,
    )


def _summary(
    plan: LabelPlan,
    outcomes: Iterable[ShardOutcome],
    failed: list[dict[str, object]],
    identity: PanelIdentity,
    superseded: int,
    seconds: float,
) -> LabelSummary:
    ordered = sorted(outcomes, key=lambda outcome: outcome.name)
    rejected: dict[str, int] = {}
    for outcome in ordered:
        for code, number in outcome.rejected.items():
            rejected[code] = rejected.get(code, 0) + number
    return LabelSummary(
        num_shards=len(plan.tasks),
        num_labeled=len(ordered) - len(plan.reused),
        num_reused=len(plan.reused),
        unreadable=tuple(
            {"shard": outcome.name, "error": outcome.shard_error} for outcome in ordered if outcome.shard_error
        ),
        failed=tuple(failed),
        num_utterances=sum(outcome.num_utterances for outcome in ordered),
        num_rejected=sum(rejected.values()),
        rejected=dict(sorted(rejected.items())),
        hours_of_audio=round(sum(outcome.seconds_of_audio for outcome in ordered) / 3600, 4),
        superseded_tables_removed=superseded,
        panel_digest=identity.digest,
        seconds=round(seconds, 2),
    )
