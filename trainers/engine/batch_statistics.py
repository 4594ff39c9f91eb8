"""Batch norm's running statistics, moved once a step by all of the step's batches, whichever worker
computed them.

Left alone, each worker keeps statistics of its own batches: the exported model would hold those of
one worker, and validation would differ by rank. `torch.nn.SyncBatchNorm` was rejected: it also
normalizes by the batches of all workers, so that training itself would depend on their number.
"""

import torch
import torch.distributed as distributed
from torch import Tensor, nn


class BatchStatistics:
    """The statistics of one model; does nothing for a model without batch norm."""

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
        """Remember where the step starts."""
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sums = [torch.zeros_like(buffer, dtype=torch.float32) for buffer in self._buffers]

    @torch.no_grad()
    def end_batch(self) -> None:
        """Take what one batch made of the statistics, and put them back for the next."""
        for buffer, before, total in zip(self._buffers, self._before, self._sums, strict=True):
            total += buffer
            buffer.copy_(before)

    @torch.no_grad()
    def end_step(self, num_batches: int) -> None:
        """Move on to the mean over the `num_batches` of all workers."""
        if not self._buffers:
            return
        joined = torch.cat([total.flatten() for total in self._sums])
        distributed.all_reduce(joined)
        sizes = [buffer.numel() for buffer in self._buffers]
        for buffer, mean in zip(
            self._buffers, torch.split(joined / num_batches, sizes), strict=True
        ):
            buffer.copy_(mean.view_as(buffer))
