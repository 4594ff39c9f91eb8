"""TSLTM (Huang et al. 2020): a transformer joins the streams, an LSTM follows them through time.

The code is not public. Each stream looks at the other, and an LSTM reads what comes out.

Departures: the streams have different frame rates, so each has an LSTM of its own in place of one
over both side by side; attentive statistics pooling and one answer an utterance in place of an
answer for every moment. The number of layers and the width are those of the options.

Shapes: N utterances, T frames, D width.
"""

from collections.abc import Sequence

import torch
from torch import nn

from trainers.models.parts.pooling import AttentiveStatisticsPooling
from trainers.models.two_stage.baselines.streams import Baseline, CrossModal, Joined, one_answer
from trainers.models.two_stage.branch import dense_head, pooled_or_zero
from trainers.models.two_stage.configuration import BranchConfig
from trainers.models.two_stage.shared import Stream


class TransformerLstm(Baseline):
    """Cross-modal layers in both directions, an LSTM of each stream, pooling and head."""

    def __init__(
        self, sizes: BranchConfig, num_classes: int, *, num_layers: int, head_width: int
    ) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.feature_width = 4 * width

        self.cross = nn.ModuleList(CrossModal(sizes, num_layers) for _ in range(2))
        self.memories = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(2))
        self.pool = AttentiveStatisticsPooling(width)
        self.head = dense_head(
            self.feature_width, head_width, num_classes, sizes.dropout_probability
        )

    def forward(self, streams: Sequence[Stream]) -> Joined:
        """Answer by both streams together; an absent one is 0 in front of the head."""
        sound, face = streams
        crossed = [self.cross[0](sound, face), self.cross[1](face, sound)]

        parts = []
        for memory, (hidden_NTD, mask_NT) in zip(self.memories, crossed, strict=True):
            # It reads forwards only, so padding behind the last frame changes no frame.
            remembered_NTD, _ = memory(hidden_NTD)
            parts.append(pooled_or_zero(self.pool, remembered_NTD, mask_NT))

        pooled = torch.cat(parts, dim=1)
        return one_answer(self.head(pooled), pooled)
