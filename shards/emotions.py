"""The seven emotions every table and labeler speaks, in the order used throughout, and the names
others give them.

The order is that of EmoCeleb (setpeer-emoceleb, section III). A probability vector anywhere in this
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
    """The project's name for `name` ("Happy", "joy" -> "happiness"), or None when it is none of the
    seven.
    """
    folded = name.strip().casefold()
    return folded if folded in EMOTIONS else _SYNONYMS.get(folded)
