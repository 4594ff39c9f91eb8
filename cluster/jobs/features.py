"""`emostream features`: the frames of a frozen encoder for every utterance, exactly once, on Ray.

Writes `OUT/<shard>-<digest>.safetensors` per shard, then `OUT/features.yaml` (the options) and
`OUT/features-summary.json`. A file is named by its shard, the encoder's weights and the layers, so
a later run opens only shards that are new or have changed. Frames are not carried over from one
file to another, as vectors and labels are: copying them costs as much as the files are large.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from actors.embedding.config import SPECTRAL, EmbedderConfig
from actors.features.config import LayerChoice, features_fingerprint
from actors.work.task import ShardTask
from cluster.jobs.job import JobOptions, ShardJob
from cluster.jobs.plan import ShardPlan, make_plan, remove_leftovers
from cluster.jobs.summary import JobSummary, TableFacts
from shards.config import ConfigError, option, require_positive
from shards.storage.files import list_files, remove
from shards.storage.folder import Folder
from shards.storage.urls import absolute
from shards.tables.feature_store import list_features
from shards.tables.features import (
    READABLE_FORMATS,
    REMEDY,
    SUFFIX,
    SUMMARY_NAME,
    FeatureHeader,
)

CONFIG_NAME = "features.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesConfig:
    """Options of `emostream features`."""

    shards: str = option(
        help="Tar shards: a glob ('s3://corpus/*.tar', 'train-{000..099}.tar'), folder or file."
    )
    encoder: str = option(
        help="A speech encoder by hub name or folder, what `train` exported (RUN/best), or "
        "`spectral` (mel cepstra, which need no weights)."
    )
    out: str = option(help="Folder for the feature files, local or remote.")
    layers: str = option(
        default="last",
        help="Layers to keep. last: the encoder's output; last4: its last four layers; all: every "
        "layer; or numbers, such as 0,6,12, where 0 is what enters the first layer.",
    )
    tokens: bool = option(
        default=False,
        help="Keep the encoder's extra tokens too, whose mean says what an utterance as a whole is "
        "like. Encoders of `train emotion2vec` have them.",
    )
    revision: str | None = option(default=None, help="Full commit of a hub encoder.")
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
        LayerChoice(text=self.layers)
        if self.tokens and self.encoder == SPECTRAL:
            raise ConfigError("--tokens: spectral features have none; leave --tokens out")

    @property
    def job_options(self) -> JobOptions:
        """The options that all jobs over shards share."""
        return JobOptions(
            address=self.address,
            num_workers=self.num_workers,
            num_readers=self.num_readers,
            max_attempts=self.max_attempts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesSummary:
    """The numbers of a job for features."""

    job: JobSummary
    fingerprint: str
    num_made: int
    num_removed: int
    num_other_files: int

    def document(self) -> dict[str, Any]:
        """Return what features-summary.json holds."""
        own = asdict(self)
        return own.pop("job") | own


class FeaturesJob(ShardJob):
    """A job that turns every shard into a file of its utterances' frames."""

    verb, models, remedy = "features", "the encoder", REMEDY

    def __init__(
        self,
        plan: ShardPlan,
        options: JobOptions,
        encoder: EmbedderConfig,
        layers: LayerChoice,
        maker: str,
        known: Mapping[str, FeatureHeader],
    ) -> None:
        super().__init__(plan, options)
        self._encoder, self._layers, self._maker = encoder, layers, maker
        self._known = known

    def worker(self) -> Any:
        """Return the remote extractor."""
        from actors.features.extractor_actor import remote_extractor

        return remote_extractor

    def arguments(self) -> tuple[Any, ...]:
        """Return the encoder, its layers, and the fingerprint of both as the driver knows it."""
        return self._encoder, self._layers, self._maker

    def facts_of(self, task: ShardTask) -> TableFacts:
        """Return what the header of a file says."""
        return self._known[task.table_url].info

    def errors_of(self, task: ShardTask) -> tuple[dict[str, int], float]:
        """Return what a finished file counts: utterances by reason code, and seconds of sound."""
        return self._known[task.table_url].count_errors()


def run_features(config: FeaturesConfig) -> int:
    """Run `emostream features`: make features, print the summary, return the exit status."""
    summary = make_features(config)
    lines = [*summary.job.lines("done", "without features")]
    if summary.num_removed:
        lines.append(f"  removed: {summary.num_removed} files of shards that have changed since")
    if summary.num_other_files:
        lines.append(f"  beside them: {summary.num_other_files} files of other shards")
    sys.stdout.write("\n".join([*lines, f"features in {config.out}\n"]))

    return summary.job.exit_status


def make_features(config: FeaturesConfig) -> FeaturesSummary:
    """Make the features of every shard that has none yet.

    Raises ConfigError for an unusable encoder, corpus or cluster, and for a folder with features of
    another encoder or of other layers.
    """
    encoder = EmbedderConfig(encoder=config.encoder, revision=config.revision).anywhere()
    layers = LayerChoice(text=config.layers, tokens=config.tokens)
    maker = features_fingerprint(encoder, layers)
    files = list_files(config.shards)

    out = absolute(config.out)
    folder = Folder(url=out, summary_name=SUMMARY_NAME, config_name=CONFIG_NAME)
    folder.make()
    plan = make_plan(config.shards, files, out, maker, READABLE_FORMATS, SUFFIX)
    # Why after the plan: every file that the plan reuses must be among them.
    known = list_features(out)
    _require_one_maker(known, maker, out)

    job = FeaturesJob(plan, config.job_options, encoder, layers, maker, known)
    if plan.todo:
        folder.reopen()
    job.run()

    removed = _remove_changed(plan) if job.is_finished else 0
    if job.is_finished:
        remove_leftovers(plan)
    summary = FeaturesSummary(
        job=job.account(),
        fingerprint=maker,
        num_made=len(job.outcomes),
        num_removed=removed,
        num_other_files=len(list_features(out).keys() - {task.table_url for task in plan.tasks}),
    )
    folder.finish(config, summary.document())
    return summary


def _require_one_maker(known: Mapping[str, FeatureHeader], maker: str, folder: str) -> None:
    for header in known.values():
        info = header.info
        if info.fingerprint != maker:
            raise ConfigError(
                f"--out {folder}: holds features of {info.encoder}, layers "
                f"{', '.join(map(str, info.layers))}, {info.num_tokens} tokens: another encoder or "
                "version of it, other layers, or with --tokens and without; give another --out, or "
                "remove the folder"
            )


def _remove_changed(plan: ShardPlan) -> int:
    """Remove the files of former versions of the plan's shards, and return their number."""
    shards, now = {task.url for task in plan.tasks}, {task.table_url for task in plan.tasks}
    changed = [
        url
        for url, header in list_features(plan.out).items()
        if header.info.shard_url in shards and url not in now
    ]

    for url in changed:
        remove(url)
    return len(changed)
