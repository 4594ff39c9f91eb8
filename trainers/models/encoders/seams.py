"""The seam before each transformer layer, where a layer's input is replaced or gets a prefix.

Prefixes, speaker embeddings and cross-attention all need it. For the models of transformers it is
made with hooks on their own layer modules: a pre-hook replaces the layer's input and widens its
attention mask, and a hook cuts the prefix off the output. So no forward pass is copied, and the
changes of a new release arrive by themselves. Copying each family's encoder loop was the
alternative: five copies to keep in step.

Shapes: N utterances, T frames, D width.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LayerInput:
    """What a layer sees in place of its input.

    The first `num_prefix` positions of `hidden_NTD` are a prefix, which is cut off the layer's
    output again. `mask_NT` covers the prefix too.
    """

    hidden_NTD: Tensor
    mask_NT: Tensor
    num_prefix: int = 0


# Called before each layer with its number (from 0), its input [N, T, D] and the mask [N, T] of that
# input.
BeforeLayer = Callable[[int, Tensor, Tensor], LayerInput]
# Called with a layer's other arguments, by name, and what it sees; returns the arguments that fit.
Fit = Callable[[dict[str, Any], LayerInput], dict[str, Any]]


@contextmanager
def seams(
    layers: nn.ModuleList,
    before_layer: BeforeLayer | None,
    mask_NT: Tensor,
    fit: Fit | None = None,
) -> Iterator[list[Tensor]]:
    """Have `before_layer` change what the layers see in one forward pass.

    `mask_NT` is the first layer's mask. `fit` fits the arguments of a family's own kind, such as
    positions, to what a layer sees, also when nothing else changes it. Yields the list of masks,
    whose last item, after the pass, is that of the output.
    """
    masks = [mask_NT]
    with ExitStack() as hooks:
        if before_layer is not None or fit is not None:
            for number, layer in enumerate(layers):
                seam = _Seam(number, before_layer or _unchanged, masks, fit)
                before = layer.register_forward_pre_hook(seam.before, with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(layer.register_forward_hook(seam.after).remove)
        yield masks


class _Seam:
    """The two hooks of one layer."""

    def __init__(
        self, number: int, before_layer: BeforeLayer, masks: list[Tensor], fit: Fit | None
    ) -> None:
        self._number, self._before_layer, self._masks = number, before_layer, masks
        self._fit = fit
        self._num_prefix = 0

    def before(
        self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Any, Any]:
        hidden_NTD, *rest = arguments
        seen: LayerInput = self._before_layer(self._number, hidden_NTD, self._masks[-1])
        self._num_prefix = seen.num_prefix

        if named.get("attention_mask") is not None:
            named = named | {"attention_mask": _like(named["attention_mask"], seen.mask_NT)}
        if self._fit is not None:
            named = self._fit(named, seen)
        self._masks.append(seen.mask_NT[:, seen.num_prefix :])

        return (seen.hidden_NTD, *rest), named

    def after(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0][:, self._num_prefix :], *output[1:])
        return output[:, self._num_prefix :]


def _like(given: Tensor, mask_NT: Tensor) -> Tensor:
    """Bring `mask_NT` to the form of the mask that the layer was given.

    That is [N, T], or [N, 1, T, T] of booleans or of bias.
    """
    if given.dim() == 2:
        return mask_NT.to(given.dtype)

    if given.dtype == torch.bool:
        return mask_NT[:, None, None, :].expand(-1, 1, mask_NT.shape[1], -1)
    return attention_bias(mask_NT, given.dtype)


def attention_bias(mask_NT: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as the bias [N, 1, T, T] that keeps attention away from the positions outside it."""
    allowed = mask_NT[:, None, None, :].expand(-1, 1, mask_NT.shape[1], -1)
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def _unchanged(_: int, hidden_NTD: Tensor, mask_NT: Tensor) -> LayerInput:
    return LayerInput(hidden_NTD, mask_NT)
