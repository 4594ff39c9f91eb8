"""The seven emotions of every table and labeler: their order, and their other names.

The order is that of EmoCeleb (setpeer-emoceleb, section III). Every probability vector in this
project is `[7] float32` in this order.
"""

from collections.abc import Mapping

EMOTIONS: tuple[str, ...] = (
    "neutral",
    "anger",
    "disgust",
    "fear",
    "happiness",
    "sadness",
    "surprise",
)
NUM_EMOTIONS = len(EMOTIONS)

_SYNONYMS: Mapping[str, str] = {
    "neu": "neutral",
    "no emotion": "neutral",
    "ang": "anger",
    "angry": "anger",
    "dis": "disgust",
    "disgusted": "disgust",
    "fea": "fear",
    "fearful": "fear",
    "scared": "fear",
    "hap": "happiness",
    "happy": "happiness",
    "joy": "happiness",
    "joyful": "happiness",
    "sad": "sadness",
    "sur": "surprise",
    "surprised": "surprise",
}


def canonical_emotion(name: str) -> str | None:
    """The project's name for an emotion; None when the emotion is not one of the seven.

    For example, "Happy" and "joy" give "happiness", and "contempt" gives None.
    """
    folded = name.strip().casefold()

    return folded if folded in EMOTIONS else _SYNONYMS.get(folded)
