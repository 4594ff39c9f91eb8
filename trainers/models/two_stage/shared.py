"""What joins branches in stage 2: the same residual layers for every stream, one after another.

Each stream goes through the layers by itself, LN(x + f(x)) with f a transformer layer, and is then
pooled by itself; all pooled streams, side by side, enter the head (two-stage-aver, section IV-B).
The pooling is shared as the layers are, so that another stream adds nothing but inputs of the head
and the order of streams is that of these inputs alone.

Shapes: N utterances, T frames, D width, J streams, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainers.models.parts.layers import EncoderLayer
from trainers.models.parts.pooling import AttentiveStatisticsPooling
from trainers.models.two_stage.branch import dense_head, pooled_or_zero, seen_by_attention
from trainers.models.two_stage.configuration import BranchConfig

# The frames [N, T, D] of a stream and their mask [N, T].
Stream = tuple[Tensor, Tensor]


class SharedLayers(nn.Module):
    """The residual layers, the pooling and the head of stage 2; `config` says how wide they are."""

    def __init__(
        self,
        config: BranchConfig,
        num_classes: int,
        *,
        num_streams: int,
        num_layers: int,
        head_width: int,
    ) -> None:
        super().__init__()
        width = config.hidden_size
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_layers))
        self.pool = AttentiveStatisticsPooling(width)
        self.head = dense_head(
            num_streams * 2 * width, head_width, num_classes, config.dropout_probability
        )

    def pooled(self, streams: Sequence[Stream]) -> Tensor:
        """Pool every stream by itself [N, J 2D]; a stream that an utterance lacks is 0 there."""
        return torch.cat([self._pooled(*stream) for stream in streams], dim=1)

    def answer(self, pooled: Tensor) -> Tensor:
        """Compute the logits [N, C] of pooled streams [N, J 2D], float32."""
        found: Tensor = self.head(pooled).float()
        return found

    def _pooled(self, hidden_NTD: Tensor, mask_NT: Tensor) -> Tensor:
        seen_NT = seen_by_attention(mask_NT)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden_NTD = norm(hidden_NTD + layer(hidden_NTD, seen_NT))

        return pooled_or_zero(self.pool, hidden_NTD, mask_NT)
