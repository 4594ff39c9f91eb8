"""Which labels of an utterance describe its speaker, from the json of its sample.

`emotion` stands for classes, one hot: the utterance's `label` where it has one, else its `emotion`,
as in training. Any other name is a number in the json (`arousal`, `ratings.valence`).

The classes are the seven emotions, so that tables of most corpora have the same dimensions. Only a
corpus with another class, for example `boredom`, has the dimensions that it states itself.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from shards.config import ConfigError
from shards.emotions import EMOTIONS, class_name, in_order
from shards.samples.metadata import dig, number

EMOTION = "emotion"


def require_labels(labels: Sequence[str]) -> None:
    """Raise ConfigError when `emotion` is mixed with other names, or when a name is there twice."""
    if EMOTION in labels and len(labels) > 1:
        raise ConfigError(
            f"--labels: got {', '.join(labels)}, expected emotion alone, or names of numbers"
        )
    if len(set(labels)) != len(labels):
        raise ConfigError(f"--labels: got {', '.join(labels)}, expected each once")


def label_dimensions(labels: Sequence[str], stated: Iterable[str]) -> tuple[str, ...]:
    """The names of the label dimensions; `stated` are the classes that utterances have."""
    if EMOTION not in labels:
        return tuple(labels)

    classes = in_order(stated)
    return EMOTIONS if set(classes) <= set(EMOTIONS) else classes


def label_row(
    metadata: Mapping[str, object], labels: Sequence[str], dimensions: Sequence[str]
) -> list[float]:
    """One utterance's labels [V]; NaN where the json lacks one."""
    if EMOTION not in labels:
        return [number(dig(metadata, name)) for name in labels]

    stated = stated_class(metadata)
    return [math.nan if stated is None else float(name == stated) for name in dimensions]


def stated_class(metadata: Mapping[str, object]) -> str | None:
    """The class of an utterance, in the project's spelling; None where it states none."""
    label, emotion = metadata.get("label"), metadata.get(EMOTION)

    # A table of numbers may name its classes by whole numbers. True and False name nothing.
    if isinstance(label, str | int) and not isinstance(label, bool) and class_name(str(label)):
        return class_name(str(label))
    return class_name(emotion) if isinstance(emotion, str) else None
