"""MulT (Tsai et al. 2019) for two streams: each looks at the other, and then at itself.

Departures: sound and faces in place of text, sound and faces; the projection of the branches in
place of a convolution of kernel 1; attentive statistics pooling in place of the last frame.

Shapes: N utterances, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.parts.pooling import AttentiveStatisticsPooling
from trainers.models.two_stage.baselines.streams import (
    Baseline,
    CrossModal,
    Joined,
    SelfAttention,
    one_answer,
)
from trainers.models.two_stage.branch import pooled_or_zero
from trainers.models.two_stage.configuration import BranchConfig
from trainers.models.two_stage.shared import Stream

# The published code has at least so many layers of self-attention.
FEWEST_SELF_LAYERS = 3


class MultimodalTransformer(Baseline):
    """Cross-modal layers in both directions, self-attention, pooling, and a residual head."""

    def __init__(self, sizes: BranchConfig, num_classes: int, *, num_layers: int) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.feature_width = 4 * width

        self.cross = nn.ModuleList(CrossModal(sizes, num_layers) for _ in range(2))
        self.own = nn.ModuleList(
            SelfAttention(sizes, max(num_layers, FEWEST_SELF_LAYERS)) for _ in range(2)
        )
        self.pool = AttentiveStatisticsPooling(width)
        self.head = ResidualHead(self.feature_width, num_classes, sizes.dropout_probability)

    def forward(self, streams: Sequence[Stream]) -> Joined:
        """Answer by both streams together; an absent one is 0 in front of the head."""
        sound, face = streams
        crossed = [self.cross[0](sound, face), self.cross[1](face, sound)]

        own = [part(stream) for part, stream in zip(self.own, crossed, strict=True)]
        pooled = torch.cat([pooled_or_zero(self.pool, *stream) for stream in own], dim=1)
        return one_answer(self.head(pooled), pooled)


class ResidualHead(nn.Module):
    """Two layers added to their input, and a third to logits."""

    def __init__(self, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.answer = nn.Linear(width, num_classes)

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute logits [N, C]."""
        hidden = self.second(self.dropout(F.relu(self.first(pooled))))
        found: Tensor = self.answer(pooled + hidden)
        return found
