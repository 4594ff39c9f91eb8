"""What labelers share: the outcome for one utterance, batches that shrink, and probabilities."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Missing:
    """The reason why an utterance has no prediction in one modality, as "code: detail"."""

    reason: str


Outcome: TypeAlias = NDArray[np.float32] | Missing


def run_batches(
    batches: Sequence[Sequence[int]], forward: Callable[[Sequence[int]], Tensor]
) -> dict[int, Tensor]:
    """Run `forward` on every batch of indices; returns each index's row, on the CPU.

    Rows stay on the device until the last batch is under way, so that nothing waits for a GPU in
    between. A batch that does not fit the GPU's memory is halved and tried again; a batch of one
    that does not fit raises.
    """
    pending = [list(batch) for batch in reversed(batches)]
    done: list[tuple[list[int], Tensor]] = []

    while pending:
        batch = pending.pop()
        rows = _forward_or_none(batch, forward)
        if rows is None:
            # `pop` takes from the end, so that the first half is appended last.
            middle = len(batch) // 2
            pending += [batch[middle:], batch[:middle]]
            continue
        done.append((batch, rows))

    return {
        index: row for batch, rows in done for index, row in zip(batch, rows.cpu(), strict=True)
    }


def _forward_or_none(batch: list[int], forward: Callable[[Sequence[int]], Tensor]) -> Tensor | None:
    """`forward(batch)`, or None when it needs more memory than the GPU has and can be halved."""
    try:
        return forward(batch)
    except torch.cuda.OutOfMemoryError as error:
        if len(batch) == 1:
            error.add_note(
                "One item alone does not fit this GPU: lower window_seconds, or use a larger GPU."
            )
            raise

    # Why not inside `except`: the exception holds the tensors of the failed pass, and their memory
    # can be given back only after it is gone.
    torch.cuda.empty_cache()
    log.warning(
        "a batch of %d does not fit the GPU's memory and is halved (see the panel's batching)",
        len(batch),
    )
    return None


def class_probabilities(logits: Tensor, config: Any) -> Tensor:
    """Probabilities of the classes, in float32.

    The classes of a multi-label checkpoint are independent, so their probabilities need not sum
    to 1.
    """
    if getattr(config, "problem_type", None) == "multi_label_classification":
        return torch.sigmoid(logits.float())
    return torch.softmax(logits.float(), dim=-1)
