"""Personalized label distribution calibration (PLDC), papt-pldc, section 4, Eq. 2 and 3.

PLDC finds the k training speakers most like the target speaker, averages their label means and
standard deviations, and gives the target's predictions that mean, that spread, or both. No label of
the target is used. For classes the dimensions are the classes' probabilities.

Shapes: N utterances of one speaker, V label dimensions.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.speakers.table import SpeakerTable

Mode = Literal["mu", "sigma", "both"]
# Relative to the size of the predictions. Where all are equal, rounding leaves less spread than
# this, which must not be scaled up.
NO_SPREAD = 1e-9


def calibrate(
    predictions: NDArray[np.floating],
    mean: NDArray[np.floating],
    std: NDArray[np.floating],
    mode: Mode,
) -> NDArray[np.float64]:
    """Eq. 3 for one speaker's predictions [N, V] and the estimated label `mean` and `std` [V].

    Predictions without spread (one utterance, or all alike) are only moved, never scaled.
    """
    predicted = predictions.astype(np.float64)
    own_mean, own_std = predicted.mean(axis=0), predicted.std(axis=0)
    new_mean = own_mean if mode == "sigma" else np.asarray(mean, dtype=np.float64)
    new_std = own_std if mode == "mu" else np.asarray(std, dtype=np.float64)

    has_spread = own_std > NO_SPREAD * np.abs(predicted).max(axis=0)
    scale = np.divide(new_std, own_std, out=np.ones_like(own_std), where=has_spread)

    return (predicted - own_mean) * scale + new_mean


def calibrate_speakers(
    table: SpeakerTable,
    speakers: NDArray[np.object_],
    features: NDArray[np.float32],
    predictions: NDArray[np.floating],
    *,
    neighbors: int,
    mode: Mode,
) -> NDArray[np.float64]:
    """Calibrate each speaker's predictions, and return all of them [N, V].

    `speakers` [N] says who speaks each utterance; `features` [N, D] are its pooled features.
    """
    calibrated = np.empty(predictions.shape, dtype=np.float64)
    names, places = np.unique(speakers, return_inverse=True)
    for place in range(len(names)):
        mine = places == place
        vector = features[mine].mean(axis=0, dtype=np.float64).astype(np.float32)
        (alike,), _ = table.nearest(vector[None], neighbors)
        mean, std = table.label_mean[alike].mean(axis=0), table.label_std[alike].mean(axis=0)
        calibrated[mine] = calibrate(predictions[mine], mean, std, mode)

    return calibrated
