"""Pooling over time that padding cannot reach; shared by every classifier here.

Shapes: B batch, T frames, H hidden, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked_mean_and_std(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean and (population) standard deviation over the frames where the mask is 1: [B, 2H].

    Both are computed in float32 whatever the model's precision, because a sum over a minute of
    bfloat16 frames would lose the small ones. The variance is kept away from 0, where the square
    root has no gradient.
    """
    mask_BT1 = mask_BT.unsqueeze(-1).float()
    count_B1 = mask_BT1.sum(dim=1).clamp_min(1.0)

    # Why `where` and no product: the padding may hold anything, and 0 * inf is not a number.
    frames_BTH = torch.where(mask_BT1 > 0, hidden_BTH.float(), 0.0)
    mean_BH = frames_BTH.sum(dim=1) / count_B1
    deviation_BTH = torch.where(mask_BT1 > 0, frames_BTH - mean_BH.unsqueeze(1), 0.0)
    variance_BH = deviation_BTH.square().sum(dim=1) / count_B1

    pooled = torch.cat([mean_BH, variance_BH.clamp_min(1e-5).sqrt()], dim=-1)
    return pooled.to(hidden_BTH.dtype)


def masked_mean(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean [B, H] over the frames where the mask is true, computed in float32.

    What stands in the padding has no influence.
    """
    mask_BT1 = mask_BT.unsqueeze(-1)
    total_BH = torch.where(mask_BT1, hidden_BTH.float(), 0.0).sum(dim=1)
    return (total_BH / mask_BT1.sum(dim=1).clamp_min(1)).to(hidden_BTH.dtype)


class AttentiveStatisticsPooling(nn.Module):
    """Attention-weighted mean and standard deviation over time (Okabe et al. 2018).

    From [B, T, D] to [B, 2D]. An utterance without a frame, whose mask is false throughout, weighs
    nothing: its mean is 0 and its deviation the least one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sap_linear = nn.Linear(width, width)
        self.attention = nn.Parameter(torch.randn(width, 1))

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Pool the frames where the mask is true."""
        score_BT = (torch.tanh(self.sap_linear(frames_BTD)) @ self.attention).squeeze(-1)

        # Why no infinity in place of the least number: a row of nothing else would become NaN.
        score_BT = score_BT.float().masked_fill(~mask_BT, torch.finfo(torch.float32).min)
        weight_BT1 = F.softmax(score_BT, dim=-1).masked_fill(~mask_BT, 0.0).unsqueeze(-1)

        # A difference of two squares can come out slightly below 0, where the root is not a number.
        frames32_BTD = frames_BTD.float()
        mean_BD = (frames32_BTD * weight_BT1).sum(dim=1)
        variance_BD = (frames32_BTD.square() * weight_BT1).sum(dim=1) - mean_BD.square()

        pooled = torch.cat([mean_BD, variance_BD.clamp_min(1e-5).sqrt()], dim=-1)
        return pooled.to(frames_BTD.dtype)
