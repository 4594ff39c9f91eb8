"""The driver of a labeling job: deals shards to labelers, replaces labelers that die, and counts attempts.

It never touches a sample. A plain `ray.wait` loop costs 0.2 to 0.3 ms a shard, so nothing cleverer is needed. Ray's
own retries are off: unlimited ones would replay a shard that kills its labeler for ever, and one killed labeler
surfaces as several errors, only one of which is the shard's. Here the shard that was being labeled is charged one
attempt, the ones waiting behind it none.
"""

import collections
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.labeler_actor import remote_labeler
from actors.panel_config import PanelConfig, PanelIdentity
from actors.shard_labeling import ShardOutcome, ShardTask
from cluster.placement import LabelerPlacement
from shards.config import ConfigError

log = logging.getLogger(__name__)

PLACEMENT_TIMEOUT_SECONDS = 120.0
SETUP_TIMEOUT_SECONDS = 1800.0  # a panel's weights may have to be downloaded first
STARTS_PER_LABELER = 8  # labelers lost in a row on one placement, without a finished shard, before it is given up
POLL_SECONDS = 0.5
REPORT_INTERVAL_SECONDS = 1.0

# on_progress(finished shards, utterances labeled, unfinished shards included)
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FailedShard:
    """A shard given up in this run, and why; the next run tries it again."""

    name: str
    attempts: int
    error: str


@dataclass(slots=True)
class _Labeler:
    """One placement and the actor that lives in it now."""

    placement: LabelerPlacement
    group: Any
    handle: Any = None
    setup: Any = None  # reference to the running set-up, None once it is done
    setup_deadline: float = 0.0
    queue: "collections.OrderedDict[Any, ShardTask]" = field(default_factory=collections.OrderedDict)
    lost_in_a_row: int = 0
    num_labeled: int = 0


@dataclass(slots=True, kw_only=True)
class LabelRun:
    """One run over `todo`; `run` returns when every shard is labeled or given up."""

    config: PanelConfig
    identity: PanelIdentity
    num_readers: int
    max_attempts: int
    on_progress: OnProgress
    outcomes: list[ShardOutcome] = field(default_factory=list)
    failed: list[FailedShard] = field(default_factory=list)
    _waiting: "collections.deque[ShardTask]" = field(default_factory=collections.deque)
    _attempts: "collections.Counter[str]" = field(default_factory=collections.Counter)
    _labelers: list[_Labeler] = field(default_factory=list)
    _retired_labeled: int = 0
    _reported_at: float = 0.0

    def run(self, todo: Sequence[ShardTask], placements: Sequence[LabelerPlacement]) -> None:
        """Label `todo`. Raises ConfigError when the panel cannot be loaded or the cluster has no room."""
        self._waiting.extend(todo)
        try:
            for placement in placements[: len(todo)]:
                self._labelers.append(_Labeler(placement, _reserve(placement)))
            while self._labelers and (self._waiting or any(labeler.queue for labeler in self._labelers)):
                self._deal()
                self._collect()
                self._report()
            self._give_up_rest()
            self.on_progress(len(self.outcomes), sum(outcome.num_utterances for outcome in self.outcomes))
        finally:
            self._close()

    def _deal(self) -> None:
        """Give every labeler a shard to label and, while there are enough, the next ones to read ahead."""
        for labeler in self._labelers:
            if labeler.handle is None:
                self._start(labeler)
        for depth in range(1, self.num_readers + 1):
            for labeler in self._labelers:
                if labeler.setup is None and len(labeler.queue) < depth and self._waiting:
                    task = self._waiting.popleft()
                    labeler.handle.prepare.remote(task)
                    labeler.queue[labeler.handle.label.remote(task)] = task

    def _start(self, labeler: _Labeler) -> None:
        strategy = PlacementGroupSchedulingStrategy(placement_group=labeler.group, placement_group_bundle_index=0)
        bundle = labeler.placement.bundles[0]
        labeler.handle = remote_labeler.options(
            num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), scheduling_strategy=strategy
        ).remote(self.config, self.identity, labeler.placement.num_threads, self.num_readers)
        labeler.setup = labeler.handle.setup.remote()
        labeler.setup_deadline = time.monotonic() + SETUP_TIMEOUT_SECONDS

    def _collect(self) -> None:
        owners = {ref: labeler for labeler in self._labelers for ref in [labeler.setup, *labeler.queue] if ref}
        ready, _ = ray.wait(list(owners), num_returns=1, timeout=POLL_SECONDS)
        for ref in ready:
            labeler = owners[ref]
            if ref is labeler.setup:
                self._finish_setup(labeler)
            else:
                self._finish_shard(labeler, ref)
        for labeler in self._labelers:
            if labeler.setup is not None and time.monotonic() > labeler.setup_deadline:
                raise ConfigError(f"a panel was not loaded within {SETUP_TIMEOUT_SECONDS:.0f} s; check its checkpoints")

    def _finish_setup(self, labeler: _Labeler) -> None:
        try:
            loaded = ray.get(labeler.setup)
        except RayTaskError as error:
            raise ConfigError(f"the panel cannot be loaded: {error.cause!r}") from error
        except RayActorError as lost:
            self._replace(labeler, lost)
            return
        labeler.setup = None
        log.info("labeler %s is ready", loaded["pid"])

    def _finish_shard(self, labeler: _Labeler, ref: Any) -> None:
        try:
            outcome = ray.get(ref)
        except RayActorError as lost:
            self._replace(labeler, lost)
            return
        except RayTaskError as error:
            self._charge(labeler.queue.pop(ref), repr(error.cause))
            return
        labeler.queue.pop(ref)
        labeler.lost_in_a_row = 0
        self.outcomes.append(outcome)

    def _replace(self, labeler: _Labeler, lost: Exception) -> None:
        """Take back a dead labeler's shards: the one in hand is charged an attempt, those behind it are not."""
        log.warning("a labeler was lost (%s); starting another", type(lost).__name__)
        tasks = list(labeler.queue.values())
        labeler.queue.clear()
        self._waiting.extendleft(reversed(tasks[1:]))
        if tasks:
            self._charge(tasks[0], f"the labeler died while labeling it: {str(lost).splitlines()[0]}")
        self._retired_labeled += labeler.num_labeled
        labeler.num_labeled = 0
        ray.kill(labeler.handle)
        labeler.handle = labeler.setup = None
        labeler.lost_in_a_row += 1
        if labeler.lost_in_a_row >= STARTS_PER_LABELER:
            log.error("%d labelers in a row were lost on one place of the cluster; giving it up", STARTS_PER_LABELER)
            remove_placement_group(labeler.group)
            self._labelers.remove(labeler)

    def _charge(self, task: ShardTask, error: str) -> None:
        self._attempts[task.url] += 1
        if self._attempts[task.url] < self.max_attempts:
            log.warning("%s: attempt %d failed: %s", task.name, self._attempts[task.url], error)
            self._waiting.appendleft(task)
            return
        log.error("%s: given up after %d attempts: %s", task.name, self._attempts[task.url], error)
        self.failed.append(FailedShard(task.name, self._attempts[task.url], error))

    def _give_up_rest(self) -> None:
        for task in self._waiting:
            self.failed.append(FailedShard(task.name, self._attempts[task.url], "no labeler was left to label it"))
        self._waiting.clear()

    def _report(self) -> None:
        if time.monotonic() - self._reported_at < REPORT_INTERVAL_SECONDS:
            return
        self._reported_at = time.monotonic()
        asked = [labeler for labeler in self._labelers if labeler.setup is None and labeler.handle is not None]
        for labeler in asked:
            with contextlib.suppress(RayActorError, GetTimeoutError):  # a lost one shows up in the next round
                labeler.num_labeled = ray.get(labeler.handle.progress.remote(), timeout=POLL_SECONDS)
        labeled = self._retired_labeled + sum(labeler.num_labeled for labeler in self._labelers)
        self.on_progress(len(self.outcomes), labeled)

    def _close(self) -> None:
        for labeler in self._labelers:
            if labeler.handle is not None:
                ray.kill(labeler.handle)
            remove_placement_group(labeler.group)


def _reserve(placement: LabelerPlacement) -> Any:
    """A place on one node for a labeler and its readers; ConfigError when there is none within the limit."""
    group = placement_group(list(placement.bundles), strategy="STRICT_PACK")
    if group.wait(PLACEMENT_TIMEOUT_SECONDS):
        return group
    remove_placement_group(group)
    raise ConfigError(
        f"the cluster has no room for a labeler with {placement.bundles} within {PLACEMENT_TIMEOUT_SECONDS:.0f} s: "
        "wait for the jobs that hold its resources, or ask for fewer with --num-labelers"
    )
