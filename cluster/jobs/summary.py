"""The summary of a job over shards, which accounts for every input.

It counts the tables that exist and the shards that were given up.
"""

import concurrent.futures
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from actors.work.task import ShardOutcome, ShardTask
from cluster.exit_status import ExitStatus
from cluster.jobs.ledger import FailedShard
from cluster.jobs.plan import FOOTER_THREADS, ShardPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """The numbers of a job over shards.

    Every input is an utterance with a result, a rejected utterance with a reason, or a shard with
    an error.
    """

    num_shards: int
    num_reused: int
    unreadable: tuple[dict[str, str], ...]
    failed: tuple[dict[str, object], ...]
    num_utterances: int
    num_carried_over: int
    num_rejected: int
    rejected: dict[str, int]
    hours_of_audio: float
    seconds: float

    @property
    def exit_status(self) -> ExitStatus:
        """DONE if every shard was read to its end, else DAMAGED or UNFINISHED."""
        if self.failed:
            return ExitStatus.UNFINISHED

        return ExitStatus.DAMAGED if self.unreadable else ExitStatus.DONE

    def lines(self, done: str, lacking: str) -> Iterator[str]:
        """Yield the lines that a person reads.

        `done` is the verb for a shard (`labeled`); `lacking` describes a rejected utterance
        (`without a vector`).
        """
        new = self.num_shards - self.num_reused - len(self.failed)
        yield (
            f"{self.num_utterances} utterances ({self.hours_of_audio:.2f} h of audio) in "
            f"{self.num_shards} shards: {new} {done} now, {self.num_reused} before, "
            f"{self.seconds:.1f} s"
        )

        if self.num_carried_over:
            yield (
                f"  carried over: the results of {self.num_carried_over} utterances from earlier "
                f"tables; they were not {done} again"
            )
        yield from (
            f"  {lacking}: {number} x {code}" for code, number in sorted(self.rejected.items())
        )
        yield from (
            f"  damaged shard {shard['shard']}: {shard['error']}" for shard in self.unreadable
        )

        for failure in self.failed:
            yield (
                f"  NOT {done} {failure['name']} ({failure['attempts']} attempts): "
                f"{failure['error']}"
            )
        if self.failed:
            yield "unfinished: run the same command again; finished shards are not opened"


class TableFacts(Protocol):
    """What the footer of every kind of table says."""

    @property
    def num_rows(self) -> int:
        """The number of rows, one for each utterance."""

    @property
    def shard_error(self) -> str | None:
        """What is wrong with the shard, or None."""


def read_outcomes(
    tasks: Sequence[ShardTask],
    facts_of: Callable[[ShardTask], TableFacts],
    errors_of: Callable[[ShardTask], tuple[dict[str, int], float]],
) -> list[ShardOutcome]:
    """Return the outcomes of finished shards from their tables.

    `errors_of` gives the number of rows with each reason code, and the seconds of sound.
    """

    def read(task: ShardTask) -> ShardOutcome:
        facts = facts_of(task)
        rejected, seconds = errors_of(task)
        return ShardOutcome(
            name=task.name,
            num_utterances=facts.num_rows,
            seconds_of_audio=seconds,
            rejected=rejected,
            shard_error=facts.shard_error,
        )

    with concurrent.futures.ThreadPoolExecutor(FOOTER_THREADS) as pool:
        return list(pool.map(read, tasks))


def account(
    plan: ShardPlan,
    outcomes: Iterable[ShardOutcome],
    failed: Sequence[FailedShard],
    seconds: float,
) -> JobSummary:
    """Add up the outcomes of a plan's shards and the shards that were given up.

    `seconds` is the time that the job took.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.name)
    rejected: Counter[str] = Counter()
    for outcome in ordered:
        rejected.update(outcome.rejected)
    unreadable = [
        {"shard": outcome.name, "error": outcome.shard_error}
        for outcome in ordered
        if outcome.shard_error
    ]

    return JobSummary(
        num_shards=len(plan.tasks),
        num_reused=len(plan.reused),
        unreadable=tuple(unreadable),
        failed=tuple(asdict(failure) for failure in failed),
        num_utterances=sum(outcome.num_utterances for outcome in ordered),
        num_carried_over=sum(outcome.num_carried_over for outcome in ordered),
        num_rejected=sum(rejected.values()),
        rejected=dict(sorted(rejected.items())),
        hours_of_audio=round(sum(outcome.seconds_of_audio for outcome in ordered) / 3600, 4),
        seconds=round(seconds, 2),
    )
