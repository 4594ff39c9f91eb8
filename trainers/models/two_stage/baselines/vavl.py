"""VAVL (Goncalves et al. 2024): layers of each stream, then shared ones, with a head for each case.

Three heads read what comes out of the shared layers: one of sound alone, one of faces alone, one of
both. The layers of each stream are those of its branch, and the shared ones, LN(x + f(x)), those of
stage 2. Attention is over time within an utterance; the published code attends over the batch by
mistake, and masks no padding.

Departures: transformer layers as in two-stage-aver; the three heads learn from every utterance at
once, by losses of the same weight; no reconstruction of the input features beside the labels.

Shapes: N utterances, J streams, D width, C classes.
"""

from collections.abc import Sequence

import torch
from torch import nn

from trainers.models.two_stage.baselines.streams import Baseline, Joined, heard
from trainers.models.two_stage.branch import dense_head
from trainers.models.two_stage.configuration import BranchConfig
from trainers.models.two_stage.shared import SharedLayers, Stream


class VersatileLearner(Baseline):
    """Shared layers with an audio-visual head, and a head for each stream alone."""

    def __init__(
        self, sizes: BranchConfig, num_classes: int, *, num_shared_layers: int, head_width: int
    ) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.feature_width = 4 * width
        self.shared = SharedLayers(
            sizes,
            num_classes,
            num_streams=2,
            num_layers=num_shared_layers,
            head_width=head_width,
        )
        self.own_heads = nn.ModuleList(
            dense_head(2 * width, head_width, num_classes, sizes.dropout_probability)
            for _ in range(2)
        )

    def forward(self, streams: Sequence[Stream]) -> Joined:
        """Answer by the audio-visual head, or by that of the only stream that exists."""
        pooled = self.shared.pooled(streams)
        logits = [self.shared.answer(pooled)]
        for head, part in zip(self.own_heads, pooled.chunk(2, dim=1), strict=True):
            logits.append(head(part))

        both, sound, face = learned = tuple(one.float().log_softmax(dim=-1) for one in logits)
        has_sound_N1, has_face_N1 = heard(streams).chunk(2, dim=1)
        alone = torch.where(has_sound_N1, sound, face)
        return Joined(torch.where(has_sound_N1 & has_face_N1, both, alone), pooled, learned)
