"""`emostream predict --shards`: a table of predictions for every shard, exactly once, on Ray.

Writes `FOLDER/<shard>-<digest>.parquet` per shard, then `FOLDER/predict.yaml` (the options) and
`FOLDER/predict-summary.json`. The folder is --out; for a file --out it lies beside it, and the
tables are joined to the file when all of them are there. Each shard is recognized by itself, so a
personalized model hears a speaker who lies in several shards in each of them separately: the
answers are the same on one worker or many. Grouping speakers over all shards lost: no table could
be made before all shards are read, and one new shard would change every table.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from actors.inference.checkpoints import CheckpointConfig, identify
from actors.predicting.config import PredictConfig
from actors.predicting.identity import maker_of
from actors.predicting.outcome import outcome_of
from actors.reading.reader import Needs
from actors.work.task import ShardOutcome, ShardTask, require_writable
from cluster.exit_status import ExitStatus
from cluster.jobs.job import JobOptions, ShardJob
from cluster.jobs.plan import (
    FOOTER_THREADS,
    ShardPlan,
    make_plan,
    refuse_other_corpora,
    remove_leftovers,
    remove_superseded,
)
from cluster.jobs.predict_calibration import TableCalibration, labeled_speakers
from cluster.jobs.summary import JobSummary
from shards.config_values import to_mapping
from shards.speakers.table import SpeakerTable
from shards.storage.files import list_files, make_directory
from shards.storage.folder import Folder
from shards.storage.urls import local_path
from shards.tables.recordings import (
    READABLE_FORMATS,
    REMEDY,
    RecordingsInfo,
    about_file,
    read_recordings,
    read_recordings_info,
)
from shards.tables.row_files import row_file

CONFIG_NAME, SUMMARY_NAME = "predict.yaml", "predict-summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictSummary:
    """The numbers of a job that recognizes shards.

    `num_divided_speakers` counts, for a personalized recognizer, the speakers in several shards.
    """

    job: JobSummary
    num_predicted: int
    superseded_tables_removed: int
    num_other_tables: int
    num_divided_speakers: int
    maker: str

    def document(self) -> dict[str, Any]:
        """Return what predict-summary.json holds."""
        own = asdict(self)
        return own.pop("job") | own


class PredictJob(ShardJob):
    """A job that turns every shard into a table of predictions."""

    verb, models, remedy = "predict", "the model", REMEDY

    def __init__(self, plan: ShardPlan, config: PredictConfig, maker: str, needs: Needs) -> None:
        options = JobOptions(
            address=config.address,
            num_workers=config.num_workers,
            num_readers=config.num_readers,
            max_attempts=config.max_attempts,
        )
        super().__init__(plan, options)
        self._config, self._maker, self._needs = config, maker, needs

    def worker(self) -> Any:
        """Return the remote predictor."""
        from actors.predicting.predictor_actor import remote_predictor

        return remote_predictor

    def arguments(self) -> tuple[Any, ...]:
        """Return the options, what makes a table as the driver knows it, and what to decode."""
        return self._config, self._maker, self._needs

    def facts_of(self, task: ShardTask) -> RecordingsInfo:
        """Return what the footer of a table says."""
        return read_recordings_info(task.table_url)

    def outcomes_before(self) -> list[ShardOutcome]:
        """Return the outcomes of finished shards; a footer holds all that they say."""
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            return list(map(outcome_of, pool.map(self.facts_of, self.plan.reused)))


def run_predict_shards(config: PredictConfig) -> int:
    """Run `emostream predict --shards`: predict, print the summary, return the exit status."""
    summary = predict_shards(config)
    lines = [*summary.job.lines("recognized", "without a prediction")]
    if summary.superseded_tables_removed:
        lines.append(
            f"removed {summary.superseded_tables_removed} tables of another checkpoint, of other "
            "options or of older shards"
        )
    if summary.num_other_tables:
        lines.append(f"beside them: {summary.num_other_tables} tables of other shards")
    if summary.num_divided_speakers:
        lines.append(
            f"speakers in several shards: {summary.num_divided_speakers}, each heard shard by "
            "shard; `emostream pack` puts a speaker's utterances together"
        )
    if not summary.job.failed:
        lines.append(f"predictions in {config.out}")
    sys.stdout.write("\n".join(lines) + "\n")

    status = summary.job.exit_status
    return ExitStatus.DAMAGED if status == ExitStatus.DONE and summary.job.num_rejected else status


def predict_shards(config: PredictConfig) -> PredictSummary:
    """Recognize every shard that has no table yet, then write the file --out, if it is one.

    Raises ConfigError for an unusable checkpoint, corpus, folder, speaker table or cluster.
    """
    assert config.shards is not None  # noqa: S101 (the caller has checked it)
    files, maker = list_files(config.shards), maker_of(config)
    config = replace(config, checkpoint=local_path(config.checkpoint))
    neighbors, needs = _checked(config)

    folder = Folder(url=config.folder, summary_name=SUMMARY_NAME, config_name=CONFIG_NAME)
    folder.make()
    plan = make_plan(str(config.shards), files, config.folder, maker, READABLE_FORMATS)
    refuse_other_corpora(plan, read_recordings_info)
    job = PredictJob(plan, config, maker, needs)
    if plan.todo:
        folder.reopen()
    job.run()

    superseded = num_others = num_divided = 0
    if job.is_finished:
        superseded, num_others = remove_superseded(plan, read_recordings_info, REMEDY)
        remove_leftovers(plan)
        num_divided = _count_divided_speakers(plan)
        if not config.out_is_folder:
            _join(config, plan, neighbors)
    summary = PredictSummary(
        job=job.account(),
        num_predicted=len(job.outcomes),
        superseded_tables_removed=superseded,
        num_other_tables=num_others,
        num_divided_speakers=num_divided,
        maker=maker,
    )
    folder.finish(config, summary.document())
    return summary


def _checked(config: PredictConfig) -> tuple[SpeakerTable | None, Needs]:
    """The speakers to calibrate by, if any, and what to decode of samples.

    Raises ConfigError before any cluster is started.
    """
    from actors.predicting.needs import needs_of, require_usable
    from actors.predicting.recognizers import PieceRecognizer

    recognizer = PieceRecognizer(config.checkpoint)
    require_usable(config, recognizer)
    if not config.out_is_folder:
        make_directory(config.out.rpartition("/")[0] or ".")
        require_writable(config.out.rpartition("/")[0] or ".")
    names = recognizer.names
    speakers = None if config.speakers is None else labeled_speakers(config, names)
    return speakers, needs_of(recognizer)


def _count_divided_speakers(plan: ShardPlan) -> int:
    """How many speakers of a personalized recognizer are in several shards."""
    counts: Counter[str] = Counter()
    for task in plan.tasks:
        if read_recordings_info(task.table_url).personalization == "none":
            return 0
        speakers = read_recordings(task.table_url, ["speaker"])["speaker"].unique()
        counts.update(speaker for speaker in speakers.to_pylist() if speaker is not None)

    return sum(count > 1 for count in counts.values())


def _join(config: PredictConfig, plan: ShardPlan, neighbors: SpeakerTable | None) -> None:
    """Write the rows of all tables to the file --out, one table in memory at a time."""
    urls = [task.table_url for task in plan.tasks]
    calibration = None if neighbors is None else TableCalibration(config, neighbors)
    if calibration is not None:
        for url in urls:
            calibration.hear(read_recordings(url))

    checkpoint = identify(CheckpointConfig(checkpoint=config.checkpoint))
    footer = about_file({"options": to_mapping(config), **checkpoint})
    rows = _rows(urls, calibration)
    first = next(rows)
    with row_file(config.out, first.schema, footer) as write:
        write(first)
        for table in rows:
            write(table)


def _rows(urls: list[str], calibration: TableCalibration | None) -> Iterator[pa.Table]:
    for url in urls:
        table = read_recordings(url)
        yield table if calibration is None else calibration.calibrate(table)
