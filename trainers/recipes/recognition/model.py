"""A recogniser with its loss, as the engine trains it.

Shapes: N utterances, C classes, V values."""

from collections.abc import Mapping

import torch
from torch import Tensor

from shards.loading.loader import Batch
from trainers.models.losses import ccc_loss, soft_cross_entropy
from trainers.models.parts.float32_buffers import Float32Buffers
from trainers.models.recognizer import EmotionRecognizer, Recognition
from trainers.recipes.recognition.config import FinetuneConfig, SetPeerConfig
from trainers.task import TrainingModel


class RecognitionModel(Float32Buffers, TrainingModel):
    """A recogniser with its loss: `forward(batch)` gives named terms, of which `loss` is minimised.

    `row_weights` weigh each training utterance in the supervised term, by its row in the index; `numbers` are those of
    the speakers' embeddings.
    """

    _row_weights: Tensor | None

    def __init__(
        self,
        recognizer: EmotionRecognizer,
        config: FinetuneConfig,
        class_weights: Tensor | None,
        numbers: Mapping[str, int],
        row_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.recognizer = recognizer
        self._config, self._class_weights, self._numbers = config, class_weights, numbers
        self.register_buffer("_row_weights", row_weights, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 8 for SetPeER; the supervised term alone without P."""
        found = self._recognise(batch)
        terms = {"supervised": self._supervised(found, batch), **found.terms}
        if isinstance(self._config, SetPeerConfig):
            config = self._config
            loss = config.classification_weight * terms["supervised"]
            loss = loss + config.contrastive_weight * terms.get("nce", 0.0) + config.vq_weight * terms["vq"]
        else:
            loss = terms["supervised"]
        return {"loss": loss, **terms}

    def after_step(self) -> None:
        """What P's codebook does between steps."""
        self.recognizer.after_step()

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """Probabilities [N, C] or values [N, V]."""
        found = self._recognise(batch)
        return found.scores_NC if self.recognizer.config.is_values else found.scores_NC.softmax(dim=-1)

    def _recognise(self, batch: Batch) -> Recognition:
        speakers = None
        if self.recognizer.speakers is not None:
            numbers = [self._numbers[speaker] for speaker in batch.speakers]
            speakers = torch.tensor(numbers, device=batch.inputs.device)
        found: Recognition = self.recognizer(batch.inputs, batch.lengths, batch.sets, speakers=speakers)
        return found

    def _supervised(self, found: Recognition, batch: Batch) -> Tensor:
        row_weights = None if self._row_weights is None else self._row_weights[batch.rows]
        if self.recognizer.config.is_values:
            return ccc_loss(found.scores_NC, batch.values, row_weights)
        weights = None if self._class_weights is None else self._class_weights.to(batch.probs.device)
        return soft_cross_entropy(found.scores_NC, batch.probs, weights, row_weights)
