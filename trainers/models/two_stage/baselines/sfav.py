"""SFAV (Chumachenko et al. 2022): convolutions of each stream, joined by attention in three ways.

Each stream goes through two stages of two convolutions. `lt`, late transformer: after both stages,
each stream looks at the other. `it`, intermediate transformer: after the first stage, and what is
found is added to the stream. `ia`, intermediate attention: after the first stage, a frame is
multiplied by the attention that the frames of the other stream pay to it.

Departures: all convolutions as wide as the projection, with a norm of each frame in place of batch
statistics, which padding and batchmates change; no max-pooling of the sound; attentive statistics
pooling in place of the mean over time; the dense head of the branches in place of a linear one.

Shapes: N utterances, T frames, Q frames that look, K frames that are looked at, D width, H heads.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.parts.layers import clear_padding
from trainers.models.parts.pooling import AttentiveStatisticsPooling
from trainers.models.two_stage.baselines.streams import Baseline, CrossLayer, Joined, one_answer
from trainers.models.two_stage.branch import dense_head, pooled_or_zero, seen_by_attention
from trainers.models.two_stage.configuration import BranchConfig, SfavFusion
from trainers.models.two_stage.shared import Stream


class SelfAttentionFusion(Baseline):
    """Convolutions of two streams with one of the three fusions."""

    def __init__(
        self, sizes: BranchConfig, num_classes: int, *, fusion: SfavFusion, head_width: int
    ) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.feature_width = 4 * width
        self.fusion = fusion

        self.first = nn.ModuleList(Convolutions(width) for _ in range(2))
        self.second = nn.ModuleList(Convolutions(width) for _ in range(2))
        part = AttentionWeights if fusion == "ia" else CrossLayer
        self.across = nn.ModuleList(part(sizes) for _ in range(2))
        self.pool = AttentiveStatisticsPooling(width)
        self.head = dense_head(
            self.feature_width, head_width, num_classes, sizes.dropout_probability
        )

    def forward(self, streams: Sequence[Stream]) -> Joined:
        """Answer by both streams together; an absent one is 0 in front of the head."""
        stage_1 = [part(stream) for part, stream in zip(self.first, streams, strict=True)]
        if self.fusion != "lt":
            stage_1 = self._fused(stage_1)

        stage_2 = [part(stream) for part, stream in zip(self.second, stage_1, strict=True)]
        if self.fusion == "lt":
            stage_2 = self._fused(stage_2)

        pooled = torch.cat([pooled_or_zero(self.pool, *stream) for stream in stage_2], dim=1)
        return one_answer(self.head(pooled), pooled)

    def _fused(self, streams: Sequence[Stream]) -> list[Stream]:
        """Each stream after it has met the other one."""
        found = []
        for part, own, other in zip(self.across, streams, reversed(streams), strict=True):
            hidden_NTD, mask_NT = own
            if self.fusion == "ia":
                met_NTD = hidden_NTD * part(own, other).unsqueeze(-1)
            elif self.fusion == "it":
                met_NTD = hidden_NTD + part(hidden_NTD, other)
            else:
                met_NTD = part(hidden_NTD, other)
            found.append((met_NTD, mask_NT))
        return found


class Convolutions(nn.Module):
    """Two convolutions over time, each with a norm of every frame and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel_size=3, padding=1) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, stream: Stream) -> Stream:
        """Compute the frames [N, T, D], and return them with their mask."""
        hidden_NTD, mask_NT = stream
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            cleared_NTD = clear_padding(hidden_NTD, mask_NT)
            hidden_NTD = convolution(cleared_NTD.transpose(1, 2)).transpose(1, 2)
            hidden_NTD = F.relu(norm(hidden_NTD))
        return hidden_NTD, mask_NT


class AttentionWeights(nn.Module):
    """How much attention the frames of one stream get from those of another."""

    def __init__(self, sizes: BranchConfig) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.num_heads = sizes.num_attention_heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, looked_at: Stream, looking: Stream) -> Tensor:
        """Weights [N, K]: sums over the frames that look, means over heads; 1 if none looks."""
        (keys_NKD, mask_NK), (queries_NQD, mask_NQ) = looked_at, looking
        query_NHQD, key_NHKD = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(queries_NQD), self.key(keys_NKD))
        )

        scores_NHQK = query_NHQD @ key_NHKD.transpose(2, 3) / query_NHQD.shape[-1] ** 0.5
        unseen_NK = ~seen_by_attention(mask_NK)
        scores_NHQK = scores_NHQK.float().masked_fill(unseen_NK[:, None, None, :], -torch.inf)
        paid_NQK = scores_NHQK.softmax(dim=-1).mean(dim=1)

        weights_NK = torch.where(mask_NQ.unsqueeze(-1), paid_NQK, 0.0).sum(dim=1)
        weights_NK = torch.where(mask_NQ.any(dim=1, keepdim=True), weights_NK, 1.0)
        return weights_NK.to(keys_NKD.dtype)
