"""A codebook: each vector is replaced by its nearest entry, and gradients pass straight through.

This is the quantizer of VQ-VAE. Two options keep a small codebook in use; the paper has neither.
One is a parameter-free layer norm before the look-up, which puts codes and vectors on one scale.
The other restarts codes that were nearest to no vector for a while.

A restart moves a code by its `offset`, a buffer, and does not write to the weight: with bfloat16 or
ZeRO the optimizer keeps the weight's true value elsewhere and puts it back at the next step.
Restarts happen once a step, after the optimizer, from what all ranks have seen. So every rank's
codebook stays the same at any number of workers.

The module of the codebook is called, and its weight is never read directly: ZeRO 3 gathers a
weight only for calls of the module that owns it.

Shapes: R vectors, C numbers each, M codes.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.parts.float32_buffers import Float32Buffers

RESTART_AFTER_STEPS = 50


@dataclass(frozen=True)  # no slots: ZeRO 3 looks for tensors in __dict__
class Quantized:
    """What one look-up returns.

    `vectors` [R, C] have the straight-through gradient, `codes` [R] are the entries they stand for.
    """

    vectors: Tensor
    codes: Tensor
    loss: Tensor


class VectorQuantizer(Float32Buffers, nn.Module):
    """A codebook of M codes of C numbers.

    The loss is |sg(s) - z|^2 + commitment |s - sg(z)|^2, averaged over all numbers.
    """

    offset: Tensor  # where restarts have moved each code from its weight
    idle_steps: Tensor  # steps since each code was last the nearest
    num_steps: Tensor

    def __init__(
        self,
        num_codes: int,
        width: int,
        *,
        commitment: float = 0.25,
        normalize: bool = False,
        restart: bool = False,
    ) -> None:
        super().__init__()
        self._commitment, self._normalize, self._restart = commitment, normalize, restart
        self.codebook = nn.Embedding(num_codes, width)
        nn.init.uniform_(self.codebook.weight, -1.0 / num_codes, 1.0 / num_codes)
        if restart:
            self.register_buffer("offset", torch.zeros(num_codes, width))
            self.register_buffer("idle_steps", torch.zeros(num_codes, dtype=torch.long))
            self.register_buffer("num_steps", torch.zeros((), dtype=torch.long))
        self._seen: list[Quantized] = []  # vectors and codes of this step

    @property
    def entries(self) -> Tensor:
        """The codes [M, C] in float32, as vectors are compared with them."""
        weight_MC = self.codebook(
            torch.arange(self.codebook.num_embeddings, device=self.codebook.weight.device)
        ).float()
        return weight_MC + self.offset if self._restart else weight_MC

    def forward(self, vectors_RC: Tensor) -> Quantized:
        """Quantize `vectors_RC`; distances are computed in float32 whatever the precision."""
        vectors_RC, entries_MC = vectors_RC.float(), self.entries
        if self._normalize:
            vectors_RC = F.layer_norm(vectors_RC, vectors_RC.shape[-1:])

        codes_R = torch.cdist(vectors_RC.detach(), entries_MC.detach()).argmin(dim=1)
        nearest_RC = entries_MC[codes_R]

        loss = F.mse_loss(nearest_RC, vectors_RC.detach())
        loss = loss + self._commitment * F.mse_loss(vectors_RC, nearest_RC.detach())

        # Without gradients, the step only looks ahead, and comes again.
        if self.training and self._restart and torch.is_grad_enabled():
            self._seen.append(Quantized(vectors_RC.detach(), codes_R, loss.detach()))

        return Quantized(vectors_RC + (nearest_RC - vectors_RC).detach(), codes_R, loss)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move codes that were nearest to no vector for a while onto vectors of this step.

        Every rank must call this.
        """
        seen, self._seen = self._seen, []
        if not seen:
            return

        used_M = torch.zeros_like(self.idle_steps)
        used_M[torch.cat([part.codes for part in seen])] = 1
        if _num_ranks() > 1:
            distributed.all_reduce(used_M, distributed.ReduceOp.MAX)

        self.num_steps += 1
        self.idle_steps.add_(1).masked_fill_(used_M > 0, 0)
        idle = torch.nonzero(self.idle_steps > RESTART_AFTER_STEPS).flatten()

        if len(idle):
            candidates_RC = _of_all_ranks(torch.cat([part.vectors for part in seen]))
            generator = torch.Generator().manual_seed(int(self.num_steps))
            chosen = torch.randint(len(candidates_RC), (len(idle),), generator=generator)
            self.offset[idle] = (
                candidates_RC[chosen.to(candidates_RC.device)] - self.codebook(idle).float()
            )
            self.idle_steps[idle] = 0


def _num_ranks() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _of_all_ranks(vectors_RC: Tensor) -> Tensor:
    """The vectors of all ranks, in an order that does not depend on which rank had which."""
    if _num_ranks() > 1:
        parts: list[Any] = [None] * _num_ranks()
        distributed.all_gather_object(parts, vectors_RC.cpu())
        vectors_RC = torch.cat(parts).to(vectors_RC.device)
    return vectors_RC[vectors_RC[:, 0].argsort(stable=True)]
