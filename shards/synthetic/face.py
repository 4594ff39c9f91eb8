"""Synthetic faces: action-unit intensities over time, as a face tracker would report them.

There are no pixels: a face is seventeen action units on the 0 to 5 intensity scale and three head
angles. Which units an emotion moves follows the prototypes of EMFACS (Friesen and Ekman 1983); a
resting face has its owner's habits; the mouth also moves with speech.

Rejected: rendered or drawn faces (a detector and a vision backbone would take the demo's five
minutes, and a cartoon proves nothing about either), and abstract feature vectors (nobody could read
the report's examples).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

FACE_CUES = (
    *(
        "AU01",
        "AU02",
        "AU04",
        "AU05",
        "AU06",
        "AU07",
        "AU09",
        "AU10",
        "AU12",
        "AU14",
        "AU15",
        "AU17",
        "AU20",
        "AU23",
        "AU25",
    ),
    *("AU26", "AU45", "pitch", "yaw", "roll"),
)
NUM_FACE_CUES = len(FACE_CUES)
_NUM_ACTION_UNITS = 17

_PROTOTYPES: tuple[dict[str, float], ...] = (
    {},  # neutral
    {"AU04": 1.1, "AU05": 0.5, "AU07": 0.8, "AU10": 0.3, "AU23": 1.0, "pitch": -0.4},  # anger
    {"AU09": 1.2, "AU10": 0.9, "AU15": 0.5, "AU17": 0.6, "AU04": 0.3},  # disgust
    {
        "AU01": 0.9,
        "AU02": 0.5,
        "AU04": 0.7,
        "AU05": 0.9,
        "AU20": 1.0,
        "AU26": 0.4,
        "pitch": 0.3,
    },  # fear
    {"AU06": 0.9, "AU12": 1.3, "AU25": 0.5, "pitch": 0.2},  # happiness
    {"AU01": 0.8, "AU04": 0.6, "AU15": 1.0, "AU17": 0.5, "pitch": -0.6},  # sadness
    {"AU01": 0.9, "AU02": 1.1, "AU05": 0.8, "AU25": 0.4, "AU26": 1.0},  # surprise
)
SHOWN_BY_FACE: NDArray[np.float64] = np.array(
    [[prototype.get(cue, 0.0) for cue in FACE_CUES] for prototype in _PROTOTYPES]
)
"""[emotion, cue], relative to the speaker's resting face and in cue units."""

_RESTING = np.array(
    [
        0.3,
        0.2,
        0.5,
        0.2,
        0.3,
        0.5,
        0.1,
        0.3,
        0.4,
        0.4,
        0.2,
        0.4,
        0.2,
        0.2,
        0.6,
        0.4,
        0.3,
        0.0,
        0.0,
        0.0,
    ]
)
_MOVED_BY_SPEECH = np.array(
    [0.6 if cue in ("AU25", "AU26") else 0.15 if cue == "AU17" else 0.0 for cue in FACE_CUES]
)
_MAX_INTENSITY = 5.0


def show_face(
    cues: NDArray[np.float64],
    habit: NDArray[np.float64],
    *,
    num_frames: int,
    frame_noise: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Face features `[num_frames, 20]` of an expression that comes and goes.

    `cues` is the expression at its height, `habit` the speaker's resting face.
    """
    position = (np.arange(num_frames) + 0.5) / num_frames
    apex, width = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.6)
    strength = 0.3 + 0.9 * np.exp(-(((position - apex) / width) ** 2))

    speech = np.abs(np.sin(2.0 * np.pi * (rng.uniform(1.5, 2.5) * position + rng.random())))
    tracking = lfilter([0.8], [1.0, -0.6], rng.standard_normal((num_frames, NUM_FACE_CUES)), axis=0)

    features = (
        _RESTING
        + habit
        + np.outer(strength, cues)
        + np.outer(speech, _MOVED_BY_SPEECH)
        + frame_noise * tracking
    )

    features[:, :_NUM_ACTION_UNITS] = np.clip(features[:, :_NUM_ACTION_UNITS], 0.0, _MAX_INTENSITY)
    return features.astype(np.float32)
