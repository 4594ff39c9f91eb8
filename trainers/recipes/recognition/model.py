"""A recognizer with its loss, as the engine trains it.

Shapes: N utterances, C classes, V values.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from shards.loading.loader import Batch
from trainers.evaluation.target import Target
from trainers.models.parts.float32_buffers import Float32Buffers
from trainers.models.recognizer import EmotionRecognizer, Recognition
from trainers.task import TrainingModel


class RecognitionModel(Float32Buffers, TrainingModel):
    """A recognizer with its loss: `forward(batch)` gives named terms, of which `loss` is minimized.

    `term_weights` weigh the terms in the loss. `row_weights` weigh each training utterance in the
    supervised term, by its row in the index. `numbers` are the positions of the speakers'
    embeddings.
    """

    _row_weights: Tensor | None

    def __init__(
        self,
        recognizer: EmotionRecognizer,
        target: Target,
        *,
        term_weights: Mapping[str, float],
        class_weights: Tensor | None,
        row_weights: Tensor | None,
        numbers: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.recognizer, self._target = recognizer, target
        self._term_weights, self._class_weights, self._numbers = (
            term_weights,
            class_weights,
            numbers,
        )
        self.register_buffer("_row_weights", row_weights, persistent=False)
        self._rest_of_step: Tensor | None = None
        self._num_batches = 1

    def batch_weight(self, batch: Batch) -> float:
        """Count utterances; a loss of values is already that of the whole step."""
        return 1.0 if self._target.kind == "values" else float(len(batch))

    def preview(self, batch: Batch) -> Tensor | None:
        """Give predicted values, true values and weights [N, 2 V + 1], for the concordance."""
        if self._target.kind != "values":
            return None

        return self._rows(self._recognize(batch).scores_NC, batch)

    def see_rest_of_step(self, rest: Tensor | None, num_batches: int) -> None:
        """Keep the rows of the other batches for `forward`."""
        self._rest_of_step, self._num_batches = rest, num_batches

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss and its terms.

        These are the supervised term and, with P, those of setpeer-emoceleb, Eq. 8; `loss` is their
        weighted sum.
        """
        found = self._recognize(batch)
        terms = {"supervised": self._supervised(found, batch), **found.terms}
        weighted = [
            weight * terms[name] for name, weight in self._term_weights.items() if name in terms
        ]

        return {"loss": sum(weighted[1:], start=weighted[0]), **terms}

    def checkpoint_gradients(self) -> None:
        """Compute the encoder's layers again in the backward pass, to save memory."""
        self.recognizer.encoder.checkpoint_gradients()

    def after_step(self, step: int) -> None:
        """Update P's codebook."""
        self.recognizer.after_step()

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """Compute probabilities [N, C] or values [N, V]."""
        return self._target.answers(self._recognize(batch).scores_NC)

    def _recognize(self, batch: Batch) -> Recognition:
        speakers = None
        if self.recognizer.speakers is not None:
            numbers = [self._numbers[speaker] for speaker in batch.speakers]
            speakers = torch.tensor(numbers, device=batch.rows.device)

        heard = batch.inputs[self.recognizer.input_name]
        found: Recognition = self.recognizer(
            heard.values, heard.lengths, batch.sets, speakers=speakers
        )
        return found

    def _supervised(self, found: Recognition, batch: Batch) -> Tensor:
        if self._rest_of_step is not None and self.training:
            return self._loss_of_step(self._rows(found.scores_NC, batch), self._rest_of_step)

        weights_N = None if self._row_weights is None else self._row_weights[batch.rows]
        return self._target.loss(
            found.scores_NC,
            batch.targets,
            class_weights=self._class_weights,
            row_weights_N=weights_N,
        )

    def _rows(self, values_NV: Tensor, batch: Batch) -> Tensor:
        weights_N = (
            values_NV.new_ones(len(batch))
            if self._row_weights is None
            else self._row_weights[batch.rows]
        )
        return torch.cat(
            [values_NV.float(), batch.targets[self._target.kind], weights_N[:, None]], dim=1
        )

    def _loss_of_step(self, own: Tensor, rest: Tensor) -> Tensor:
        """Compute the loss of all utterances of the step, with the gradient of this batch's own.

        The engine divides the sum of the batches' gradients by their number, so this multiplies
        the gradient by it, and leaves the value as it is.
        """
        rows = torch.cat([own, rest])
        width = len(self._target.names)
        loss = self._target.loss(
            rows[:, :width],
            {self._target.kind: rows[:, width:-1]},
            class_weights=None,
            row_weights_N=rows[:, -1],
        )
        return loss.detach() + self._num_batches * (loss - loss.detach())
