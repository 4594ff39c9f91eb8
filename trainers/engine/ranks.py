"""Work that can be refused, done so that every rank learns of the refusal.

If one rank alone met a refusal, the other ranks would wait for it for ever: a Ray worker that
refuses ends without a failure, so nobody ends the others. There are two cases. The first rank may
do the work for all; then its result or its refusal is sent to every rank. Or every rank does the
work for itself, for example because it reads files that one node may lack; then all ranks tell each
other whether the work was refused, before any of them goes on.
"""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as distributed

from shards.config import ConfigError
from shards.errors import BadShard

T = TypeVar("T")
REFUSALS = (ConfigError, BadShard, OSError)


def on_first_rank(work: Callable[[], T]) -> T:
    """Do `work` on the first rank and return its result on every rank; every rank calls this.

    A ConfigError, BadShard or OSError of `work` is raised on every rank. Any other exception is a
    bug and is raised on the first rank only. The result or exception must be picklable, because it
    is sent to other processes.
    """
    told: list[tuple[T | None, Exception | None] | None] = [None]
    if distributed.get_rank() == 0:
        try:
            told = [(work(), None)]
        except REFUSALS as error:
            told = [(None, error)]

    # The broadcast fills `told` on all other ranks, whether or not the work was refused.
    if distributed.get_world_size() > 1:
        distributed.broadcast_object_list(told)
    assert told[0] is not None  # noqa: S101 (the first rank has set it)

    found, refusal = told[0]
    if refusal is not None:
        raise refusal
    return found  # type: ignore[return-value] # None only when `work` returns None


def on_every_rank(work: Callable[[], T]) -> T:
    """Do `work` on every rank and return this rank's own result; every rank calls this.

    If `work` raises ConfigError, BadShard or OSError on some ranks, then every rank raises the
    exception of the lowest of these ranks.
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
    return found  # type: ignore[return-value] # None only when `work` returns None
