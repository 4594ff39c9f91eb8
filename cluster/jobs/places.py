"""The places of a job: where on the cluster its workers live, and how far each is to be trusted.

A place is one placement group with one worker in it. It is opened when a node has room for it, and
dropped when its node is lost; nothing waits in a group that no node can host, because Ray's control
store spins over it. A place that fails on different shards in a row is the trouble itself: it rests
and begins again with a new process and one shard, and after a few rests in vain it is given up.
"""

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.work.task import ShardTask, WorkerHome
from cluster.nodes.placement import WorkerPlacement

FAILURES_BEFORE_REST = 5  # on different shards in a row
FIRST_REST_SECONDS = 30.0  # twice as long each time
MAX_RESTS = 3
ROOM_SECONDS = 20.0  # to find room for a place, once another one has some
SETUP_SECONDS = 1800.0  # weights may have to be downloaded first
UNKNOWN_NODE = "a node"


@dataclass(slots=True, eq=False)
class Place:
    """One placement group, and the worker that lives in it now."""

    placement: WorkerPlacement
    group: Any
    opened_at: float
    has_room: bool = False  # the group has been placed on a node
    handle: Any = None
    setup: Any = None  # reference to the running set-up, None once it is done
    setup_deadline: float = 0.0
    home: WorkerHome | None = None  # where the last worker that was ready lives
    queue: "OrderedDict[Any, ShardTask]" = field(default_factory=OrderedDict)
    # The shards that failed here since one was last finished; None stands for a set-up.
    strikes: dict[str, ShardTask | None] = field(default_factory=dict)
    num_rests: int = 0  # since a shard was last finished
    rests_until: float = 0.0
    is_given_up: bool = False
    num_utterances: int = 0

    @property
    def is_working(self) -> bool:
        """Whether a worker is ready here."""
        return self.handle is not None and self.setup is None

    @property
    def node(self) -> str:
        """The id of the node, as far as it is known."""
        return self.home.node_id if self.home is not None else UNKNOWN_NODE

    @property
    def name(self) -> str:
        """What people call the node."""
        return self.home.host if self.home is not None else UNKNOWN_NODE

    def wants_worker(self, now: float) -> bool:
        """Whether a worker is to be started here."""
        is_open = self.has_room and not self.is_given_up
        return is_open and self.handle is None and now >= self.rests_until

    def start(self, actor: Any, arguments: tuple[Any, ...], num_readers: int) -> None:
        """Start a worker; `setup` has to be called on it."""
        strategy = PlacementGroupSchedulingStrategy(
            placement_group=self.group, placement_group_bundle_index=0
        )
        bundle = self.placement.bundles[0]
        self.handle = actor.options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=strategy,
        ).remote(*arguments, self.placement.num_threads, num_readers)

    def finished_one(self) -> None:
        """Note that a shard was finished: what failed here before was not the place's doing."""
        self.strikes.clear()
        self.num_rests = 0

    def failed_on(self, task: ShardTask | None) -> bool:
        """Note a failure on a shard, or of a set-up; returns whether the place has to rest."""
        self.strikes[f"set-up {len(self.strikes)}" if task is None else task.url] = task
        return self.num_rests > 0 or len(self.strikes) >= FAILURES_BEFORE_REST

    def rest(self, now: float) -> list[ShardTask]:
        """Send the worker away for a while, or for good; returns the shards that it failed on."""
        self.send_away()
        blamed = [task for task in self.strikes.values() if task is not None]
        self.strikes.clear()
        self.num_rests += 1

        if self.num_rests > MAX_RESTS:
            self.is_given_up = True
            self.close()
        self.rests_until = now + FIRST_REST_SECONDS * 2 ** (self.num_rests - 1)
        return blamed

    def send_away(self) -> None:
        """Kill the worker, if there is one."""
        if self.handle is not None:
            ray.kill(self.handle)
        self.handle = self.setup = None

    def close(self) -> None:
        """Kill the worker and free what was reserved."""
        self.send_away()
        remove_placement_group(self.group)

    def is_lost(self) -> bool:
        """Whether the group has no node any more; also updates `has_room`. Asks the cluster."""
        state = placement_group_table(self.group).get("state")
        self.has_room = self.has_room or state == "CREATED"
        return self.has_room and state != "CREATED"


def open_place(placement: WorkerPlacement) -> Place:
    """Ask for room on one node for a worker and its readers; returns at once."""
    group = placement_group(list(placement.bundles), strategy="STRICT_PACK")
    return Place(placement, group, time.monotonic())


def missing_places(
    places: Sequence[Place], wanted: Sequence[WorkerPlacement], most: int
) -> list[WorkerPlacement]:
    """The placements that are wanted and have no place, so that there are at most `most`.

    The number of places decides; of which kind they are is looked at only to choose.
    """
    number = min(len(wanted), most) - len(places)
    if number <= 0:
        return []

    held = Counter(_kind(place.placement) for place in places)
    missing = []
    for placement in wanted:
        if held[_kind(placement)]:
            held[_kind(placement)] -= 1
        else:
            missing.append(placement)
    return missing[:number]


def fits_into(placement: WorkerPlacement, available: dict[str, float]) -> bool:
    """Whether what the cluster has free, all nodes together, is enough for one more place."""
    needed: Counter[str] = Counter()
    for bundle in placement.bundles:
        needed.update(bundle)
    return all(available.get(name, 0.0) >= number for name, number in needed.items())


def is_innocent(lost: RayActorError) -> bool:
    """Whether a worker died with its node, or because the node was taken back."""
    return bool(getattr(lost, "preempted", False)) or "node has died" in str(lost)


def ask_progress(places: Sequence[Place], timeout: float) -> None:
    """Ask all workers at once how many utterances they have done.

    Whoever does not answer within `timeout` seconds keeps its last number.
    """
    asked = {place.handle.progress.remote(): place for place in places}
    if not asked:
        return

    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout)
    for ref in ready:
        # Why suppressed: the next round finds a lost worker anyway.
        with contextlib.suppress(RayActorError):
            asked[ref].num_utterances = ray.get(ref)


def _kind(placement: WorkerPlacement) -> tuple[tuple[tuple[str, float], ...], ...]:
    return tuple(tuple(sorted(bundle.items())) for bundle in placement.bundles)
