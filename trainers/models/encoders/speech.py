"""What speech encoders of transformers need beside their own code, so that an utterance never hears padding.

A model whose convolutions use group norm (HuBERT base, wav2vec 2.0 base) averages over padding; its front end is run on
utterances of equal length, the rest of the model on the padded batch.

Shapes: N utterances, S samples, T frames, C channels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class EqualLengths:
    """A group-norm front end, called once for each length in the batch so that it never sees padding."""

    def __init__(self, forward: Callable[[Tensor], Tensor], model: Any) -> None:
        self._forward, self._model = forward, model
        self.lengths_N: Tensor | None = None

    def __call__(self, samples_NS: Tensor) -> Tensor:
        """[N, C, T], zero behind each utterance's last frame."""
        lengths_N = self.lengths_N
        if lengths_N is None:
            return self._forward(samples_NS)
        frames_N = self._model._get_feat_extract_output_lengths(lengths_N).long()
        parts: dict[int, Tensor] = {}
        for length in sorted(set(lengths_N.tolist())):
            rows = torch.nonzero(lengths_N == length).flatten()
            found = self._forward(samples_NS[rows, :length])
            padded = nn.functional.pad(found, (0, int(frames_N.max()) - found.shape[-1]))
            parts.update(zip(rows.tolist(), padded, strict=True))
        return torch.stack([parts[row] for row in range(len(lengths_N))])


def normalises(config: Any) -> bool:
    """HuBERT's recipe: normalised waveforms for layer-norm extractors, as they are for group-norm extractors.

    data2vec's extractor is always of the first kind, so that its configuration does not say.
    """
    return config.model_type == "data2vec-audio" or getattr(config, "feat_extract_norm", None) == "layer"


def receptive_field(config: Any) -> int:
    """Samples that one frame of the convolutional front end sees: 400 for the published models."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples
