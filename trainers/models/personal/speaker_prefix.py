"""SetPeER's personalized feature extractor P: from a speaker's utterances to prefixes for layers.

It makes Q embeddings for each layer from a set of utterances of one speaker. One small network
serves all layers (setpeer-emoceleb, section IV-B): it sees a layer's input, pooled over time, with
that layer's embedding added. It knows no order of the utterances and does not depend on the other
sets of a batch. With C = 64, Q = 4, M = 512 and 12 layers it has 438,912 parameters at D = 768 and
384,768 at D = 384.

Shapes: N utterances in B sets (K the largest), D width of the encoder, C width inside, Q
embeddings, M codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.models.personal.vector_quantizer import VectorQuantizer

FEED_FORWARD_WIDTH = 2048
NUM_HEADS = 4


@dataclass(frozen=True)  # no slots: ZeRO 3 looks for tensors in __dict__
class SpeakerPrefix:
    """What P makes of the sets, for one layer.

    These are the embeddings [B, Q, D] of each set, the quantizer's loss (0 without a quantizer) and
    the codes [B * Q] that it chose.
    """

    embeddings_BQD: Tensor
    loss: Tensor
    codes: Tensor | None


class PersonalizedFeatureExtractor(nn.Module):
    """The network P of Eq. 2 to 5."""

    def __init__(
        self,
        width: int,
        num_layers: int,
        *,
        code_width: int = 64,
        num_prefixes: int = 4,
        num_codes: int = 512,
        quantized: bool = True,
        commitment: float = 0.25,
        normalize_codes: bool = False,
        restart_codes: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self._num_prefixes = num_prefixes

        self.layer_embedding = nn.Embedding(num_layers, width)  # Phi
        self.reduce = nn.Linear(width, code_width)  # L_1
        self.contextualise = nn.TransformerEncoderLayer(
            code_width, NUM_HEADS, FEED_FORWARD_WIDTH, dropout, batch_first=True
        )  # T, without positions
        self.expand = nn.Linear(code_width, num_prefixes * code_width)  # L_2

        self.quantizer = (
            VectorQuantizer(
                num_codes,
                code_width,
                commitment=commitment,
                normalize=normalize_codes,
                restart=restart_codes,
            )
            if quantized
            else None
        )
        self.project = nn.Linear(code_width, width)  # L_3

    def forward(self, pooled_ND: Tensor, sets_N: Tensor, layer: int) -> SpeakerPrefix:
        """Compute the embeddings of each set for layer number `layer`.

        `sets_N` (0, 1, ...) says to which set each pooled utterance belongs.
        """
        number = torch.tensor(layer, device=pooled_ND.device)
        reduced_NC = self.reduce(pooled_ND + self.layer_embedding(number))  # Eq. 2

        grouped_BKC, mask_BK = _grouped(reduced_NC, sets_N)
        seen_BKC = self.contextualise(grouped_BKC, src_key_padding_mask=~mask_BK)  # Eq. 3

        mask_BK1 = mask_BK.unsqueeze(-1).to(seen_BKC.dtype)
        mean_BC = (seen_BKC * mask_BK1).sum(dim=1) / mask_BK1.sum(dim=1)
        vectors_BQC = self.expand(mean_BC).unflatten(-1, (self._num_prefixes, -1))  # Eq. 4

        if self.quantizer is None:
            return SpeakerPrefix(self.project(vectors_BQC), vectors_BQC.new_zeros(()), None)

        quantized = self.quantizer(vectors_BQC.flatten(0, 1))
        codes_BQC = quantized.vectors.view_as(vectors_BQC).to(vectors_BQC.dtype)
        return SpeakerPrefix(self.project(codes_BQC), quantized.loss, quantized.codes)  # Eq. 5


def _grouped(rows_NC: Tensor, sets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Arrange the rows as sets [B, K, C], with a mask [B, K] of the places that are taken."""
    sizes_B = torch.bincount(sets_N)
    order_N = torch.argsort(sets_N, stable=True)
    # The place of each row in its own set: its position less the sizes of the sets before.
    starts_B = sizes_B.cumsum(0) - sizes_B
    place_N = torch.arange(len(sets_N), device=sets_N.device) - starts_B[sets_N[order_N]]

    grouped = rows_NC.new_zeros(len(sizes_B), int(sizes_B.max()), rows_NC.shape[1])
    grouped = grouped.index_put((sets_N[order_N], place_N), rows_NC[order_N])

    mask_BK = torch.arange(grouped.shape[1], device=sets_N.device) < sizes_B.unsqueeze(1)
    return grouped, mask_BK
