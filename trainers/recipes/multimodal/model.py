"""A speech encoder with a linear head for each objective (multimodal-adaptive-pretraining, III).

L = w1 MSE(O1) + lambda CE(O2) + w3 MSE(O3), Eq. 3, over the mean of the last layer's frames. Each
term is a mean over those utterances of the whole step that have its target.

Shapes: N utterances, D width, V values, J objectives.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards.loading.loader import Batch
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.parts.pooling import masked_mean
from trainers.recipes.multimodal.config import MultimodalConfig
from trainers.task import TrainingModel


class MultimodalModel(TrainingModel):
    """`forward(batch)` gives a term for each objective, and their weighted sum as `loss`."""

    def __init__(
        self, encoder: LayerwiseEncoder, options: MultimodalConfig, widths: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.encoder, self._options = encoder, options
        self.heads = nn.ModuleDict(
            {name: nn.Linear(encoder.width, width) for name, width in widths.items()}
        )
        self._rest_of_step: Tensor | None = None
        self._num_batches = 1

    @property
    def objectives(self) -> Sequence[str]:
        """The names of the objectives, in the order of their terms."""
        return list(self.heads)

    def batch_weight(self, batch: Batch) -> float:
        """Count every batch alike: the terms are means over the step already."""
        return 1.0

    def preview(self, batch: Batch) -> Tensor:
        """Count the utterances that have each target [1, J]."""
        return self._known(batch).sum(dim=0, keepdim=True)

    def see_rest_of_step(self, rest: Tensor | None, num_batches: int) -> None:
        """Keep the counts of the other batches for `forward`."""
        self._rest_of_step, self._num_batches = rest, num_batches

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the terms and their sum; a term is 0 where no utterance has its target.

        The engine takes the mean over the batches of a step, so the sum over this batch is divided
        by the number of targets in a batch of mean size.
        """
        losses_NJ, known_NJ = self._losses(batch)
        counts_J = known_NJ.sum(dim=0)
        if self._rest_of_step is not None and self.training:
            counts_J = counts_J + self._rest_of_step.to(counts_J.device).sum(dim=0)

        scale = self._num_batches if self._rest_of_step is not None and self.training else 1
        terms_J = scale * losses_NJ.sum(dim=0) / counts_J.clamp_min(1.0)

        terms = dict(zip(self.objectives, terms_J.unbind(), strict=True))
        weights = self._options.objectives
        weighted = [weights[name] * term for name, term in terms.items()]
        return {"loss": sum(weighted[1:], start=weighted[0]), **terms}

    def checkpoint_gradients(self) -> None:
        """Compute the encoder's layers again in the backward pass, to save memory."""
        self.encoder.checkpoint_gradients()

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """Compute each objective's loss and whether it is known, for every utterance [N, 2J]."""
        losses_NJ, known_NJ = self._losses(batch)
        return torch.cat([losses_NJ, known_NJ], dim=1)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Compute what each head answers [N, V]: standardized values, logits for sentiment."""
        sound = batch.inputs["sound"]
        frames_NTD, mask_NT = self.encoder(sound.values, sound.lengths)
        pooled_ND = masked_mean(frames_NTD, mask_NT)

        # Every head is called for every batch, so that all ranks compute the same gradients.
        return {name: head(pooled_ND) for name, head in self.heads.items()}

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each utterance's loss, 0 where it is unknown, and whether it is known [N, J], float32."""
        answers = self.predict(batch)
        columns = [
            self._loss(name, answers[name].float(), batch.targets[name].float())
            for name in self.objectives
        ]
        return torch.stack(columns, dim=1), self._known(batch)

    def _known(self, batch: Batch) -> Tensor:
        columns = [batch.targets[name].isfinite().any(dim=1) for name in self.objectives]
        return torch.stack(columns, dim=1).float()

    def _loss(self, name: str, answers_NV: Tensor, targets_NV: Tensor) -> Tensor:
        known_NV = targets_NV.isfinite()
        # Before the difference: a NaN that is multiplied by 0 afterwards is still a NaN.
        targets_NV = torch.where(known_NV, targets_NV, 0.0)

        if name == "sentiment":
            return -(targets_NV * F.log_softmax(answers_NV, dim=1)).sum(dim=1)
        if name == "acoustics" and self._options.acoustics == "energy":
            losses_NV = F.binary_cross_entropy_with_logits(answers_NV, targets_NV, reduction="none")
        else:
            losses_NV = (answers_NV - targets_NV).square()

        losses_N = torch.where(known_NV, losses_NV, 0.0).sum(dim=1)
        if self._options.mse == "sum":
            return losses_N
        return losses_N / known_NV.sum(dim=1).clamp_min(1)
