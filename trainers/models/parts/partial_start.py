"""A start from a checkpoint takes over everything that was learned, or says what it would lose."""

import logging
from collections.abc import Iterable, Mapping

from torch import Tensor

from shards.config import ConfigError

log = logging.getLogger(__name__)
_MAX_NAMED = 6


def require_whole_start(
    lost: Mapping[str, Tensor], checkpoint: str, why: Iterable[str], *, allow_partial: bool
) -> None:
    """Raise ConfigError if tensors of the checkpoint would be `lost`, unless that is allowed.

    `why` says what differs, for example "model.num_codes: 512 there, 64 here".
    """
    if not lost:
        return

    shown = [f"{name} {list(tensor.shape)}" for name, tensor in list(lost.items())[:_MAX_NAMED]]
    more = len(lost) - len(shown)
    named = ", ".join(shown) + (f" and {more} more" if more else "")

    if allow_partial:
        log.warning("%s: %d tensors are not taken over: %s", checkpoint, len(lost), named)
        return

    raise ConfigError(
        f"encoder.checkpoint {checkpoint}: {len(lost)} tensors that it has learned would be lost: "
        f"{named}; {'; '.join(why)}. Give the options that it was trained with, or "
        "--allow-partial-start to go on without these tensors"
    )
