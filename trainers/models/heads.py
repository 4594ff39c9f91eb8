"""The heads of a recognizer: from pooled features to scores.

Shapes: N utterances, D width.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.parts.float32_buffers import Float32Buffers
from trainers.models.recognizer_config import RecognizerConfig

BATCH_NORM_MOMENTUM = 0.1


class BatchNorm(Float32Buffers, nn.BatchNorm1d):
    """Batch norm in float32, whatever the precision of the weights.

    A batch of one has no variance and is normalized by the running statistics.
    """

    def forward(self, hidden_ND: Tensor) -> Tensor:
        found_ND = F.batch_norm(
            hidden_ND.float(),
            self.running_mean,
            self.running_var,
            self.weight.float(),
            self.bias.float(),
            training=self.training and len(hidden_ND) > 1,
            momentum=BATCH_NORM_MOMENTUM,
            eps=self.eps,
        )

        return found_ND.to(hidden_ND.dtype)


def build_head(config: RecognizerConfig, width: int) -> nn.Module:
    """One linear layer, two, or PAPT's interpreter {128, 32} (papt-pldc, section 5)."""
    num_scores = len(config.names)
    if config.head == "linear":
        return nn.Sequential(nn.Dropout(config.head_dropout), nn.Linear(width, num_scores))

    if config.head == "two_layer":
        return nn.Sequential(
            nn.Linear(width, config.head_width),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.head_width, num_scores),
        )

    parts: list[nn.Module] = []
    for before, after in pairwise((width, 128, 32)):
        parts += [
            nn.Linear(before, after),
            BatchNorm(after),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
        ]

    return nn.Sequential(*parts, nn.Linear(32, num_scores))
