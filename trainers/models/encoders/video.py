"""The adapter of VideoMAE, whose clips have a fixed number of pictures, so nothing is padded.

Hidden patches do not enter VideoMAE at all: of T patches, its layers see those that are not hidden,
and every clip of a batch must hide equally many.

Shapes: N utterances, T patches.
"""

import torch
from torch import Tensor, nn

from shards.loading.inputs import Modality
from trainers.models.encoders.adapter import EncoderAdapter
from trainers.models.encoders.seams import BeforeLayer, seams


class VideoAdapter(EncoderAdapter):
    """transformers' VideoMAE; its frames are the patches of the clip, two pictures deep."""

    FRONT_ENDS = ("embeddings",)

    @property
    def modality(self) -> Modality:
        return "video"

    @property
    def layers(self) -> nn.ModuleList:
        found: nn.ModuleList = self.model.encoder.layer
        return found

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        """Count the patches [N] of a clip, which are always as many."""
        config = self.model.config
        num_patches = (config.image_size // config.patch_size) ** 2 * (
            config.num_frames // config.tubelet_size
        )
        return torch.full_like(lengths_N, num_patches)

    def run(
        self,
        inputs: Tensor,
        lengths_N: Tensor,
        before_layer: BeforeLayer | None,
        hide_NT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        num_patches = int(self.num_frames(lengths_N)[0])
        if hide_NT is not None:
            num_patches -= int(hide_NT[0].sum())
        mask_NT = torch.ones(len(inputs), num_patches, dtype=torch.bool, device=inputs.device)

        with seams(self.layers, before_layer, mask_NT) as masks:
            dtype = next(self.model.parameters()).dtype
            output = self.model(inputs.to(dtype), bool_masked_pos=hide_NT)
        return output.last_hidden_state, masks[-1]
