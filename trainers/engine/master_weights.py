"""The float32 weights of a run that computes in bfloat16.

DeepSpeed casts the whole model to bfloat16. It keeps a float32 master of each weight that is
trained, and adds each step's change to the master: most changes are smaller than the last digit of
a bfloat16 number. But it copies the masters from weights that it has already rounded, and a frozen
weight has no master at all. So the float32 weights are kept here from before the cast. The masters
get them back, and an export writes the masters and the frozen weights in place of the rounded ones.

An export reads `state_dict` of some part of the model. While it does, hooks put the float32 values
in. Setting `parameter.data` for that time was rejected: with another number format, torch forgets
the hooks through which DeepSpeed learns of gradients.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn


class MasterWeights:
    """The float32 weights of `model`, which DeepSpeed has not yet cast to bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # In the CPU's memory, because a GPU has no room for a third copy of the weights.
        self._kept = {id(weight): _plain(weight) for weight in model.parameters()}
        # The masters of a run without ZeRO, which every rank has whole.
        self._undivided: Mapping[int, Tensor] = {}

    def give_to(self, optimizer: Any) -> None:
        """Set the masters of DeepSpeed's `optimizer` to the weights from before the cast."""
        self._undivided = _undivided(optimizer)
        for weight in self._model.parameters():
            if weight.requires_grad:
                self._set_master(weight, self._kept.pop(id(weight)))

        # Only the first rank exports, so only the first rank needs the frozen weights later.
        if distributed.get_rank():
            self._kept.clear()

    @contextmanager
    def in_state_dict(self) -> Iterator[None]:
        """Let `state_dict` of the model and of its parts give the float32 weights, on rank 0.

        Every rank calls this, because the masters are divided among the ranks.
        """
        weights = self._kept | self._gathered()

        handles = [
            module.register_state_dict_post_hook(_replacing(weights))  # type: ignore[no-untyped-call]
            for module in self._model.modules()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _gathered(self) -> dict[int, Tensor]:
        """The masters by the identity of their weight; empty on every rank but the first."""
        found: dict[int, Tensor] = {}
        for weight in self._model.parameters():
            if weight.requires_grad:
                master = _plain(self._master(weight))
                if distributed.get_rank() == 0:
                    found[id(weight)] = master.view(_shape(weight))

        return found

    def _master(self, weight: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        found: Tensor | None = safe_get_full_fp32_param(weight)
        return self._undivided[id(weight)] if found is None else found

    def _set_master(self, weight: nn.Parameter, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        if hasattr(weight, "ds_tensor"):
            safe_set_local_fp32_param(weight, _share(value, weight))
        elif hasattr(weight, "_hp_mapping"):
            safe_set_full_fp32_param(weight, value.to(weight.device))
        else:
            self._undivided[id(weight)].data.copy_(value)


def _undivided(optimizer: Any) -> dict[int, Tensor]:
    """The masters that DeepSpeed has not divided, by the identity of their weight."""
    # DeepSpeed calls every number format of two bytes fp16 here. ZeRO's optimizers have no such
    # groups.
    return {
        id(weight): master
        for weights, masters in zip(
            getattr(optimizer, "fp16_groups", ()),
            getattr(optimizer, "fp32_groups", ()),
            strict=False,
        )
        for weight, master in zip(weights, masters, strict=True)
    }


def _plain(weight: Tensor) -> Tensor:
    return weight.detach().float().cpu().clone()


def _share(value: Tensor, weight: nn.Parameter) -> Tensor:
    """The part of `value` that this rank holds under ZeRO 3, which fills the last part with 0."""
    part: Tensor = weight.ds_tensor  # type: ignore[attr-defined] # set by DeepSpeed
    rank, world_size = distributed.get_rank(), distributed.get_world_size()

    padded = F.pad(value.flatten(), (0, world_size * part.numel() - value.numel()))
    return padded.narrow(0, rank * part.numel(), part.numel()).to(part.device)


def _shape(weight: nn.Parameter) -> Any:
    # ZeRO 3 leaves an empty tensor in place of a weight, and its shape in `ds_shape`.
    return getattr(weight, "ds_shape", weight.shape)


def _replacing(
    weights: Mapping[int, Tensor],
) -> Callable[[nn.Module, dict[str, Any], str, Any], None]:
    """A hook that replaces what `state_dict` gives of one module's own weights."""

    def replace(module: nn.Module, found: dict[str, Any], prefix: str, _: Any) -> None:
        for name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(weight) in weights and prefix + name in found:
                found[prefix + name] = weights[id(weight)]

    return replace
