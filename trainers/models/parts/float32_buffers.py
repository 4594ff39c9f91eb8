"""Buffers that stay float32 when the weights around them become bfloat16.

DeepSpeed casts a whole module. That is meant for weights. But a window, filter bank, statistic or
running mean loses two thirds of its digits and is never trained back: log energies were off by
0.09.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor


class Float32Buffers:
    """A mixin for modules whose floating-point buffers keep their precision.

    The module's own buffers follow it to a device, but not to another precision.
    """

    _buffers: dict[str, Tensor | None]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[misc]  # nn.Module's, which is the next base
        for name, kept in before.items():
            now = self._buffers[name]
            if kept is not None and now is not None and now.dtype != kept.dtype:
                self._buffers[name] = kept.to(now.device)
        return self
