"""What the first rank does for all, or each for itself, so that all learn how it went.

A refusal met by one rank alone leaves the others waiting for it: a Ray worker that refuses ends
without a failure, and nobody ends the rest. So what only the first rank looks at is told to every
rank, a refusal as well as a result; and where each rank looks for itself, at files that its node
may lack, they agree before they go on.
"""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as distributed

from shards.config import ConfigError
from shards.errors import BadShard

T = TypeVar("T")
REFUSALS = (ConfigError, BadShard, OSError)


def on_first_rank(work: Callable[[], T]) -> T:
    """What `work` returns on the first rank; every rank calls this. What it returns or raises must
    pickle.

    ConfigError, BadShard and OSError are raised on every rank alike; any other failure is a fault
    and stays on one.
    """
    told: list[tuple[T | None, Exception | None] | None] = [None]
    if distributed.get_rank() == 0:
        try:
            told = [(work(), None)]
        except REFUSALS as error:
            told = [(None, error)]
    if distributed.get_world_size() > 1:
        distributed.broadcast_object_list(told)
    assert told[0] is not None  # noqa: S101 (the first rank said something)
    found, refusal = told[0]
    if refusal is not None:
        raise refusal
    return found  # type: ignore[return-value] # None only where `work` returns it


def on_every_rank(work: Callable[[], T]) -> T:
    """What `work` returns on this rank, once it has succeeded on all of them; every rank calls
    this.

    What it raises of the refusals of `on_first_rank` is raised on every rank: the first rank's that
    has one.
    """
    found: T | None = None
    refusal: Exception | None = None
    try:
        found = work()
    except REFUSALS as error:
        refusal = error
    told: list[Exception | None] = [refusal]
    if distributed.get_world_size() > 1:
        told = [None] * distributed.get_world_size()
        distributed.all_gather_object(told, refusal)
    first = next((one for one in told if one is not None), None)
    if first is not None:
        raise first
    return found  # type: ignore[return-value] # None only where `work` returns it
