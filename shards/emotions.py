"""The seven emotions of every table and labeler, and the names of classes beyond them.

The order is that of EmoCeleb (setpeer-emoceleb, section III). Every probability vector in this
project is `[7] float32` in this order. They are what teachers agree on. A recognizer learns
whatever classes its corpus has, for example `boredom`.
"""

from collections.abc import Iterable, Mapping

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


def class_name(name: str) -> str | None:
    """The name of the class that a stated label means; None for a label without letters.

    Case and spaces do not tell classes apart, and other words for the seven emotions mean these:
    " Happy" gives "happiness", and "Boredom" gives "boredom".
    """
    folded = " ".join(name.split()).casefold()

    return canonical_emotion(folded) or folded or None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each class once: the seven emotions in the project's order, then the others by name."""
    distinct = set(names)

    return tuple(name for name in EMOTIONS if name in distinct) + tuple(
        sorted(distinct.difference(EMOTIONS))
    )
