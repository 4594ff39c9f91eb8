"""SpecAugment on an encoder of any family: in training, some frames and channels are hidden.

A hook on the part that projects the features hides them, behind the convolutions and before the
layers, as wav2vec 2.0 is fine-tuned. Hidden frames become the checkpoint's mask embedding, which
the encoder met in its pre-training, or zero; hidden channels become zero. What is hidden is drawn
by torch's generator, which the engine seeds for every batch: a resumed run hides the same.

Shapes: N utterances, T frames, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shards.config import ConfigError
from trainers.models.encoders.adapter import EncoderAdapter
from trainers.models.parts.masking import SpecAugment


class Augmentation:
    """SpecAugment for the encoder of `adapter`, whose mask embedding learns if `learned`.

    Raises ConfigError for an encoder that offers none, or has no mask embedding.
    """

    def __init__(self, adapter: EncoderAdapter, spans: SpecAugment, *, learned: bool) -> None:
        family = adapter.model.config.model_type
        if adapter.projected is None:
            raise ConfigError(
                f"encoder.mask_time_probability, encoder.mask_channel_probability: got a {family} "
                "model, expected one of sound or face features; leave the options out"
            )

        self._adapter, self._part, self._spans = adapter, adapter.projected, spans
        self._embedding: nn.Parameter | None = None
        if learned and spans.time_probability > 0:
            self._embedding = adapter.mask_embedding
            if self._embedding is None:
                raise ConfigError(
                    f"encoder.mask_time_embedding: got learned for a {family} model without a mask "
                    "embedding, expected zero"
                )
            self._embedding.requires_grad_(True)

    @contextmanager
    def during(self, lengths_N: Tensor) -> Iterator[None]:
        """Hide frames and channels in one forward pass of inputs of these lengths."""
        seed = int(torch.randint(2**62, ()).item())
        rng, device = np.random.default_rng(seed), lengths_N.device
        frames_N = self._adapter.num_frames(lengths_N).tolist()
        width = int(self._adapter.model.config.hidden_size)

        frames_NT = torch.from_numpy(self._spans.frames(frames_N, rng)).to(device)
        channels_ND = torch.from_numpy(self._spans.channels(len(frames_N), width, rng)).to(device)

        def hide(_: nn.Module, __: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (self._hide(output[0], frames_NT, channels_ND), *output[1:])
            return self._hide(output, frames_NT, channels_ND)

        hook = self._part.register_forward_hook(hide)
        try:
            yield
        finally:
            hook.remove()

    def _hide(self, given: Tensor, frames_NT: Tensor, channels_ND: Tensor) -> Tensor:
        is_turned = self._adapter.PROJECTED_LAYOUT == "NDT"
        hidden_NTD = given.transpose(1, 2) if is_turned else given

        # A batch may be padded beyond its longest utterance.
        frames_NT = nn.functional.pad(frames_NT, (0, hidden_NTD.shape[1] - frames_NT.shape[1]))
        instead = hidden_NTD.new_zeros(()) if self._embedding is None else self._embedding
        # `where`, and not assignment, gives the embedding a gradient also if no frame is hidden.
        hidden_NTD = torch.where(frames_NT[:, :, None], instead.to(hidden_NTD.dtype), hidden_NTD)
        hidden_NTD = hidden_NTD.masked_fill(channels_ND[:, None, :], 0.0)
        return hidden_NTD.transpose(1, 2) if is_turned else hidden_NTD
