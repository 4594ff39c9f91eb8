"""An encoder without weights: an utterance is one frame of functionals, the honest baseline's.

It measures means and standard deviations over time of cepstra, or of face features, and of their
slopes. There is nothing to train and there are no layers, so P, prefixes and masked prediction have
no place in it. Being an encoder, it is saved, evaluated and asked for predictions like the others.

Shapes: N utterances, S samples, T frames, F features a frame, D width.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from shards.loading.inputs import Modality
from trainers.models.encoders.adapter import EncoderAdapter
from trainers.models.encoders.seams import BeforeLayer
from trainers.models.parts.functionals import (
    NUM_CEPSTRA,
    PER_FEATURE,
    CepstralFunctionals,
    over_time,
)


class StatisticsEncoderConfig(PretrainedConfig):
    """What is measured.

    `front_end` is "cepstra" for waveforms, or "face" for features of `feature_size` numbers a
    frame.
    """

    model_type = "emostream_statistics"

    def __init__(
        self,
        front_end: Literal["cepstra", "face"] = "cepstra",
        feature_size: int = NUM_CEPSTRA,
        **kwargs: Any,
    ) -> None:
        self.front_end = front_end
        self.feature_size = feature_size
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """The width D: how many numbers an utterance is described by."""
        return PER_FEATURE * self.feature_size


class StatisticsEncoder(PreTrainedModel):
    """Measures waveforms [N, S] or features [N, T, F] by functionals: one frame [N, 1, D]."""

    config_class = StatisticsEncoderConfig
    main_input_name = "inputs"

    def __init__(self, config: StatisticsEncoderConfig) -> None:
        super().__init__(config)
        # It remembers the device, which a model without weights would not know.
        self.register_buffer("place", torch.zeros(()), persistent=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """There are no weights."""

    @cached_property
    def _measure(self) -> Callable[[Tensor], NDArray[np.float32]]:
        # Made when needed: transformers builds a model that it loads on a device without memory.
        return CepstralFunctionals() if self.config.front_end == "cepstra" else over_time

    @torch.no_grad()
    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the frame of each utterance [N, 1, D], and its mask [N, 1], which is true.

        Each utterance is measured by itself, so that its batch changes nothing.
        """
        heard = zip(inputs.cpu().float(), lengths.tolist(), strict=True)
        rows_ND = np.stack([self._measure(media[:length]) for media, length in heard])

        frames_N1D = torch.from_numpy(rows_ND)[:, None].to(inputs.device)
        return frames_N1D, torch.ones(len(inputs), 1, dtype=torch.bool, device=inputs.device)


class StatisticsAdapter(EncoderAdapter):
    """The adapter of `StatisticsEncoder`, which has no layers and nothing to freeze."""

    FRONT_ENDS = ()

    @property
    def modality(self) -> Modality:
        return "face" if self.model.config.front_end == "face" else "audio"

    @property
    def layers(self) -> nn.ModuleList:
        return nn.ModuleList()

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        """Count 1: an utterance is one frame."""
        return torch.ones_like(lengths_N)

    def run(
        self,
        inputs: Tensor,
        lengths_N: Tensor,
        before_layer: BeforeLayer | None,
        hide_NT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.model(inputs, lengths_N)
        return found
