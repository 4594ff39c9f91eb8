"""What every labeler shares: its outcome for one utterance, batches that shrink when memory runs
out, probabilities.
"""

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
    """Why an utterance has no prediction in one modality, as "code: detail"."""

    reason: str


Outcome: TypeAlias = NDArray[np.float32] | Missing


def run_batches(
    batches: Sequence[Sequence[int]], forward: Callable[[Sequence[int]], Tensor]
) -> dict[int, Tensor]:
    """`forward` on every batch of indices; returns each index's row, on the CPU.

    Rows stay on the device until the last batch is under way, so that a GPU is never waited for in
    between. A batch that does not fit the GPU's memory is halved and tried again; one that cannot
    be halved raises.
    """
    pending = [list(batch) for batch in reversed(batches)]
    done: list[tuple[list[int], Tensor]] = []
    while pending:
        batch = pending.pop()
        rows = _forward_or_none(batch, forward)
        if rows is None:
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
    # Only here, after the exception and with it the tensors of the failed pass are gone, is there
    # memory to give back.
    torch.cuda.empty_cache()
    log.warning(
        "a batch of %d does not fit the GPU's memory: halved (see the panel's batching)", len(batch)
    )
    return None


def class_probabilities(logits: Tensor, config: Any) -> Tensor:
    """Probabilities in float32; a multi-label checkpoint's classes are independent and left
    unnormalized.
    """
    if getattr(config, "problem_type", None) == "multi_label_classification":
        return torch.sigmoid(logits.float())
    return torch.softmax(logits.float(), dim=-1)
