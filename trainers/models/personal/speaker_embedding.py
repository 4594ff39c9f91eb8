"""One learned embedding for each training speaker, fused into an encoder.

This is section 4 of papt-pldc, and the fusions are those of its Table 4. `last` adds the embedding
to every frame that the encoder puts out (the paper's choice). `first` adds it to the input of the
first transformer layer. `prefix` puts it in front of that input as one more position, which stays
through all layers.

A speaker without an embedding borrows that of the most alike training speaker, the proxy. Speakers
are compared by the cosine of the vectors that the original encoder gives; the vectors of the
training speakers are kept beside the embeddings.

Shapes: N utterances, T frames, D width, S speakers, V width of the original encoder.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from trainers.models.encoders.seams import BeforeLayer, LayerInput
from trainers.models.parts.float32_buffers import Float32Buffers

SpeakerFusion = Literal["last", "first", "prefix"]
INITIAL_STD = 0.02


class SpeakerEmbedding(Float32Buffers, nn.Module):
    """The embeddings [S, D] of S speakers, and the vectors [S, V] by which proxies are found."""

    vectors: Tensor

    def __init__(
        self, num_speakers: int, width: int, vector_width: int, fusion: SpeakerFusion
    ) -> None:
        super().__init__()
        self._fusion = fusion
        self.table = nn.Embedding(num_speakers, width)
        # Small beside the frames, so that training starts near the original encoder.
        nn.init.normal_(self.table.weight, std=INITIAL_STD)
        self.register_buffer("vectors", torch.zeros(num_speakers, vector_width))

    def before_layer(self, speakers_N: Tensor) -> BeforeLayer | None:
        """Return how the embeddings of `speakers_N` change what the layers see."""
        if self._fusion == "last":
            return None

        embeddings_N1D = self.table(speakers_N).unsqueeze(1)

        def fuse(number: int, hidden_NTD: Tensor, mask_NT: Tensor) -> LayerInput:
            if number > 0:
                return LayerInput(hidden_NTD, mask_NT)
            if self._fusion == "first":
                return LayerInput(hidden_NTD + embeddings_N1D.to(hidden_NTD.dtype), mask_NT)

            taken_N1 = mask_NT.new_ones(len(mask_NT), 1)
            joined_NTD = torch.cat([embeddings_N1D.to(hidden_NTD.dtype), hidden_NTD], dim=1)
            return LayerInput(joined_NTD, torch.cat([taken_N1, mask_NT], dim=1))

        return fuse

    def after_layers(
        self, frames_NTD: Tensor, mask_NT: Tensor, speakers_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Personalize the frames and the mask that the encoder put out."""
        if self._fusion == "last":
            return frames_NTD + self.table(speakers_N).unsqueeze(1).to(frames_NTD.dtype), mask_NT

        start = 1 if self._fusion == "prefix" else 0
        return frames_NTD[:, start:], mask_NT[:, start:]
