"""The adapter of data2vec and data2vec 2.0, which have the seam in their own loop.

Shapes: N utterances, T frames, X extra tokens, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shards.loading.inputs import Modality
from trainers.models.encoders.adapter import SpeechAdapter
from trainers.models.encoders.data2vec.encoder import Data2VecEncoder
from trainers.models.encoders.seams import BeforeLayer
from trainers.models.parts.layers import frame_mask
from trainers.models.parts.waveforms import normalized


class OwnData2VecAdapter(SpeechAdapter):
    """The adapter of `Data2VecEncoder`; `normalize` as in the model's pre-training."""

    FRONT_ENDS = ()

    def __init__(self, model: Data2VecEncoder, *, normalize: bool) -> None:
        super().__init__(model)
        self._normalize = normalize
        self.num_tokens = int(model.config.num_extra_tokens)
        if self.mask_embedding is not None:
            # Without masked prediction it has no gradient.
            self.mask_embedding.requires_grad_(False)

    @property
    def modality(self) -> Modality:
        return "audio"

    @property
    def layers(self) -> nn.ModuleList:
        found: nn.ModuleList = self.model.body.layers
        return found

    @property
    def mask_embedding(self) -> nn.Parameter | None:
        found: nn.Parameter | None = self.model.body.mask_embedding
        return found

    @property
    def hop_samples(self) -> int:
        return int(self.model.front_end.hop_samples)

    @property
    def front_end(self) -> nn.Module:
        found: nn.Module = self.model.front_end.watched
        return found

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        found: Tensor = self.model.front_end.num_frames(lengths_N)
        return found

    def freeze_front_end(self) -> None:
        self.model.front_end.convolutions.requires_grad_(False)

    def learn_mask(self) -> None:
        body = self.model.body
        if body.mask_embedding is None:
            body.mask_embedding = nn.Parameter(torch.rand(self.model.config.hidden_size))
            self.model.config.has_mask_embedding = True
        body.mask_embedding.requires_grad_(True)

    @contextmanager
    def kept_tokens(self) -> Iterator[list[Tensor]]:
        found: list[Tensor] = []
        hook = self.model.body.register_forward_hook(
            lambda _, __, output: found.append(output.tokens_NXD)
        )
        try:
            yield found
        finally:
            hook.remove()

    def run(
        self,
        inputs: Tensor,
        lengths_N: Tensor,
        before_layer: BeforeLayer | None,
        hide_NT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        samples_NS = inputs[:, : int(lengths_N.max())]
        if self._normalize:
            samples_NS = normalized(samples_NS, frame_mask(lengths_N, samples_NS.shape[1]))

        found: Any = self.model(samples_NS, lengths_N, before_layer, hide_NT)
        return found[0], found[1]
