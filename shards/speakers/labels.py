"""Which labels of an utterance describe its speaker, from the json of its sample.

`emotion` stands for the seven emotions, one hot: the weak label where there is one, else the
emotion the corpus states, as in training. Any other name is a number in the json (`arousal`,
`ratings.valence`).
"""

import math
from collections.abc import Mapping, Sequence

from shards.config import ConfigError
from shards.emotions import EMOTIONS, canonical_emotion
from shards.samples.metadata import dig, number

EMOTION = "emotion"


def label_dimensions(labels: Sequence[str]) -> tuple[str, ...]:
    """The names of the label dimensions.

    Raises ConfigError when `emotion` is mixed with other names, or when a name is there twice.
    """
    if EMOTION in labels:
        if len(labels) > 1:
            raise ConfigError(
                f"--labels: got {', '.join(labels)}, expected emotion alone, or names of numbers"
            )
        return EMOTIONS

    if len(set(labels)) != len(labels):
        raise ConfigError(f"--labels: got {', '.join(labels)}, expected each once")
    return tuple(labels)


def label_row(metadata: Mapping[str, object], labels: Sequence[str]) -> list[float]:
    """One utterance's labels [V]; NaN where the json lacks one."""
    if EMOTION in labels:
        emotion = _emotion(metadata)
        return [math.nan if emotion is None else float(name == emotion) for name in EMOTIONS]
    return [number(dig(metadata, name)) for name in labels]


def _emotion(metadata: Mapping[str, object]) -> str | None:
    label, emotion = metadata.get("label"), metadata.get("emotion")
    if label in EMOTIONS:
        return str(label)
    return canonical_emotion(emotion) if isinstance(emotion, str) else None
