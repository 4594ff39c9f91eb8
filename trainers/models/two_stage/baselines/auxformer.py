"""AuxFormer (Goncalves and Busso 2022): a joint network, and one beside it for each stream alone.

The joint network is cross-modal and then looks at itself. In training it sometimes lacks a stream
(modality dropout), drawn for the whole batch. Each of the three answers learns the labels, by a
third of the loss; their mean is the answer.

Departures: modality dropout in training only, where the published code drops in development too;
attentive statistics pooling in place of the last frame; the probabilities are averaged, of the
answers whose input is there; dense heads as those of the branches.

Shapes: N utterances, T frames, D width, C classes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainers.models.parts.pooling import AttentiveStatisticsPooling
from trainers.models.two_stage.baselines.streams import (
    Baseline,
    CrossModal,
    Joined,
    SelfAttention,
    heard,
)
from trainers.models.two_stage.branch import dense_head, pooled_or_zero
from trainers.models.two_stage.configuration import BranchConfig
from trainers.models.two_stage.shared import Stream

# The share of training batches without sound in the joint network, and that without faces.
DROPPED_SHARE = 0.2
# So many times the frames go through the layers of an auxiliary network, as published.
AUXILIARY_PASSES = 3


class AuxFormer(Baseline):
    """A joint network and two auxiliary ones, with the mean of their probabilities."""

    def __init__(
        self, sizes: BranchConfig, num_classes: int, *, num_layers: int, head_width: int
    ) -> None:
        super().__init__()
        width, dropout = sizes.hidden_size, sizes.dropout_probability
        self.feature_width = 4 * width

        self.cross = nn.ModuleList(CrossModal(sizes, num_layers) for _ in range(2))
        self.own = nn.ModuleList(SelfAttention(sizes, num_layers) for _ in range(2))
        self.auxiliary = nn.ModuleList(SelfAttention(sizes, num_layers) for _ in range(2))
        self.pool = AttentiveStatisticsPooling(width)
        self.head = dense_head(self.feature_width, head_width, num_classes, dropout)
        self.auxiliary_heads = nn.ModuleList(
            dense_head(2 * width, head_width, num_classes, dropout) for _ in range(2)
        )

    def forward(self, streams: Sequence[Stream]) -> Joined:
        """Answer by the mean of the joint network's answer and those of the streams that exist."""
        pooled = self._joint(self._dropped(streams) if self.training else streams)
        logits = [self.head(pooled)]
        for part, head, stream in zip(self.auxiliary, self.auxiliary_heads, streams, strict=True):
            passed = stream
            for _ in range(AUXILIARY_PASSES):
                passed = part(passed)
            logits.append(head(pooled_or_zero(self.pool, *passed)))

        learned = tuple(one.float().log_softmax(dim=-1) for one in logits)
        return Joined(mean_of_heard(learned, heard(streams)), pooled, learned)

    def _joint(self, streams: Sequence[Stream]) -> Tensor:
        sound, face = streams
        crossed = [self.cross[0](sound, face), self.cross[1](face, sound)]

        own = [part(stream) for part, stream in zip(self.own, crossed, strict=True)]
        return torch.cat([pooled_or_zero(self.pool, *stream) for stream in own], dim=1)

    def _dropped(self, streams: Sequence[Stream]) -> list[Stream]:
        """The streams, one of which is absent throughout in some batches."""
        draw = torch.rand((), device=streams[0][0].device)
        stays = [draw >= DROPPED_SHARE, (draw < DROPPED_SHARE) | (draw >= 2 * DROPPED_SHARE)]
        return [
            (hidden_NTD, mask_NT & stay)
            for (hidden_NTD, mask_NT), stay in zip(streams, stays, strict=True)
        ]


def mean_of_heard(log_probs: Sequence[Tensor], heard_NJ: Tensor) -> Tensor:
    """Logarithms of the mean of the joint probabilities and of those of the streams that exist."""
    counts_NK = torch.cat([torch.ones_like(heard_NJ[:, :1]), heard_NJ], dim=1)
    stacked_NKC = torch.stack(list(log_probs), dim=1)
    stacked_NKC = stacked_NKC.masked_fill(~counts_NK[:, :, None], -math.inf)
    return stacked_NKC.logsumexp(dim=1) - counts_NK.sum(dim=1, keepdim=True).log()
