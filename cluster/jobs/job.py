"""A job over shards: what each shard becomes, which workers do it, and a count of every input."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from actors.work.task import ShardOutcome, ShardTask
from cluster.jobs.ledger import FailedShard
from cluster.jobs.plan import ShardPlan
from cluster.jobs.summary import JobSummary, TableFacts, account, read_outcomes
from cluster.progress import progress
from shards.storage.names import list_names
from shards.storage.parquet import count_errors
from shards.tables.earlier import index_results


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Where a job runs and how hard it tries: the options that all jobs over shards share."""

    address: str | None  # of a Ray cluster
    num_workers: int | None  # None: one a GPU, or one a CPU
    num_readers: int  # processes beside each worker
    max_attempts: int  # for each shard


class ShardJob(ABC):
    """A job over the shards of a plan: call `run`, then `account`.

    A subclass says who does the work, and what the footers of finished tables tell. `earlier` are
    the URLs of tables of the same maker that the plan does not name: their results are taken over.
    """

    verb: ClassVar[str]  # for the progress bar
    models: ClassVar[str]  # what its workers load, for people
    remedy: ClassVar[str]  # for a damaged table

    def __init__(self, plan: ShardPlan, options: JobOptions, earlier: Sequence[str] = ()) -> None:
        self.plan = plan
        self._earlier_tables = earlier
        self.outcomes: list[ShardOutcome] = []
        self.failed: list[FailedShard] = []
        self._options = options
        self._started = time.monotonic()

    @abstractmethod
    def worker(self) -> Any:
        """Return the remote `ShardWorker`; only here is Ray imported, when there is work to do."""

    @abstractmethod
    def arguments(self) -> tuple[Any, ...]:
        """Return what a worker's constructor takes before the earlier results."""

    @abstractmethod
    def facts_of(self, task: ShardTask) -> TableFacts:
        """Return what the footer of a finished table says."""

    def errors_of(self, task: ShardTask) -> tuple[dict[str, int], float]:
        """Return what a finished table counts: rows by reason code, and the seconds of sound."""
        return count_errors(task.table_url, remedy=self.remedy)

    @property
    def is_finished(self) -> bool:
        """Whether every shard has its table; False before `run`, if the plan leaves work to do."""
        return not self.failed and len(self.outcomes) == len(self.plan.todo)

    def run(self) -> None:
        """Make the tables that do not exist yet.

        Raises ConfigError as `ShardRun` does.
        """
        if not self.plan.todo:
            return

        import ray

        from actors.work.worker_actor import SharedResults
        from cluster.jobs.run import ShardRun
        from cluster.nodes.session import ray_session

        found = index_results(self._earlier_tables)
        with ray_session(self._options.address), progress(self.verb, "shards") as update:
            earlier = None if found is None else SharedResults(ray.put(found))
            run = ShardRun(
                actor=self.worker(),
                arguments=(*self.arguments(), earlier),
                what=self.models,
                out=self.plan.out,
                wanted=self._options.num_workers,
                num_readers=self._options.num_readers,
                max_attempts=self._options.max_attempts,
                on_progress=update,
            )
            run.run(self.plan.todo)
        self.outcomes, self.failed = confirmed(self.plan, run.outcomes, run.failed)

    def outcomes_before(self) -> list[ShardOutcome]:
        """Return the outcomes of the shards that earlier runs have finished, from their tables."""
        return read_outcomes(self.plan.reused, self.facts_of, self.errors_of)

    def account(self) -> JobSummary:
        """Return the summary of the job, shards of earlier runs included."""
        return account(
            self.plan,
            [*self.outcomes, *self.outcomes_before()],
            self.failed,
            time.monotonic() - self._started,
        )


def confirmed(
    plan: ShardPlan, outcomes: Sequence[ShardOutcome], failed: Sequence[FailedShard]
) -> tuple[list[ShardOutcome], list[FailedShard]]:
    """Divide the outcomes by a listing of the folder: without its table, a shard has failed."""
    there = set(list_names(plan.out))
    table_of = {task.name: task.table_url.rpartition("/")[2] for task in plan.todo}
    found = [outcome for outcome in outcomes if table_of[outcome.name] in there]

    lost = [
        FailedShard(outcome.name, 1, f"its table was written, but is not in {plan.out}")
        for outcome in outcomes
        if table_of[outcome.name] not in there
    ]
    return found, [*failed, *lost]
