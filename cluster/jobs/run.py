"""The driver of a job over shards: it deals out shards, follows the nodes, and counts attempts.

It never touches a sample. A plain `ray.wait` loop costs 0.2 to 0.3 ms a shard, so nothing cleverer
is needed. Ray's own retries are off: without a limit they would repeat for ever a shard that kills
its worker, and one killed worker gives several errors, only one of which concerns the shard in
hand. Here the shard that was in hand is charged one attempt, and the shards that wait behind it
none. The ledger decides when and where a shard is tried again, and a place that fails on one shard
after another is taken to be the trouble itself.

Work begins at the first place that has room. Others join as room is found, and so do nodes that are
added later; a lost node takes its places with it and no more.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.work.errors import UnusableModelsError, UnwritableFolderError
from actors.work.task import WITNESS, ShardOutcome, ShardTask
from cluster.jobs.ledger import FailedShard, ShardLedger
from cluster.jobs.places import (
    ROOM_SECONDS,
    SETUP_SECONDS,
    Place,
    ask_progress,
    fits_into,
    is_innocent,
    missing_places,
    open_place,
)
from cluster.nodes.placement import place_workers
from cluster.nodes.session import live_nodes
from shards.config import ConfigError
from shards.progress import OnProgress
from shards.storage.files import atomic_write, join, remove, temporary_name

log = logging.getLogger(__name__)

PLACEMENT_TIMEOUT_SECONDS = 120.0  # until a first worker has room, or until a lost one is replaced
NODES_INTERVAL_SECONDS = 10.0
STATES_INTERVAL_SECONDS = 2.0
POLL_SECONDS = 0.5
REPORT_INTERVAL_SECONDS = 1.0


@dataclass(slots=True, kw_only=True)
class ShardRun:
    """One run over `todo`; `run` returns when every shard is done or given up.

    `actor` is a remote `ShardWorker`, and `arguments` is what its constructor takes before its
    threads and readers. `what` names the models in messages. `out` is the folder of the tables;
    every worker must be able to write it. `wanted` is the number of workers, None for as many as
    the nodes take.
    """

    actor: Any
    arguments: tuple[Any, ...]
    what: str
    out: str
    wanted: int | None
    num_readers: int
    max_attempts: int
    on_progress: OnProgress
    outcomes: list[ShardOutcome] = field(default_factory=list)
    failed: list[FailedShard] = field(default_factory=list)
    _ledger: ShardLedger = field(default_factory=lambda: ShardLedger((), 1))
    _places: list[Place] = field(default_factory=list)
    _witness: str = ""
    _was_ready: bool = False  # some worker was, so that the models can be loaded
    _last_trouble: str = ""
    _last_room_at: float = 0.0
    _retired_utterances: int = 0
    _nodes_asked_at: float = 0.0
    _states_asked_at: float = 0.0
    _reported_at: float = 0.0
    _started_at: float = 0.0
    _num_shards: int = 0

    def run(self, todo: Sequence[ShardTask]) -> None:
        """Make the tables of `todo`.

        Raises ConfigError when the models cannot be loaded or the cluster has no room.
        """
        self._ledger = ShardLedger(todo, self.max_attempts)
        self._num_shards = len(todo)
        self._started_at = self._last_room_at = time.monotonic()

        self._write_witness()
        try:
            self._open_first()
            while self._has_work() and self._has_hope():
                self._follow_nodes()
                self._follow_states()
                self._deal()
                self._collect()
                self._report()

            self._ledger.give_up_rest(self._why_no_worker())
            self.failed = self._ledger.failed
            self._tell(sum(outcome.num_utterances for outcome in self.outcomes))
        finally:
            self._close()

    def _has_work(self) -> bool:
        return not self._ledger.is_empty or any(place.queue for place in self._places)

    def _has_hope(self) -> bool:
        """Whether a worker is there, or may still come."""
        if any(place.has_room and not place.is_given_up for place in self._places):
            return True
        is_waiting = len(self._places) == 0 or any(not place.has_room for place in self._places)
        return is_waiting and time.monotonic() - self._last_room_at < PLACEMENT_TIMEOUT_SECONDS

    def _why_no_worker(self) -> str:
        trouble = f" (a worker: {self._last_trouble})" if self._last_trouble else ""
        return f"no worker was left for it{trouble}"

    def _open_first(self) -> None:
        """Ask for a place for each worker, and wait until one of them has room."""
        placements = place_workers(live_nodes(), self.wanted)[: self._num_shards]
        self._places = [open_place(placement) for placement in placements]
        self._nodes_asked_at = deadline = time.monotonic()

        deadline += PLACEMENT_TIMEOUT_SECONDS
        while not any(place.has_room for place in self._places):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the cluster has no room for a worker with {placements[0].bundles} within "
                    f"{PLACEMENT_TIMEOUT_SECONDS:.0f} s: wait for the jobs that hold its "
                    "resources, or ask for fewer workers"
                )
            time.sleep(0.05)
            for place in self._places:
                place.is_lost()

    def _follow_nodes(self) -> None:
        """Open places on nodes that have come, or where there was no room before."""
        now = time.monotonic()
        if now - self._nodes_asked_at < NODES_INTERVAL_SECONDS:
            return

        self._nodes_asked_at = now
        nodes = live_nodes()
        wanted = place_workers(nodes, self.wanted, or_fewer=True)
        num_left = self._num_shards - len(self.outcomes)
        missing = missing_places(self._places, wanted, num_left)

        available = ray.available_resources() if missing else {}
        for placement in missing:
            if fits_into(placement, available):
                self._places.append(open_place(placement))

    def _follow_states(self) -> None:
        """Drop the places whose node is lost, and those that find no room."""
        now = time.monotonic()
        if now - self._states_asked_at < STATES_INTERVAL_SECONDS:
            return

        self._states_asked_at = now
        for place in [place for place in self._places if not place.is_working]:
            if place.is_given_up:
                continue
            if place.is_lost():
                self._drop(place, "its node is lost")
            elif not place.has_room and now - place.opened_at > ROOM_SECONDS:
                self._drop(place, "the cluster has no room for it now")
        if any(place.has_room for place in self._places):
            self._last_room_at = now

    def _drop(self, place: Place, why: str) -> None:
        log.warning("a worker on %s is given up: %s", place.name, why)
        self._take_back(place)
        place.close()
        self._places.remove(place)

    def _deal(self) -> None:
        """Give every worker a shard and, while there are enough, the next ones to read ahead."""
        now = time.monotonic()
        for place in self._places:
            if place.wants_worker(now):
                place.start(self.actor, self.arguments, self.num_readers)
                place.setup = place.handle.setup.remote(self.out, self._witness)
                place.setup_deadline = now + SETUP_SECONDS

        working = [place for place in self._places if place.is_working]
        nodes = {place.node for place in working}
        # Why by depth: every worker gets its first shard before any gets its second.
        for depth in range(1, self.num_readers + 1):
            for place in working:
                # A worker that has rested is given one shard, to see whether it can work again.
                if len(place.queue) < (1 if place.num_rests else depth):
                    self._hand(place, nodes)

    def _hand(self, place: Place, nodes: set[str]) -> None:
        task = self._ledger.take(place.node, nodes, fresh_first=place.num_rests > 0)
        if task is not None:
            place.handle.prepare.remote(task)
            place.queue[place.handle.work.remote(task)] = task

    def _collect(self) -> None:
        owners = {
            ref: place for place in self._places for ref in [place.setup, *place.queue] if ref
        }
        if not owners:
            time.sleep(POLL_SECONDS)
            return

        ready, _ = ray.wait(list(owners), num_returns=1, timeout=POLL_SECONDS)
        for ref in ready:
            place = owners[ref]
            if ref == place.setup:  # equal, not the same: Ray Client returns copies
                self._finish_setup(place)
            else:
                self._finish_shard(place, ref)

        for place in self._places:
            if place.setup is not None and time.monotonic() > place.setup_deadline:
                self._setup_failed(
                    place,
                    f"{self.what} was not loaded within {SETUP_SECONDS:.0f} s; check its "
                    "checkpoints",
                )

    def _finish_setup(self, place: Place) -> None:
        try:
            place.home = ray.get(place.setup)
        except RayTaskError as error:
            is_folder = isinstance(error.cause, UnwritableFolderError)
            cannot = "" if is_folder else f"{self.what} cannot be loaded: "
            self._setup_failed(place, f"{cannot}{_reason(error)}", error)
            return
        except RayActorError as lost:
            self._lose(place, lost)
            return

        place.setup = None
        self._was_ready = True
        log.info("worker %s on %s is ready", place.home.pid, place.name)

    def _setup_failed(self, place: Place, why: str, error: Exception | None = None) -> None:
        """End the run if no worker could be set up so far; otherwise it is this place's trouble."""
        if not self._was_ready:
            raise ConfigError(why) from error
        self._rest(place, why)

    def _finish_shard(self, place: Place, ref: Any) -> None:
        try:
            outcome = ray.get(ref)
        except RayActorError as lost:
            self._lose(place, lost)
            return
        except RayTaskError as error:
            if isinstance(error.cause, UnusableModelsError) and not self.outcomes:
                raise ConfigError(f"{self.what} cannot be loaded: {_reason(error)}") from error
            task = place.queue.pop(ref)
            self._charge(place, task, _reason(error))
            if place.failed_on(task):
                self._rest(place, _reason(error))
            return

        place.queue.pop(ref)
        place.finished_one()
        self.outcomes.append(outcome)

    def _lose(self, place: Place, lost: RayActorError) -> None:
        """Take back the shards of a dead worker.

        The shard in hand is charged an attempt, unless the worker died with its node; those that
        waited behind it are not.
        """
        log.warning("a worker was lost on %s (%s)", place.name, type(lost).__name__)
        error = f"the worker died while it worked on this shard: {str(lost).splitlines()[0]}"
        tasks = list(place.queue.values())
        place.queue.clear()
        self._ledger.give_back(tasks[1:])
        self._retire(place)
        place.send_away()

        if is_innocent(lost) or place.is_lost():
            if tasks:
                self._ledger.excuse(tasks[0], error)
            return

        if tasks:
            self._charge(place, tasks[0], error)
        if place.failed_on(tasks[0] if tasks else None):
            self._rest(place, error if tasks else str(lost).splitlines()[0])

    def _charge(self, place: Place, task: ShardTask, error: str) -> None:
        is_tried_again = self._ledger.charge(task, place.node, error)
        number = self._ledger.attempts(task)
        if is_tried_again:
            log.warning("%s: attempt %d failed on %s: %s", task.name, number, place.name, error)
        else:
            log.error("%s: given up after %d attempts: %s", task.name, number, error)

    def _rest(self, place: Place, why: str) -> None:
        """Send a worker that cannot work away for a while, and clear the shards it failed on."""
        self._last_trouble = f"{place.name}: {why}"
        self._take_back(place)
        self._ledger.pardon(place.rest(time.monotonic()))

        seconds = place.rests_until - time.monotonic()
        until = "it is given up" if place.is_given_up else f"it is tried again in {seconds:.0f} s"
        log.error("%s fails on one shard after another, %s: %s", place.name, until, why)

    def _take_back(self, place: Place) -> None:
        """Put back the shards of a worker that is sent away; none of them is charged."""
        self._ledger.give_back(list(place.queue.values()))
        place.queue.clear()
        self._retire(place)

    def _retire(self, place: Place) -> None:
        self._retired_utterances += place.num_utterances
        place.num_utterances = 0

    def _report(self) -> None:
        if time.monotonic() - self._reported_at < REPORT_INTERVAL_SECONDS:
            return

        self._reported_at = time.monotonic()
        ask_progress([place for place in self._places if place.is_working], POLL_SECONDS)
        now = sum(place.num_utterances for place in self._places)
        self._tell(self._retired_utterances + now)

    def _tell(self, num_utterances: int) -> None:
        """Report the finished shards, and the utterances of unfinished shards too."""
        rate = num_utterances / max(time.monotonic() - self._started_at, 1e-9)
        note = f"{num_utterances} utterances, {rate:.1f} a second"
        self.on_progress(len(self.outcomes), self._num_shards, note=note)

    def _write_witness(self) -> None:
        """Write a file that every worker has to see in the folder for the tables.

        A folder of the same name on a disk of its own can be written too, and nobody would find the
        tables there.
        """
        self._witness = temporary_name(WITNESS)
        try:
            with atomic_write(join(self.out, self._witness)) as file:
                file.write(b"every worker of a job has to see this file\n")
        except OSError as error:
            raise ConfigError(
                f"--out {self.out}: cannot write there ({error}); give a folder that this machine "
                "and all nodes share, or an object store"
            ) from error

    def _close(self) -> None:
        for place in self._places:
            if not place.is_given_up:
                place.close()
        remove(join(self.out, self._witness))


def _reason(error: RayTaskError) -> str:
    """Return what went wrong in a worker, for a person."""
    cause = error.cause
    return str(cause) if isinstance(cause, ConfigError) else f"{type(cause).__name__}: {cause}"
