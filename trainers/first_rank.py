"""What the first rank does for all, so that all learn how it went.

A refusal met by one rank alone leaves the others waiting for it: a Ray worker that refuses ends without a failure, and
nobody ends the rest. So what only the first rank looks at is told to every rank, a refusal as well as a result.
"""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as distributed

from shards.config import ConfigError
from shards.errors import BadShard

T = TypeVar("T")


def on_first_rank(work: Callable[[], T]) -> T:
    """What `work` returns on the first rank; every rank calls this. What it returns or raises must pickle.

    ConfigError, BadShard and OSError are raised on every rank alike; any other failure is a fault and stays on one.
    """
    told: list[tuple[T | None, Exception | None] | None] = [None]
    if distributed.get_rank() == 0:
        try:
            told = [(work(), None)]
        except (ConfigError, BadShard, OSError) as error:
            told = [(None, error)]
    if distributed.get_world_size() > 1:
        distributed.broadcast_object_list(told)
    assert told[0] is not None  # noqa: S101 (the first rank said something)
    found, refusal = told[0]
    if refusal is not None:
        raise refusal
    return found  # type: ignore[return-value] # None only where `work` returns it
