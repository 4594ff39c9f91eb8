"""Standardizes pooled features by their speaker, from utterances that need no labels.

Each feature loses the speaker's own mean and is divided by the speaker's own standard deviation.
A few utterances estimate both badly, so both lean on the training speakers, the mean as in a model
of random effects (Efron and Morris, "Stein's estimation rule and its competitors", Journal of the
American Statistical Association 68, 1973), the variance by a number of utterances, as the relevance
factor of MAP adaptation. For n utterances with mean m and variance v,

    mean     = (n m + r m_0) / (n + r),  r = v_0 / b
    variance = (n v + prior v_0) / (n + prior)

where m_0 is the mean over training speakers of their means, v_0 that of their variances, and b is
the variance of speakers' means, without what the finite number of their utterances adds to it. So
a single utterance does not become 0 as it would alone: features by which speakers differ little are
kept, and those by which speakers differ much are small. One number for r was the alternative: where
recordings differ by far more than emotions do, it left nothing of them.

Shapes: N utterances, D width, B sets, each of one speaker.
"""

import torch
from torch import Tensor, nn

from trainers.models.parts.float32_buffers import Float32Buffers

SMALLEST_VARIANCE = 1e-12
SMALLEST_SHARE = 1e-3  # of b in v_0: speakers differ at least a little


class SpeakerStandardizer(Float32Buffers, nn.Module):
    """Standardizes features of D numbers; `prior` counts in utterances.

    `mean`, `variance` and `between` [D] are m_0, v_0 and b.
    """

    mean: Tensor
    variance: Tensor
    between: Tensor

    def __init__(self, width: int, prior: float) -> None:
        super().__init__()
        self._prior = prior
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("between", torch.ones(width))

    def learn(self, pooled_ND: Tensor, speakers_N: Tensor) -> None:
        """Take m_0, v_0 and b from the training utterances, whose speakers are `speakers_N`.

        There must be at least two speakers.
        """
        counts_B1, means_BD, variances_BD = _moments(pooled_ND, speakers_N)
        variance_D = variances_BD.mean(dim=0)
        # A mean of n utterances is off by v_0 / n on average.
        excess_D = means_BD.var(dim=0) - variance_D * (1 / counts_B1).mean()

        self.mean.copy_(means_BD.mean(dim=0))
        self.variance.copy_(variance_D)
        self.between.copy_(torch.maximum(excess_D, SMALLEST_SHARE * variance_D))

    def forward(
        self, pooled_ND: Tensor, sets_N: Tensor, source_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Standardize features [N, D] by the means and deviations of their sets.

        `sets_N` numbers the set of each utterance, 0 to B - 1. Means and deviations are taken from
        the utterances where `source_N` is true, by default from all. Returns the standardized
        features and the mean [B, D] of each set.
        """
        source_N = torch.ones_like(sets_N, dtype=torch.bool) if source_N is None else source_N
        counts_B1, means_BD, variances_BD = _moments(pooled_ND[source_N], sets_N[source_N])

        variance_D = self.variance.double()
        ratio_D = variance_D / self.between.double().clamp_min(SMALLEST_VARIANCE)
        means_BD = torch.lerp(self.mean.double(), means_BD, counts_B1 / (counts_B1 + ratio_D))
        weight_B1 = counts_B1 / (counts_B1 + self._prior)
        variances_BD = torch.lerp(variance_D, variances_BD, weight_B1)

        deviations_BD = variances_BD.clamp_min(SMALLEST_VARIANCE).sqrt()
        standardized_ND = (pooled_ND.double() - means_BD[sets_N]) / deviations_BD[sets_N]
        return standardized_ND.float(), means_BD.float()


def _moments(pooled_ND: Tensor, sets_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The number of utterances [B, 1], mean and variance [B, D] of each set, in float64."""
    values_ND, num_sets = pooled_ND.double(), int(sets_N.max()) + 1

    counts_B1 = torch.bincount(sets_N, minlength=num_sets).double()[:, None]
    means_BD = values_ND.new_zeros(num_sets, values_ND.shape[1]).index_add(0, sets_N, values_ND)
    means_BD = means_BD / counts_B1

    squares_ND = (values_ND - means_BD[sets_N]).square()
    variances_BD = torch.zeros_like(means_BD).index_add(0, sets_N, squares_ND) / counts_B1
    return counts_B1, means_BD, variances_BD
