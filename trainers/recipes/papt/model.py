"""A masked predictor with its pseudo-labels, as the engine trains it.

Long utterances are cropped here.

Shapes: N utterances, S samples, T frames, L pseudo-labels, H hidden frames.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shards.loading.loader import Batch
from trainers.models.masked_predictor import MaskedPredictor
from trainers.models.parts.masking import span_mask
from trainers.recipes.papt.config import PretrainConfig
from trainers.recipes.papt.pseudo_labels import PseudoLabels
from trainers.task import TrainingModel

SCORE_NAMES = ("loss", "correct", "frames")  # sums over the hidden frames of an utterance


class PretrainingModel(TrainingModel):
    """A masked predictor with the pseudo-labels that it predicts."""

    def __init__(
        self,
        predictor: MaskedPredictor,
        config: PretrainConfig,
        labels: Mapping[str, PseudoLabels],
        numbers: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.predictor, self._config, self._labels, self._numbers = (
            predictor,
            config,
            labels,
            numbers,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss and its terms.

        `masked` is Eq. 1 as a mean over hidden frames, `penalty` is HuBERT's penalty on large
        features of the front end.
        """
        seed = int(torch.randint(2**62, ()))
        losses_H, correct_H, _, square = self._predict(batch, "train", np.random.default_rng(seed))

        masked = losses_H.sum() / max(1, len(losses_H))
        penalty = self._config.features_penalty * square

        return {
            "loss": masked + penalty,
            "masked": masked,
            "penalty": penalty,
            "accuracy": correct_H.mean(),
        }

    def batch_weight(self, batch: Batch) -> float:
        """Count the frames that `forward` will hide, which its loss is a mean over."""
        seed = int(torch.randint(2**62, ()))
        *_, hide_NT = self._hide(batch, np.random.default_rng(seed))
        return float(hide_NT.sum())

    def checkpoint_gradients(self) -> None:
        """Compute the encoder's layers again in the backward pass, to save memory."""
        self.predictor.encoder.checkpoint_gradients()

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """Compute SCORE_NAMES of each utterance [N, 3].

        Which frames are hidden depends only on the batch's number.
        """
        losses_H, correct_H, utterances_H, _ = self._predict(
            batch, "validation", np.random.default_rng(batch.number + 1)
        )

        sums_N3 = losses_H.new_zeros(len(batch), len(SCORE_NAMES))
        return sums_N3.index_add(
            0, utterances_H, torch.stack([losses_H, correct_H, torch.ones_like(losses_H)], dim=1)
        )

    def _predict(
        self, batch: Batch, split: str, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict the hidden frames.

        Returns the loss of each hidden frame, whether it was predicted and its utterance, and the
        mean square of the front end's output.
        """
        encoder = self.predictor.encoder
        samples_NS, lengths_N, starts, hide_NT = self._hide(batch, rng)
        frames = encoder.num_frames(lengths_N).tolist()

        # Labels start where the crop starts, and only those of the hidden frames are kept.
        labels = [
            self._labels[split].aligned(row, start, num_frames, encoder.hop_samples)[
                hidden[:num_frames]
            ]
            for row, start, num_frames, hidden in zip(
                batch.rows.tolist(), starts, frames, hide_NT, strict=True
            )
        ]

        device = batch.rows.device
        found = self.predictor(
            samples_NS, lengths_N, torch.from_numpy(hide_NT).to(device), self._speakers(batch)
        )

        labels_H = torch.from_numpy(np.concatenate(labels)).to(device)
        losses_H = F.cross_entropy(found.logits_HL, labels_H, reduction="none")
        correct_H = (found.logits_HL.argmax(dim=1) == labels_H).float()

        return (
            losses_H,
            correct_H,
            torch.from_numpy(np.nonzero(hide_NT)[0]).to(device),
            found.front_end_square,
        )

    def _hide(
        self, batch: Batch, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, list[int], NDArray[np.bool_]]:
        """Crop the utterances, and choose the frames [N, T] to hide."""
        config, encoder, sound = self._config, self.predictor.encoder, batch.inputs["sound"]
        samples_NS, lengths_N, starts = crop(
            sound.values, sound.lengths, config.max_samples, encoder.hop_samples, rng
        )

        hide_NT = span_mask(
            encoder.num_frames(lengths_N).tolist(),
            probability=config.mask_probability,
            span_length=config.mask_length,
            min_spans=config.min_spans,
            rng=rng,
        )
        return samples_NS, lengths_N, starts, hide_NT

    def _speakers(self, batch: Batch) -> Tensor | None:
        if self.predictor.speakers is None:
            return None

        return torch.tensor(
            [self._numbers[speaker] for speaker in batch.speakers], device=batch.rows.device
        )


def crop(
    samples_NS: Tensor,
    lengths_N: Tensor,
    max_samples: int,
    hop_samples: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, list[int]]:
    """Cut utterances to at most `max_samples` at random places.

    Returns them, their lengths and the sample that each starts at. Starts lie between frames, so
    that an encoder's frames are those of the uncut utterance.
    """
    if int(lengths_N.max()) <= max_samples:
        return samples_NS, lengths_N, [0] * len(lengths_N)

    spare = [max(0, length - max_samples) for length in lengths_N.tolist()]
    starts = [hop_samples * int(rng.integers(most // hop_samples + 1)) for most in spare]

    padded_NS = F.pad(samples_NS, (0, max_samples))
    cut = torch.stack(
        [row[start : start + max_samples] for row, start in zip(padded_NS, starts, strict=True)]
    )
    return cut, lengths_N.clamp_max(max_samples), starts
