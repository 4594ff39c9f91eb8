"""Puts P's embeddings of each set into an encoder, layer by layer, in one forward pass.

Before every layer P makes Q embeddings of each set from the layer's pooled input
(setpeer-emoceleb, section IV). They enter as a prefix that is replaced at the next layer.
`addition` and `cross_attention` are the paper's other fusions.

Shapes: N utterances, T frames, D width, B sets, Q embeddings, X numbers.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trainers.models.encoders.seams import LayerInput
from trainers.models.losses import Similarity, info_nce
from trainers.models.parts.pooling import masked_mean
from trainers.models.personal.halves import Halves
from trainers.models.personal.speaker_prefix import PersonalizedFeatureExtractor

Fusion = Literal["none", "prefix", "addition", "cross_attention"]


@dataclass(frozen=True, slots=True)
class Contrast:
    """What L_NCE compares: the halves of this pass, by a similarity, over a temperature."""

    halves: Halves
    similarity: Similarity
    temperature: float


class SetFuser:
    """Changes what each layer sees in one forward pass, and collects what P returned.

    `sets_N` numbers each utterance's set, 0 to B - 1; P sees the utterances where `source_N` is
    true. `attention` is given for fusion by cross-attention, `contrast` in training with L_NCE.
    """

    def __init__(
        self,
        extractor: PersonalizedFeatureExtractor,
        fusion: Fusion,
        attention: nn.MultiheadAttention | None,
        sets_N: Tensor,
        source_N: Tensor,
        contrast: Contrast | None,
    ) -> None:
        self._extractor, self._fusion, self._attention = extractor, fusion, attention
        self._sets_N, self._source_N, self._contrast = sets_N, source_N, contrast
        self.codes: list[Tensor] = []
        self._embeddings: list[Tensor] = []
        self._vq: list[Tensor] = []
        self._nce: list[Tensor] = []

    def __call__(self, layer: int, hidden_NTD: Tensor, mask_NT: Tensor) -> LayerInput:
        """Return what layer number `layer` sees in place of its input."""
        pooled_ND = masked_mean(hidden_NTD, mask_NT)
        source_N, sets_N = self._source_N, self._sets_N
        prefix = self._extractor(pooled_ND[source_N], sets_N[source_N], layer)

        self._embeddings.append(prefix.embeddings_BQD)
        self._vq.append(prefix.loss)
        if prefix.codes is not None:
            self.codes.append(prefix.codes)
        if self._contrast is not None:
            self._nce.append(self._compare_halves(self._contrast, pooled_ND, layer))

        return self._fuse(prefix.embeddings_BQD[sets_N], hidden_NTD, mask_NT)

    def speakers(self) -> Tensor:
        """P's embeddings of each set, averaged over layers and positions [B, D]."""
        return torch.stack(self._embeddings).mean(dim=(0, 2))

    def terms(self) -> dict[str, Tensor]:
        """L_VQ and L_NCE, averaged over layers."""
        terms = {"vq": torch.stack(self._vq).mean()}
        if self._contrast is not None:
            terms["nce"] = torch.stack(self._nce).mean()

        return terms

    def _fuse(self, prefix_NQD: Tensor, hidden_NTD: Tensor, mask_NT: Tensor) -> LayerInput:
        prefix_NQD = prefix_NQD.to(hidden_NTD.dtype)
        if self._fusion == "addition":
            return LayerInput(hidden_NTD + prefix_NQD, mask_NT)  # Q is 1

        taken_NQ = torch.ones(prefix_NQD.shape[:2], dtype=torch.bool, device=mask_NT.device)
        if self._attention is not None:
            seen_NQD, _ = self._attention(
                prefix_NQD, hidden_NTD, hidden_NTD, key_padding_mask=~mask_NT, need_weights=False
            )
            return LayerInput(seen_NQD, taken_NQ)

        joined_NTD = torch.cat([prefix_NQD, hidden_NTD], dim=1)  # Eq. 6
        return LayerInput(joined_NTD, torch.cat([taken_NQ, mask_NT], dim=1), prefix_NQD.shape[1])

    def _compare_halves(self, contrast: Contrast, pooled_ND: Tensor, layer: int) -> Tensor:
        """Eq. 7 for this layer; 0 where no set has two utterances."""
        halves = contrast.halves
        if not halves.num_sets:
            # P is called all the same: under ZeRO 3 the other ranks, whose sets have halves, wait
            # for this one's call.
            unused = self._extractor(pooled_ND[self._source_N], self._sets_N[self._source_N], layer)
            return 0.0 * unused.embeddings_BQD.float().sum()

        found = self._extractor(pooled_ND[halves.rows], halves.numbers, layer)
        first_BX, second_BX = found.embeddings_BQD.flatten(1).split(halves.num_sets)
        return info_nce(first_BX, second_BX, contrast.temperature, contrast.similarity)
