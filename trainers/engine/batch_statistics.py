"""Running statistics of batch norm that do not depend on the number of workers.

Once a step, the statistics are moved by all batches of the step, no matter which worker computed
which batch. Without this, each worker would keep the statistics of its own batches: the exported
model would hold those of one worker, and each rank would validate a different model.
`torch.nn.SyncBatchNorm` was rejected: it also normalizes activations by the batches of all workers,
so that training itself would depend on the number of workers.
"""

import torch
import torch.distributed as distributed
from torch import Tensor, nn


class BatchStatistics:
    """The running statistics of one model. For a model without batch norm it does nothing."""

    def __init__(self, model: nn.Module) -> None:
        norms = [
            module
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self._buffers: list[Tensor] = [buffer for buffer in buffers if buffer is not None]
        self._before: list[Tensor] = []
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def begin_step(self) -> None:
        """Remember the statistics that the step starts with."""
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sums = [torch.zeros_like(buffer, dtype=torch.float32) for buffer in self._buffers]

    @torch.no_grad()
    def end_batch(self) -> None:
        """Add up the statistics that one batch has moved, and put the old ones back."""
        # Every batch has to start from the same statistics: the result would otherwise depend on
        # which batches a worker computes, and in which order.
        for buffer, before, total in zip(self._buffers, self._before, self._sums, strict=True):
            total += buffer
            buffer.copy_(before)

    @torch.no_grad()
    def end_step(self, num_batches: int) -> None:
        """Set the statistics to their mean over all `num_batches` batches of all workers."""
        if not self._buffers:
            return

        # All sums travel in one vector, so that a step costs one message and not one per buffer.
        joined = torch.cat([total.flatten() for total in self._sums])
        distributed.all_reduce(joined)

        sizes = [buffer.numel() for buffer in self._buffers]
        for buffer, mean in zip(
            self._buffers, torch.split(joined / num_batches, sizes), strict=True
        ):
            buffer.copy_(mean.view_as(buffer))
