"""A two-stage recognizer with its loss, as the engine trains it.

The loss is class-balanced (Cui et al.): each utterance's whole cross-entropy is multiplied by the
weight of its classes. Utterances that lack an input of the model teach nothing: stage 2 does not
answer to them.

Shapes: N utterances, C classes.
"""

import torch
from torch import Tensor

from shards.loading.loader import Batch
from trainers.models.losses import class_balanced_cross_entropy
from trainers.models.parts.float32_buffers import Float32Buffers
from trainers.models.two_stage.recognizer import TwoStageRecognizer
from trainers.task import TrainingModel

TARGET_NAME = "ratings"


class TwoStageModel(Float32Buffers, TrainingModel):
    """A recognizer and its loss; `class_weights` [C] weigh the classes, None: all alike."""

    _class_weights: Tensor | None

    def __init__(self, recognizer: TwoStageRecognizer, class_weights: Tensor | None) -> None:
        super().__init__()
        self.recognizer = recognizer
        self.register_buffer("_class_weights", class_weights, persistent=False)

    def batch_weight(self, batch: Batch) -> float:
        """Count the utterances that have all inputs."""
        return float(self._has_all(batch).sum())

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute `loss`, the mean over the utterances that have all inputs; 0 without any."""
        answers = self.recognizer(batch.inputs)
        learned = (answers.log_probs_NC,) if answers.learned is None else answers.learned
        losses = [
            class_balanced_cross_entropy(
                log_probs_NC, batch.targets[TARGET_NAME], self._class_weights
            )
            for log_probs_NC in learned
        ]
        losses_N = torch.stack(losses).mean(dim=0)

        has_all_N = self._has_all(batch)
        total = torch.where(has_all_N, losses_N, 0.0).sum()
        return {"loss": total / has_all_N.sum().clamp_min(1)}

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """Compute logarithms of probabilities [N, C]."""
        found: Tensor = self.recognizer(batch.inputs).log_probs_NC
        return found

    def _has_all(self, batch: Batch) -> Tensor:
        lengths = [heard.lengths for heard in batch.inputs.values()]
        return (torch.stack(lengths) > 0).all(dim=0)
