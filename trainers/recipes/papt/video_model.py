"""A masked predictor of video, as the engine trains it.

Shapes: N utterances.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from shards.loading.loader import Batch
from trainers.models.parts.tube_mask import tube_mask
from trainers.models.video_predictor import MaskedVideoPredictor
from trainers.task import TrainingModel


class VideoPretrainingModel(TrainingModel):
    """A masked predictor that hides parts of each clip.

    `numbers` are the positions of the speakers' embeddings.
    """

    def __init__(
        self, predictor: MaskedVideoPredictor, mask_ratio: float, numbers: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.predictor, self._mask_ratio, self._numbers = predictor, mask_ratio, numbers

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the error of the hidden patches, `masked`, which is the loss."""
        seed = int(torch.randint(2**62, ()))
        masked = self._error(batch, np.random.default_rng(seed))
        return {"loss": masked, "masked": masked}

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """Give each utterance the mean error of its batch [N, 1].

        All utterances hide equally many patches, so that the mean over utterances is exact. Which
        patches are hidden depends only on the batch's number.
        """
        error = self._error(batch, np.random.default_rng(batch.number + 1))
        return error.expand(len(batch), 1)

    def checkpoint_gradients(self) -> None:
        """Compute the encoder's layers again in the backward pass, to save memory."""
        self.predictor.encoder.checkpoint_gradients()

    def _error(self, batch: Batch, rng: np.random.Generator) -> Tensor:
        config, device = self.predictor.encoder.model.config, batch.rows.device
        hide_NT = tube_mask(
            len(batch),
            config.num_frames // config.tubelet_size,
            (config.image_size // config.patch_size) ** 2,
            ratio=self._mask_ratio,
            rng=rng,
        )

        speakers_N = None
        if self.predictor.speakers is not None:
            numbers = [self._numbers[speaker] for speaker in batch.speakers]
            speakers_N = torch.tensor(numbers, device=device)
        return self.predictor(
            batch.inputs["clip"].values, torch.from_numpy(hide_NT).to(device), speakers_N
        )
