"""Measures an utterance by a fixed number of acoustic functionals, by which speakers are compared.

The project's own are means and standard deviations over time of cepstra and their deltas: 80
numbers, no weights, no license. openSMILE's ComParE 2016 set, which Sridhar and Busso use, has 6373
numbers and is there for those who may use it (its license is for research only). A speaker
verifier's embeddings were left out: they need weights, and they identify a speaker whatever the way
of speaking, which is what is to be compared.

Shapes: S samples, T frames, D features a frame, X functionals.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shards.config import ConfigError
from shards.loading.inputs import Modality
from shards.media.sound_format import SAMPLE_RATE_HZ
from trainers.models.parts.functionals import CepstralFunctionals, over_time

Functionals = Callable[[Tensor], NDArray[np.float32]]  # samples [S], or features [T, D], to [X]


def functionals_of(kind: Literal["cepstra", "compare"], modality: Modality) -> Functionals:
    """Return the function that measures an utterance.

    Raises ConfigError for ComParE of faces, and when openSMILE is missing.
    """
    if kind == "compare" and modality == "face":
        raise ConfigError(
            "model.functionals: got compare for face features, expected cepstra, because ComParE "
            "is for sound"
        )
    if kind == "compare":
        return Compare()

    return CepstralFunctionals() if modality == "audio" else over_time


class Compare:
    """Measures ComParE 2016 [6373]; NaN for an utterance that is too short for it."""

    def __init__(self) -> None:
        try:
            import opensmile  # an optional extra
        except ImportError as error:
            raise ConfigError(
                "model.functionals: openSMILE is missing; pip install 'emostream[opensmile]'"
            ) from error

        self._smile: Any = opensmile.Smile(
            feature_set=opensmile.FeatureSet.ComParE_2016,
            feature_level=opensmile.FeatureLevel.Functionals,
        )

    def __call__(self, media: Tensor) -> NDArray[np.float32]:
        return self._smile.process_signal(media.numpy(), SAMPLE_RATE_HZ).to_numpy()[0]
