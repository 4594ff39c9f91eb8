"""Batch norm that keeps the statistics of its checkpoint, in training too.

A few padded utterances of different lengths give other statistics than the thousands of hours that
a checkpoint was trained on, and an utterance would depend on its batchmates. Moving the statistics
along, as transformers does, was rejected for both reasons. Scale and shift are trained.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.parts.float32_buffers import Float32Buffers


class KeptBatchNorm(Float32Buffers, nn.Module):
    """Takes the place of `norm` and has its weights and buffers, by the same names.

    It computes in float32, whatever the precision of the weights.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.weight, self.bias, self._epsilon = norm.weight, norm.bias, norm.eps
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, hidden_NDT: Tensor) -> Tensor:
        """Normalize [N, D, T] by the kept mean and variance of each of the D channels."""
        found_NDT = F.batch_norm(
            hidden_NDT.float(),
            self.running_mean,
            self.running_var,
            self.weight.float(),
            self.bias.float(),
            training=False,
            eps=self._epsilon,
        )
        return found_NDT.to(hidden_NDT.dtype)
