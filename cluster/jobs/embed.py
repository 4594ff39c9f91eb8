"""`emostream embed`: encode every utterance on Ray, and make the table of speakers.

Writes `NAME-utterances/<shard>-<digest>.parquet` per shard and, from all of them, `NAME.parquet`. A
later run with more shards opens only the new ones; one with other labels or another split opens
none.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.embedding.config import EmbedderConfig, fingerprint
from actors.work.task import ShardTask
from cluster.jobs.job import JobOptions, ShardJob
from cluster.jobs.plan import ShardPlan, make_plan, remove_leftovers
from cluster.jobs.summary import JobSummary, TableFacts
from shards.config import ConfigError, option, require_positive
from shards.speakers.files import write_speakers
from shards.speakers.from_embeddings import (
    list_tables,
    make_speaker_table,
    remove_replaced,
    require_one_encoder,
)
from shards.speakers.labels import require_labels
from shards.speakers.table import SpeakerTable
from shards.storage.files import list_files, make_directory
from shards.storage.urls import absolute
from shards.tables.embeddings import READABLE_FORMATS, REMEDY, EmbeddingInfo

SUFFIX = ".parquet"
Tables = Mapping[str, EmbeddingInfo]  # by URL


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedConfig:
    """Options of `emostream embed`."""

    shards: str = option(
        help="Tar shards: a glob ('s3://corpus/*.tar', 'train-{000..099}.tar'), folder or file."
    )
    encoder: str = option(
        help="`spectral` (no weights), a speech encoder by hub name or folder, or what `train` "
        "exported (RUN/best)."
    )
    out: str = option(
        help="Speaker table, NAME.parquet; the vectors of the utterances are kept beside it."
    )
    revision: str | None = option(default=None, help="Full commit of a hub encoder.")
    labels: tuple[str, ...] = option(
        default=(),
        help="What to keep statistics of: `emotion`, the classes of any vocabulary in `label` or "
        "`emotion` of the json, or the names of numbers in the json (arousal,valence).",
    )
    metadata: tuple[str, ...] = option(
        default=(),
        help="Fields of the json that describe a speaker (gender,language), for filters.",
    )
    split: str | None = option(
        default=None, help="Use only utterances of this split; without it, all."
    )
    num_workers: int | None = option(
        default=None, help="Workers, each with the encoder; without it, one a GPU or one a CPU."
    )
    address: str | None = option(
        default=None,
        help="Ray cluster to use; without it, the cluster submitted to, or else a local Ray.",
    )
    num_readers: int = option(
        default=2, help="Reader processes beside each encoder; each decodes one shard ahead."
    )
    max_attempts: int = option(
        default=5, help="How often one run tries a shard before it gives the shard up."
    )

    def __post_init__(self) -> None:
        require_positive(self, "--num-workers", "--num-readers", "--max-attempts")
        if not self.out.endswith(SUFFIX) or self.out.endswith(f"/{SUFFIX}"):
            raise ConfigError(f"--out: got {self.out}, expected a file NAME{SUFFIX}")
        require_labels(self.labels)

    @property
    def job_options(self) -> JobOptions:
        """The options that all jobs over shards share."""
        return JobOptions(
            address=self.address,
            num_workers=self.num_workers,
            num_readers=self.num_readers,
            max_attempts=self.max_attempts,
        )

    @property
    def folder(self) -> str:
        """The absolute path of the folder with the vectors of the utterances."""
        return absolute(self.out.removesuffix(SUFFIX) + "-utterances")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSummary:
    """The numbers of an embedding job.

    `num_speakers` is 0 when the job is unfinished: no speaker table is written then.
    """

    job: JobSummary
    num_embedded: int
    num_tables_removed: int
    num_other_tables: int
    num_speakers: int


class EmbedJob(ShardJob):
    """A job that turns every shard into a table of its utterances' vectors."""

    verb, models, remedy = "embed", "the encoder", REMEDY

    def __init__(
        self,
        plan: ShardPlan,
        options: JobOptions,
        encoder: EmbedderConfig,
        maker: str,
        known: Tables,
    ) -> None:
        planned = {task.table_url for task in plan.tasks}
        super().__init__(plan, options, [url for url in known if url not in planned])
        self._encoder, self._maker, self._known = encoder, maker, known

    def worker(self) -> Any:
        """Return the remote embedder."""
        from actors.embedding.embedder_actor import remote_embedder

        return remote_embedder

    def arguments(self) -> tuple[Any, ...]:
        """Return the encoder, and its fingerprint as the driver knows it."""
        return self._encoder, self._maker

    def facts_of(self, task: ShardTask) -> TableFacts:
        """Return what the footer of a table said when the job began."""
        return self._known[task.table_url]


def run_embed(config: EmbedConfig) -> int:
    """Run `emostream embed`: embed, print the summary, return the exit status."""
    summary = embed(config)
    lines = [*summary.job.lines("embedded", "without a vector")]
    if summary.num_tables_removed:
        lines.append(
            f"  removed: {summary.num_tables_removed} tables of shards that have changed or moved "
            "since"
        )
    if summary.num_other_tables:
        lines.append(
            f"  counted along: {summary.num_other_tables} tables of other shards, embedded before"
        )
    if not summary.job.failed:
        lines.append(f"{summary.num_speakers} speakers in {config.out}")
    sys.stdout.write("\n".join(lines) + "\n")

    return summary.job.exit_status


def embed(config: EmbedConfig) -> EmbedSummary:
    """Embed every shard that has no table yet, then write the speaker table from all tables.

    Raises ConfigError for an unusable encoder, corpus or cluster, when shards are copies of others
    that were embedded before, and when no utterance could be embedded.
    """
    encoder = EmbedderConfig(encoder=config.encoder, revision=config.revision).anywhere()
    maker = fingerprint(encoder)
    files = list_files(config.shards)
    make_directory(config.folder)
    plan = make_plan(config.shards, files, config.folder, maker, READABLE_FORMATS)
    # Why after the plan: every table that the plan reuses must be among them.
    known = list_tables(config.folder)
    require_one_encoder(known, maker, config.folder)

    job = EmbedJob(plan, config.job_options, encoder, maker, known)
    job.run()

    removed, num_others, table = 0, 0, None
    if job.is_finished:
        tables = list_tables(config.folder)
        finished = {task.url: task.table_url for task in plan.tasks}
        replaced = remove_replaced(tables, finished)
        removed = len(replaced)
        tables = {url: info for url, info in tables.items() if url not in replaced}
        num_others = len(tables.keys() - set(finished.values()))
        remove_leftovers(plan)
        table = _write_table(config, maker, list(tables))

    return EmbedSummary(
        job=job.account(),
        num_embedded=len(job.outcomes),
        num_tables_removed=removed,
        num_other_tables=num_others,
        num_speakers=0 if table is None else len(table),
    )


def _write_table(config: EmbedConfig, maker: str, urls: list[str]) -> SpeakerTable:
    table = make_speaker_table(
        urls,
        {"encoder": config.encoder, "fingerprint": maker},
        labels=config.labels,
        metadata=config.metadata,
        split=config.split,
    )
    write_speakers(config.out, table, {"split": config.split, "num_shards": len(urls)})
    return table
