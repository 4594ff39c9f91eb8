"""The student, its decoder, the teacher and the loss, as the engine trains them.

All utterances of a batch are cropped to the shortest, so nothing is padded. The front end hears
each utterance once, and so does the teacher; the student hears it `clones` times, each time with
other frames hidden.

Shapes: N utterances, M clones, S samples, T frames, K kept frames, D width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shards.loading.loader import Batch
from shards.media.sound_format import SAMPLE_RATE_HZ
from trainers.models.encoders.data2vec.decoders import Decoder
from trainers.models.encoders.data2vec.encoder import Data2VecEncoder
from trainers.models.encoders.layerwise import checkpoint_layers
from trainers.models.parts.layers import frame_mask
from trainers.models.parts.waveforms import normalized
from trainers.recipes.emotion2vec.config import Emotion2vecConfig, decay_at
from trainers.recipes.emotion2vec.masks import exact_span_masks
from trainers.recipes.emotion2vec.objective import (
    CollapseGuard,
    averaged_over_layers,
    spread,
    squared_error,
)
from trainers.recipes.emotion2vec.teacher import Teacher
from trainers.task import TrainingModel

# The scores of an utterance: its two terms, the mean square of its frames' targets, and then its
# own target, of which validation measures the spread.
NUM_PLAIN_SCORES = 3


@dataclass(frozen=True)  # no slots: ZeRO looks for tensors in __dict__
class Predictions:
    """What one pass predicts and what it should have.

    `frame_errors_NM` [N, M] are means over hidden frames, `utterance_errors_NM` [N, M] those of
    utterances; either is None when the loss has no such term. `targets` and `predictions` are those
    of hidden frames [frames, D], `utterance_targets_ND` those of utterances.
    """

    frame_errors_NM: Tensor | None
    utterance_errors_NM: Tensor | None
    targets: Tensor
    predictions: Tensor | None
    utterance_targets_ND: Tensor


class Emotion2vecModel(TrainingModel):
    """Student and teacher."""

    def __init__(
        self, encoder: Data2VecEncoder, decoder: Decoder, config: Emotion2vecConfig
    ) -> None:
        super().__init__()
        self._config, self._guard = config, CollapseGuard(config)
        self._num_targets = config.targets.top_layers or (
            encoder.config.num_hidden_layers - encoder.config.num_prenet_layers
        )

        self.encoder, self.decoder = encoder, decoder
        self.teacher = Teacher(encoder.body)
        encoder.body.layer_drop = config.layer_drop
        if not self._predicts_frames:
            decoder.requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss and its terms (Eq. 9), and the spreads over the batch.

        `utterance_spread` is the spread of the utterances' targets, which nothing keeps from
        shrinking; a batch of one utterance has none.
        """
        seed = int(torch.randint(2**62, ()))
        samples_NS, hide_NMT = self.draw(batch, np.random.default_rng(seed), self._config.clones)
        found = self.predict(samples_NS, hide_NMT)
        self._guard.see(found.targets, found.predictions)

        terms = {}
        if found.frame_errors_NM is not None:
            terms["frame"] = found.frame_errors_NM.mean()
        if found.utterance_errors_NM is not None:
            terms["utterance"] = found.utterance_errors_NM.mean()

        weights = {"frame": 1.0, "utterance": self._config.alpha}
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        spreads = {
            "target_spread": spread(found.targets),
            "utterance_spread": spread(found.utterance_targets_ND),
        }
        if found.predictions is not None:
            spreads["prediction_spread"] = spread(found.predictions.detach())
        return {"loss": loss, **terms, **spreads}

    def batch_weight(self, batch: Batch) -> float:
        """Count the hidden frames, which the frame term is a mean over; else the utterances."""
        if not self._config.has_frame_term:
            return float(len(batch))

        num_frames = self._num_frames(self._num_samples(batch))
        return float(len(batch) * int(self._config.mask_share * num_frames))

    def after_step(self, step: int) -> None:
        """Let the teacher follow the student, and end a run that has collapsed."""
        self.teacher.follow(self.encoder.body, decay_at(step, self._config))
        self._guard.check(step)

    def checkpoint_gradients(self) -> None:
        """Compute the student's layers again in the backward pass, to save memory."""
        checkpoint_layers(self.encoder.body.layers)

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """Compute each utterance's terms, the mean square of its targets, and its own target.

        They are [N, 3 + D]. What is cropped and hidden depends only on the batch's number.
        """
        rng = np.random.default_rng(batch.number + 1)
        samples_NS, hide_NMT = self.draw(batch, rng, 1)
        with torch.random.fork_rng():
            torch.manual_seed(batch.number + 1)
            found = self.predict(samples_NS, hide_NMT)

        nothing_N = samples_NS.new_zeros(len(batch))
        frame_N = nothing_N if found.frame_errors_NM is None else found.frame_errors_NM[:, 0]
        utterance_N = (
            nothing_N if found.utterance_errors_NM is None else found.utterance_errors_NM[:, 0]
        )
        square_N = found.targets.square().mean(dim=1).reshape(len(batch), -1).mean(dim=1)
        return torch.cat(
            [torch.stack([frame_N, utterance_N, square_N], dim=1), found.utterance_targets_ND],
            dim=1,
        )

    def draw(self, batch: Batch, rng: np.random.Generator, clones: int) -> tuple[Tensor, Tensor]:
        """Crop the utterances [N, S], and choose the frames [N, M, T] to hide."""
        config, sound = self._config, batch.inputs["sound"]
        values_NS = sound.values
        if self.encoder.config.normalize:
            values_NS = normalized(values_NS, frame_mask(sound.lengths, values_NS.shape[1]))

        num_samples = self._num_samples(batch)
        starts = [int(rng.integers(length - num_samples + 1)) for length in sound.lengths.tolist()]
        samples_NS = torch.stack(
            [row[start : start + num_samples] for row, start in zip(values_NS, starts, strict=True)]
        )

        # Drawn after cropping: masks of uncropped utterances would hide other numbers of frames.
        num_frames = self._num_frames(num_samples)
        masks = exact_span_masks(
            len(batch) * clones,
            num_frames,
            share=config.mask_share,
            adjust=config.mask_adjust,
            span_length=config.mask_length,
            rng=rng,
        )
        hide_NMT = torch.from_numpy(masks).view(len(batch), clones, num_frames)
        return samples_NS, hide_NMT.to(samples_NS.device)

    def predict(self, samples_NS: Tensor, hide_NMT: Tensor) -> Predictions:
        """Hide frames of `samples_NS`, each row of which is whole, and predict their targets.

        Every clone hides equally many frames.
        """
        config, clones = self._config, hide_NMT.shape[1]
        lengths_N = torch.full((len(samples_NS),), samples_NS.shape[1], device=samples_NS.device)
        frames_NTD = self.encoder.front_end(samples_NS, lengths_N)
        everything_NT = torch.ones_like(hide_NMT[:, 0])
        targets_NTD, utterance_targets_ND = self._targets(frames_NTD.detach(), everything_NT)

        hide_CT = hide_NMT.flatten(0, 1)  # C clones of all utterances
        heard = self.encoder.body(
            frames_NTD.repeat_interleave(clones, dim=0),
            torch.ones_like(hide_CT),
            hide_CT,
            remove_hidden=self.encoder.config.removes_hidden_frames,
        )
        predicted_CTD = self.decoder(heard.frames_NTD, hide_CT) if self._predicts_frames else None

        hidden_targets = targets_NTD.repeat_interleave(clones, dim=0)[hide_CT]
        hidden_predictions = frame_errors_NM = utterance_errors_NM = None
        if config.has_frame_term and predicted_CTD is not None:
            hidden_predictions = predicted_CTD[hide_CT]
            errors = squared_error(hidden_predictions, hidden_targets)
            frame_errors_NM = errors.view(*hide_NMT.shape[:2], -1).mean(dim=2)
        if config.has_utterance_term:
            answer_CD = self._utterance(heard.tokens_NXD, heard.frames_NTD, predicted_CTD)
            errors = squared_error(answer_CD, utterance_targets_ND.repeat_interleave(clones, dim=0))
            utterance_errors_NM = errors.view(hide_NMT.shape[:2])

        return Predictions(
            frame_errors_NM,
            utterance_errors_NM,
            hidden_targets,
            hidden_predictions,
            utterance_targets_ND,
        )

    @property
    def _predicts_frames(self) -> bool:
        """Whether anything needs the decoder."""
        config = self._config
        return config.has_frame_term or (
            config.utterance == "global" and config.global_over == "predicted"
        )

    @torch.no_grad()
    def _targets(self, frames_NTD: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """What frames [N, T, D] and utterances [N, D] are to be predicted as (Eq. 3 and 6)."""
        heard = self.teacher(frames_NTD, mask_NT, want_feed_forwards=True)
        outputs, config = heard.feed_forwards[-self._num_targets :], self._config.targets

        targets_NTD = averaged_over_layers(outputs, config.frame)
        if config.utterance == config.frame:
            return targets_NTD, targets_NTD.mean(dim=1)
        return targets_NTD, averaged_over_layers(outputs, config.utterance).mean(dim=1)

    def _utterance(
        self, tokens_CXD: Tensor, frames_CKD: Tensor, predicted_CTD: Tensor | None
    ) -> Tensor:
        """The prediction [C, D] of each utterance (Eq. 7)."""
        if self._config.utterance != "global":
            return tokens_CXD.float().mean(dim=1)
        if self._config.global_over == "kept" or predicted_CTD is None:
            return frames_CKD.float().mean(dim=1)
        return predicted_CTD.float().mean(dim=1)

    def _num_samples(self, batch: Batch) -> int:
        """To how many samples the utterances are cropped."""
        longest = round(self._config.max_seconds * SAMPLE_RATE_HZ)
        return min(int(batch.inputs["sound"].lengths.min()), longest)

    def _num_frames(self, num_samples: int) -> int:
        return int(self.encoder.front_end.num_frames(torch.tensor(num_samples)))
