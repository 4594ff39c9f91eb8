"""When and where a shard is tried again, and whom a failure is charged to."""

from actors.work.task import ShardTask
from cluster.jobs.ledger import (
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    WAIT_FACTOR,
    FailedShard,
    ShardLedger,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def task(name: str) -> ShardTask:
    return ShardTask(
        url=f"/{name}.tar", name=name, size=1, version="1", table_url=f"/{name}", maker="m"
    )


def test_shards_are_taken_in_order_and_put_back_in_front() -> None:
    """Shards that were handed out, but not begun, keep their turn."""
    ledger = ShardLedger([task("a"), task("b"), task("c")], max_attempts=2)
    first, second = ledger.take("x", {"x"}), ledger.take("x", {"x"})
    assert (first, second) == (task("a"), task("b"))

    ledger.give_back([task("a"), task("b")])
    assert [ledger.take("x", {"x"}) for _ in range(4)] == [task("a"), task("b"), task("c"), None]
    assert ledger.is_empty


def test_a_failed_shard_waits_longer_each_time() -> None:
    """The waits are 1, 4, 16 and 60 seconds: what fails for a minute costs no shard."""
    clock = Clock()
    ledger = ShardLedger([task("a")], max_attempts=9, clock=clock)
    waits = []
    for _ in range(4):
        taken = ledger.take("x", {"x"})
        assert taken is not None
        ledger.charge(taken, "x", "503")

        began = clock.now
        while not _is_due(ledger, clock):
            clock.now += 0.5
        waits.append(clock.now - began)

    assert FIRST_WAIT_SECONDS == 1
    assert WAIT_FACTOR == 4
    assert LONGEST_WAIT_SECONDS == 60
    assert waits == [1.0, 4.0, 16.0, 60.0]


def _is_due(ledger: ShardLedger, clock: Clock) -> bool:
    taken = ledger.take("x", {"x"})
    if taken is not None:
        ledger.give_back([taken])
    return taken is not None


def test_a_failed_shard_is_tried_on_another_node_first() -> None:
    """The node where it failed takes it only when no other node works, or all have failed."""
    clock = Clock()
    ledger = ShardLedger([task("a")], max_attempts=9, clock=clock)
    ledger.charge(ledger.take("x", {"x", "y"}) or task("none"), "x", "broken")
    clock.now = 100.0

    assert ledger.take("x", {"x", "y"}) is None
    taken = ledger.take("y", {"x", "y"})
    assert taken == task("a")

    ledger.charge(task("a"), "y", "broken")
    clock.now = 200.0
    assert ledger.take("x", {"x", "y"}) == task("a")

    ledger.charge(task("a"), "x", "broken")
    clock.now = 300.0
    assert ledger.take("x", {"x"}) == task("a")


def test_a_shard_is_given_up_after_its_attempts() -> None:
    """The last error is told, with the number of attempts."""
    clock = Clock()
    ledger = ShardLedger([task("a")], max_attempts=2, clock=clock)
    ledger.take("x", {"x"})
    assert ledger.charge(task("a"), "x", "first")
    clock.now = 100.0
    ledger.take("x", {"x"})
    assert not ledger.charge(task("a"), "x", "second")
    assert ledger.is_empty
    assert ledger.failed == [FailedShard("a", 2, "second")]


def test_what_is_pardoned_costs_no_attempt() -> None:
    """A charge that turns out to be the node's is taken back, even from a shard given up for it."""
    clock = Clock()
    ledger = ShardLedger([task("a"), task("b")], max_attempts=1, clock=clock)
    for name in "ab":
        assert ledger.take("x", {"x", "y"}) == task(name)
        ledger.charge(task(name), "x", "not mounted")
    assert len(ledger.failed) == 2

    ledger.pardon([task("a"), task("b")])
    assert ledger.failed == []
    clock.now = 100.0
    assert {ledger.take("y", {"y"}), ledger.take("y", {"y"})} == {task("a"), task("b")}


def test_an_excused_shard_is_never_given_up() -> None:
    """A worker that dies with its node says nothing about the shard, however often."""
    clock = Clock()
    ledger = ShardLedger([task("a")], max_attempts=1, clock=clock)
    for _ in range(20):
        assert ledger.take("x", {"x"}) == task("a")
        ledger.excuse(task("a"), "the node died")
        clock.now += 100.0
    assert ledger.failed == []


def test_a_worker_that_has_rested_begins_with_a_shard_that_never_failed() -> None:
    """It may be a failed shard's fault, so that one says nothing about the worker."""
    clock = Clock()
    ledger = ShardLedger([task("a"), task("b")], max_attempts=9, clock=clock)
    ledger.charge(ledger.take("x", {"x"}) or task("none"), "x", "broken")
    clock.now = 100.0
    assert ledger.take("x", {"x"}, fresh_first=True) == task("b")
    assert ledger.take("x", {"x"}, fresh_first=True) == task("a")


def test_the_rest_says_why_no_worker_was_left() -> None:
    """A shard that was tried tells its last error as well."""
    ledger = ShardLedger([task("a"), task("b")], max_attempts=9)
    ledger.charge(ledger.take("x", {"x"}) or task("none"), "x", "broken")
    ledger.give_up_rest("no worker")
    assert ledger.failed == [
        FailedShard("a", 1, "no worker; the last attempt: broken"),
        FailedShard("b", 0, "no worker"),
    ]
