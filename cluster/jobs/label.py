"""`emostream label`: predictions for every utterance of every shard, exactly once, on Ray.

Writes `OUT/<shard>-<digest>.parquet` per shard, then `OUT/label.yaml` (the options) and `OUT/label-summary.json`. Ray
Data was tried and lost: its row checkpoint relabels dropped rows, and an actor pool that takes every CPU starves its
own readers.
"""

import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from actors.labeling.config import PanelConfig
from actors.labeling.identity import panel_identity
from cluster.jobs.job import run_missing
from cluster.jobs.plan import make_plan, refuse_other_corpora, remove_leftovers, remove_superseded
from cluster.jobs.summary import JobSummary, account, read_outcomes
from shards.config import option, require_positive
from shards.storage.documents import write_config, write_json
from shards.storage.files import exists, join, list_files, make_directory, remove
from shards.tables.predictions import FORMAT_VERSION, REMEDY, SUMMARY_NAME, read_info

CONFIG_NAME = "label.yaml"


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
        require_positive(self, "--num-labelers", "--num-readers", "--max-attempts")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSummary(JobSummary):
    """What a labeling job amounts to."""

    num_labeled: int
    superseded_tables_removed: int
    num_other_tables: int
    panel_digest: str


def run_label(config: LabelConfig) -> int:
    """The command: label, print the summary, return the exit status."""
    summary = label(config)
    lines = [*summary.lines("labeled", "without a full set of predictions")]
    if summary.superseded_tables_removed:
        lines.append(f"removed {summary.superseded_tables_removed} tables of an older panel or of older shards")
    if summary.num_other_tables:
        lines.append(f"beside them: {summary.num_other_tables} tables of other shards, which `select` counts too")
    sys.stdout.write("\n".join([*lines, f"predictions in {config.out}\n"]))
    return summary.exit_status


def label(config: LabelConfig) -> LabelSummary:
    """Label every shard that has no table yet. Raises ConfigError for an unusable panel, corpus, folder or cluster."""
    started = time.monotonic()
    panel = PanelConfig.load(config.panel)
    identity = panel_identity(panel)
    files = list_files(config.shards)
    make_directory(config.out)
    plan = make_plan(config.shards, files, config.out, identity.digest, FORMAT_VERSION)
    refuse_other_corpora(plan)
    if plan.todo and exists(join(config.out, SUMMARY_NAME)):
        remove(join(config.out, SUMMARY_NAME))  # an earlier run's: it would call the folder finished
    outcomes, failed = run_missing(
        plan,
        config,
        config.num_labelers,
        verb="label",
        what="the panel",
        actor=_actor,
        arguments=(panel, identity),
    )
    superseded = num_others = 0
    if not failed:
        superseded, num_others = remove_superseded(plan)
        remove_leftovers(plan)
    every = [*outcomes, *read_outcomes(plan.reused, lambda task: read_info(task.table_url), REMEDY)]
    summary = LabelSummary(
        **account(plan, every, failed, time.monotonic() - started),
        num_labeled=len(outcomes),
        superseded_tables_removed=superseded,
        num_other_tables=num_others,
        panel_digest=identity.digest,
    )
    write_config(join(config.out, CONFIG_NAME), config)
    write_json(join(config.out, SUMMARY_NAME), asdict(summary))
    return summary


def _actor() -> Any:
    from actors.labeling.labeler_actor import remote_labeler  # Ray is imported only by a run that needs it

    return remote_labeler
