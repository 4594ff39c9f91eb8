"""Measures an utterance by the encoder that the run starts from: its mean frame.

This is how SetPeER's comparison of methods (setpeer-emoceleb, section V-C) compares speakers for
the weighting of Sridhar and Busso, with an encoder that was trained on EmoCeleb before.

Shapes: T frames or pictures, D width of the encoder.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.config import ConfigError
from shards.loading.inputs import Modality
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import require_modality
from trainers.models.parts.device import default_device
from trainers.models.parts.pooling import masked_mean
from trainers.models.trained import encoder_of
from trainers.settings.encoder import EncoderConfig


class EncoderFunctionals:
    """Measures the mean frame [D] of the last layer of a trained encoder."""

    def __init__(self, encoder: LayerwiseEncoder) -> None:
        self._encoder = encoder.eval().to(default_device())

    @torch.inference_mode()
    def __call__(self, media: Tensor) -> NDArray[np.float32]:
        """Measure sound [samples], face features [T, numbers] or a clip [T, 3, side, side]."""
        device = next(self._encoder.parameters()).device
        lengths = torch.tensor([len(media)], device=device)
        frames_1TD, mask_1T = self._encoder(media[None].to(device), lengths)
        return masked_mean(frames_1TD, mask_1T)[0].float().cpu().numpy()


def encoder_functionals(encoder: EncoderConfig, modality: Modality) -> EncoderFunctionals:
    """Load the encoder that the options name, alone or as a part of a recognizer.

    Raises ConfigError for an encoder of another modality, and for what cannot be loaded.
    """
    checkpoint = encoder.checkpoint
    if checkpoint is None:
        raise ConfigError(
            "model.functionals: got encoder without encoder.checkpoint; name a trained encoder, or "
            "compare speakers by cepstra"
        )

    loaded = encoder_of(checkpoint, encoder.revision)
    require_modality(loaded, modality)
    return EncoderFunctionals(loaded)
