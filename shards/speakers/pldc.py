"""Personalized label distribution calibration (PLDC), papt-pldc, section 4, Eq. 2 and 3.

PLDC finds the k training speakers most like the target speaker, averages their label means and
standard deviations, and gives the target's predictions that mean, that spread, or both. No label of
the target is used. For classes the dimensions are the classes' probabilities.

Shapes: N utterances of one speaker, V label dimensions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.speakers.table import SpeakerTable

Mode = Literal["mu", "sigma", "both"]
# Relative to the size of the predictions. Where all are equal, rounding leaves less spread than
# this, which must not be scaled up.
NO_SPREAD = 1e-9


@dataclass(frozen=True, slots=True)
class Moments:
    """What calibration must know of N predictions of a speaker.

    Their number, mean [V], summed squared deviations from the mean [V], and largest size [V]. Those
    of parts add up to those of the whole, so that predictions need not be in memory together.
    """

    count: int
    mean: NDArray[np.float64]
    deviations: NDArray[np.float64]
    largest: NDArray[np.float64]

    @classmethod
    def of(cls, predictions: NDArray[np.floating]) -> "Moments":
        """The moments of predictions [N, V]."""
        exact = predictions.astype(np.float64)
        mean = exact.mean(axis=0)
        return cls(len(exact), mean, ((exact - mean) ** 2).sum(axis=0), np.abs(exact).max(axis=0))

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * other.count / count,
            self.deviations + other.deviations + apart**2 * self.count * other.count / count,
            np.maximum(self.largest, other.largest),
        )

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation [V], of all N."""
        return np.sqrt(self.deviations / self.count)


def calibrate(
    predictions: NDArray[np.floating],
    mean: NDArray[np.floating],
    std: NDArray[np.floating],
    mode: Mode,
    own: Moments | None = None,
) -> NDArray[np.float64]:
    """Eq. 3 for one speaker's predictions [N, V] and the estimated label `mean` and `std` [V].

    `own` are the moments of all the speaker's predictions, when these are only some of them.
    Predictions without spread (one utterance, or all alike) are only moved, never scaled.
    """
    own = Moments.of(predictions) if own is None else own
    new_mean = own.mean if mode == "sigma" else np.asarray(mean, dtype=np.float64)
    new_std = own.std if mode == "mu" else np.asarray(std, dtype=np.float64)

    has_spread = own.std > NO_SPREAD * own.largest
    scale = np.divide(new_std, own.std, out=np.ones_like(own.std), where=has_spread)

    return (predictions.astype(np.float64) - own.mean) * scale + new_mean


def labels_alike(
    table: SpeakerTable, vector: NDArray[np.floating], neighbors: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The label mean [V] and standard deviation [V] of the speakers most like `vector` [D]."""
    (alike,), _ = table.nearest(vector.astype(np.float32)[None], neighbors)
    return table.label_mean[alike].mean(axis=0), table.label_std[alike].mean(axis=0)


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
        vector = features[mine].mean(axis=0, dtype=np.float64)
        mean, std = labels_alike(table, vector, neighbors)
        calibrated[mine] = calibrate(predictions[mine], mean, std, mode)

    return calibrated
