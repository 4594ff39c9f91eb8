"""The adapter of the project's own small encoder, which has the seam in its own loop.

Shapes: N utterances, T frames.
"""

from typing import Any

from torch import Tensor, nn

from shards.loading.inputs import Modality
from trainers.models.encoders.adapter import SpeechAdapter
from trainers.models.encoders.seams import BeforeLayer
from trainers.models.encoders.sequence import SequenceEncoder
from trainers.models.parts.log_mel import HOP_SAMPLES


class SmallAdapter(SpeechAdapter):
    """The adapter of `SequenceEncoder`; methods that name samples or masks are for sound only."""

    FRONT_ENDS = ("subsampling", "projection")

    def __init__(self, model: SequenceEncoder) -> None:
        super().__init__(model)
        model.mask_embedding.requires_grad_(False)  # without masked prediction it has no gradient

    @property
    def modality(self) -> Modality:
        return "face" if self.model.config.front_end == "face" else "audio"

    @property
    def layers(self) -> nn.ModuleList:
        found: nn.ModuleList = self.model.layers
        return found

    @property
    def mask_embedding(self) -> nn.Parameter:
        found: nn.Parameter = self.model.mask_embedding
        return found

    @property
    def projected(self) -> nn.Module:
        found: nn.Module = self.model.projection if self.modality == "face" else self.front_end
        return found

    @property
    def hop_samples(self) -> int:
        return HOP_SAMPLES * int(self.model.subsampling_factor)

    @property
    def front_end(self) -> nn.Module:
        found: nn.Module = self.model.subsampling[-1]
        return found

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        found: Tensor = self.model.num_frames(lengths_N)
        return found

    def learn_mask(self) -> None:
        self.mask_embedding.requires_grad_(True)

    def run(
        self,
        inputs: Tensor,
        lengths_N: Tensor,
        before_layer: BeforeLayer | None,
        hide_NT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        found: Any = self.model(inputs, lengths_N, before_layer, hide_NT)
        return found[0], found[1]
