"""Standardizes what enters an encoder's first layer by the speaker, as `speaker-normalized` does.

Each channel loses the mean over all frames of the speaker's set, and is divided by its standard
deviation. It has no parameters and needs no labels. On RAVDESS, whose twenty training actors are
too few for P to learn what speakers are like, it gave a small encoder most of what it lacked;
see docs/personalization.md.

Shapes: N utterances, T frames, D width, B sets.
"""

import torch
from torch import Tensor

from trainers.models.encoders.seams import BeforeLayer, LayerInput

SMALLEST_VARIANCE = 1e-5


class FrameStandardizer:
    """The seam before each layer, in one forward pass; `then` is what else happens there.

    `sets_N` numbers each utterance's set, 0 to B - 1. Means and deviations are of the utterances
    where `source_N` is true, by default of all.
    """

    def __init__(
        self, sets_N: Tensor, source_N: Tensor | None, then: BeforeLayer | None = None
    ) -> None:
        self._sets_N, self._then = sets_N, then
        self._source_N = torch.ones_like(sets_N, dtype=torch.bool) if source_N is None else source_N

    def __call__(self, layer: int, hidden_NTD: Tensor, mask_NT: Tensor) -> LayerInput:
        """Return what layer number `layer` sees in place of its input."""
        if layer == 0:
            hidden_NTD = self._standardized(hidden_NTD, mask_NT)
        if self._then is None:
            return LayerInput(hidden_NTD, mask_NT)
        return self._then(layer, hidden_NTD, mask_NT)

    def _standardized(self, hidden_NTD: Tensor, mask_NT: Tensor) -> Tensor:
        sets_N, values_NTD = self._sets_N, hidden_NTD.float()
        counted_NT1 = (mask_NT & self._source_N[:, None]).unsqueeze(-1)
        frames_B1 = self._by_set(counted_NT1.sum(dim=1).float())

        means_BD = self._by_set((values_NTD * counted_NT1).sum(dim=1)) / frames_B1
        centered_NTD = values_NTD - means_BD[sets_N][:, None]
        squares_ND = (centered_NTD.square() * counted_NT1).sum(dim=1)
        variances_BD = self._by_set(squares_ND) / frames_B1

        deviations_BD = (variances_BD + SMALLEST_VARIANCE).sqrt()
        standardized_NTD = centered_NTD / deviations_BD[sets_N][:, None]
        # Padding stays 0, as the layers expect it.
        return (standardized_NTD * mask_NT.unsqueeze(-1)).to(hidden_NTD.dtype)

    def _by_set(self, rows_NX: Tensor) -> Tensor:
        sums = rows_NX.new_zeros(int(self._sets_N.max()) + 1, rows_NX.shape[1])
        return sums.index_add(0, self._sets_N, rows_NX)
