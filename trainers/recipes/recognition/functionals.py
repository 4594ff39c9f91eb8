"""Measures an utterance by a fixed number of acoustic functionals, by which speakers are compared.

The project's own are means and standard deviations over time of cepstra and their deltas: 80
numbers, no weights, no license. openSMILE's ComParE 2016 set, which Sridhar and Busso use, has 6373
numbers and is there for those who may use it (its license is for research only). A speaker
verifier's embeddings were left out: they need weights, and they identify a speaker whatever the way
of speaking, which is what is to be compared. A face is measured in the same way, by means and
deviations over time: of its features, or of the coarse colors of its pictures, which lie in the
same places of each picture if faces were cut out.

Shapes: S samples, T frames or pictures, D features a frame, X functionals.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shards.config import ConfigError
from shards.loading.inputs import Modality
from shards.media.sound_format import SAMPLE_RATE_HZ
from trainers.models.parts.functionals import CepstralFunctionals, over_time

GRID = 8  # a picture is divided into so many parts each way

# Samples [S], features [T, D] or a clip [T, 3, side, side] to [X].
Functionals = Callable[[Tensor], NDArray[np.float32]]


def functionals_of(kind: Literal["cepstra", "compare"], modality: Modality) -> Functionals:
    """Return the function that measures an utterance.

    Raises ConfigError for ComParE of faces, and when openSMILE is missing.
    """
    if kind == "compare" and modality != "audio":
        raise ConfigError(
            f"model.functionals: got compare for data.modality {modality}, expected cepstra or "
            "encoder, because ComParE is for sound"
        )
    if kind == "compare":
        return Compare()
    if modality == "audio":
        return CepstralFunctionals()

    return of_pictures if modality == "video" else over_time


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


def of_pictures(clip: Tensor) -> NDArray[np.float32]:
    """Measure the mean colors of GRID x GRID parts of each picture over time [4 x 3 x GRID^2].

    `clip` is [T, 3, side, side].
    """
    return over_time(F.adaptive_avg_pool2d(clip, GRID).flatten(start_dim=1))
