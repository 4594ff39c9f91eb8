"""Normalizes waveforms as Wav2Vec2FeatureExtractor does, but on the device and without the padding.

Shapes: N utterances, S samples.
"""

import torch
from torch import Tensor


def normalized(samples_NS: Tensor, mask_NS: Tensor | None) -> Tensor:
    """Compute (x - mean) / sqrt(variance + 1e-7) over samples under the mask; zero elsewhere."""
    if mask_NS is None:
        variance = samples_NS.var(dim=1, correction=0, keepdim=True)
        return (samples_NS - samples_NS.mean(dim=1, keepdim=True)) / torch.sqrt(variance + 1e-7)

    count = mask_NS.sum(dim=1, keepdim=True)
    mean = samples_NS.masked_fill(~mask_NS, 0.0).sum(dim=1, keepdim=True) / count
    centered = (samples_NS - mean).masked_fill(~mask_NS, 0.0)
    return centered / torch.sqrt(centered.square().sum(dim=1, keepdim=True) / count + 1e-7)
