"""`emostream label`: predictions for every utterance of every shard, exactly once, on Ray.

Writes `OUT/<shard>-<digest>.parquet` per shard, then `OUT/label.yaml` (the options) and
`OUT/label-summary.json`. Ray Data was tried and lost: its row checkpoint labels dropped rows again,
and an actor pool that takes every CPU starves its own readers.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actors.labeling.config import PanelConfig
from actors.labeling.identity import PanelIdentity, panel_identity
from actors.work.task import ShardTask
from cluster.jobs.job import JobOptions, ShardJob
from cluster.jobs.plan import (
    ShardPlan,
    earlier_tables,
    make_plan,
    refuse_other_corpora,
    remove_leftovers,
    remove_superseded,
)
from cluster.jobs.summary import JobSummary, TableFacts
from shards.config import option, require_positive
from shards.selection.coverage import declared_emotions, missing_emotions
from shards.storage.files import exists, list_files
from shards.storage.folder import Folder
from shards.tables.predictions import READABLE_FORMATS, REMEDY, SUMMARY_NAME, read_info

CONFIG_NAME = "label.yaml"
RESEARCH_LICENSE_NOTE = (
    "objectives.acoustics: openSMILE's license is for research only, and so is a model trained on "
    "its targets; `features: builtin` needs no license\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Options of `emostream label`."""

    shards: str = option(
        help="Tar shards: a glob ('s3://corpus/*.tar', 'train-{000..099}.tar'), folder or file."
    )
    out: str = option(help="Folder for the prediction tables, local or remote.")
    panel: str = option(help="YAML file that names the labelers.")
    num_labelers: int | None = option(
        default=None, help="Workers, each with the panel; without it, one a GPU or one a CPU."
    )
    address: str | None = option(
        default=None,
        help="Ray cluster to use; without it, the cluster submitted to, or else a local Ray.",
    )
    num_readers: int = option(
        default=2, help="Reader processes beside each worker; each decodes one shard ahead."
    )
    max_attempts: int = option(
        default=5, help="How often one run tries a shard before it gives the shard up."
    )

    def __post_init__(self) -> None:
        require_positive(self, "--num-labelers", "--num-readers", "--max-attempts")

    @property
    def job_options(self) -> JobOptions:
        """The options that all jobs over shards share."""
        return JobOptions(
            address=self.address,
            num_workers=self.num_labelers,
            num_readers=self.num_readers,
            max_attempts=self.max_attempts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSummary:
    """The numbers of a labeling job."""

    job: JobSummary
    num_labeled: int
    superseded_tables_removed: int
    num_other_tables: int
    panel_digest: str
    missing_emotions: dict[str, list[str]]

    def document(self) -> dict[str, Any]:
        """Return what label-summary.json holds."""
        own = asdict(self)
        return own.pop("job") | own


class LabelJob(ShardJob):
    """A job that turns every shard into a table of a panel's predictions."""

    verb, models, remedy = "label", "the panel", REMEDY

    def __init__(
        self,
        plan: ShardPlan,
        options: JobOptions,
        earlier: Sequence[str],
        panel: PanelConfig,
        identity: PanelIdentity,
    ) -> None:
        super().__init__(plan, options, earlier)
        self._panel, self._identity = panel, identity

    def worker(self) -> Any:
        """Return the remote labeler."""
        from actors.labeling.labeler_actor import remote_labeler

        return remote_labeler

    def arguments(self) -> tuple[Any, ...]:
        """Return the panel and its identity."""
        return self._panel, self._identity

    def facts_of(self, task: ShardTask) -> TableFacts:
        """Return what the footer of a prediction table says."""
        return read_info(task.table_url)


def run_label(config: LabelConfig) -> int:
    """Run `emostream label`: label, print the summary, return the exit status."""
    summary = label(config)
    lines = [*summary.job.lines("labeled", "without a full set of predictions")]
    lines += [
        f"the {name} labeler lacks {', '.join(lacking)}; `select` does not take its zeros for "
        "disagreement"
        for name, lacking in summary.missing_emotions.items()
    ]
    if summary.superseded_tables_removed:
        lines.append(
            f"removed {summary.superseded_tables_removed} tables of an older panel or of older "
            "shards"
        )
    if summary.num_other_tables:
        lines.append(
            f"beside them: {summary.num_other_tables} tables of other shards, which `select` "
            "counts too"
        )
    sys.stdout.write("\n".join([*lines, f"predictions in {config.out}\n"]))

    return summary.job.exit_status


def needs_research_license(panel: PanelConfig) -> bool:
    """Whether the panel makes targets whose use its license restricts to research."""
    acoustics = panel.objectives.acoustics
    return acoustics is not None and acoustics.needs_research_license


def label(config: LabelConfig) -> LabelSummary:
    """Label every shard that has no table yet.

    Raises ConfigError for an unusable panel, corpus, folder or cluster.
    """
    panel = PanelConfig.load(config.panel)
    if needs_research_license(panel):
        sys.stderr.write(RESEARCH_LICENSE_NOTE)

    identity = panel_identity(panel)
    files = list_files(config.shards)

    folder = Folder(url=config.out, summary_name=SUMMARY_NAME, config_name=CONFIG_NAME)
    folder.make()
    plan = make_plan(config.shards, files, config.out, identity.digest, READABLE_FORMATS)
    refuse_other_corpora(plan)
    earlier = earlier_tables(plan, identity.digest) if plan.todo else []
    job = LabelJob(plan, config.job_options, earlier, panel, identity)
    if plan.todo:
        folder.reopen()
    job.run()

    superseded = num_others = 0
    if job.is_finished:
        superseded, num_others = remove_superseded(plan)
        remove_leftovers(plan)
    summary = LabelSummary(
        job=job.account(),
        num_labeled=len(job.outcomes),
        superseded_tables_removed=superseded,
        num_other_tables=num_others,
        panel_digest=identity.digest,
        missing_emotions=_missing_emotions(plan),
    )
    folder.finish(config, summary.document())
    return summary


def _missing_emotions(plan: ShardPlan) -> dict[str, list[str]]:
    """The emotions that each labeler lacks, as the job's first table says: all say the same."""
    table = next((task.table_url for task in plan.tasks if exists(task.table_url)), None)
    labelers = {} if table is None else read_info(table).labelers
    return missing_emotions(
        {
            name: declared_emotions(labeler["emotions"])
            for name, labeler in labelers.items()
            if "emotions" in labeler
        }
    )
