"""A codebook: each vector is replaced by its nearest entry, and gradients pass straight through (VQ-VAE).

Two things keep a small codebook in use and are options here, as the paper has neither: a parameter-free layer norm
before the look-up, so that codes and vectors live on one scale, and restarting codes that nothing was near for a while.

Shapes: R vectors, C numbers each, M codes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESTART_AFTER_STEPS = 50


@dataclass(frozen=True)  # no slots: ZeRO 3 looks for tensors in __dict__
class Quantized:
    """`vectors` [R, C] with the straight-through gradient, the `codes` [R] they stand for, and the loss."""

    vectors: Tensor
    codes: Tensor
    loss: Tensor


class VectorQuantizer(nn.Module):
    """M codes of C numbers; loss = |sg(s) - z|^2 + commitment |s - sg(z)|^2, averaged over all numbers."""

    idle_steps: Tensor  # steps since each code was last the nearest

    def __init__(
        self, num_codes: int, width: int, *, commitment: float = 0.25, normalise: bool = False, restart: bool = False
    ) -> None:
        super().__init__()
        self._commitment, self._normalise, self._restart = commitment, normalise, restart
        self.codebook = nn.Parameter(torch.empty(num_codes, width).uniform_(-1.0 / num_codes, 1.0 / num_codes))
        self.register_buffer("idle_steps", torch.zeros(num_codes, dtype=torch.long))

    def forward(self, vectors_RC: Tensor) -> Quantized:
        """Quantize `vectors_RC`; distances are computed in float32 whatever the precision."""
        vectors_RC = vectors_RC.float()
        if self._normalise:
            vectors_RC = F.layer_norm(vectors_RC, vectors_RC.shape[-1:])
        codes_R = torch.cdist(vectors_RC, self.codebook.float()).argmin(dim=1)
        nearest_RC = self.codebook.float()[codes_R]
        loss = F.mse_loss(nearest_RC, vectors_RC.detach())
        loss = loss + self._commitment * F.mse_loss(vectors_RC, nearest_RC.detach())
        if self.training and self._restart:
            self._restart_idle(vectors_RC.detach(), codes_R)
        return Quantized(vectors_RC + (nearest_RC - vectors_RC).detach(), codes_R, loss)

    @torch.no_grad()
    def _restart_idle(self, vectors_RC: Tensor, codes_R: Tensor) -> None:
        """Move codes that were nearest to nothing for a while onto random vectors of this batch."""
        self.idle_steps += 1
        self.idle_steps[codes_R] = 0
        idle = torch.nonzero(self.idle_steps > RESTART_AFTER_STEPS).flatten()
        if len(idle):
            chosen = torch.randint(len(vectors_RC), (len(idle),), device=vectors_RC.device)
            self.codebook[idle] = vectors_RC[chosen].to(self.codebook.dtype)
            self.idle_steps[idle] = 0
