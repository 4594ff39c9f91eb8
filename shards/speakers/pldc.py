"""Personalized label distribution calibration: predictions shifted to what similar speakers' labels
look like.

papt-pldc, section 4, Eq. 2 and 3: find the k training speakers most like the target speaker,
average their label means and standard deviations, and give the predictions that mean, that spread,
or both. No label of the target is used. For classes the dimensions are the classes' probabilities.

Shapes: N utterances of one speaker, V label dimensions.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.speakers.table import SpeakerTable

Mode = Literal["mu", "sigma", "both"]
NO_SPREAD = (
    1e-9  # of the predictions' size: what is left of equal ones by rounding must not be scaled up
)


def calibrate(
    predictions: NDArray[np.floating],
    mean: NDArray[np.floating],
    std: NDArray[np.floating],
    mode: Mode,
) -> NDArray[np.float64]:
    """Eq. 3 for one speaker's predictions [N, V] and the estimated label `mean` and `std` [V].

    Predictions without spread (one utterance, or all alike) have nothing to be scaled: they are
    only moved.
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
    """Predictions [N, V] of utterances by `speakers` [N] with pooled `features` [N, D], each
    speaker calibrated.
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
