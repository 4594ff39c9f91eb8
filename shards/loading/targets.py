"""What a model is to predict: which field of the json, as a class or as numbers.

The order of the classes is decided here too, once for training and evaluation.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError, option
from shards.emotions import EMOTIONS
from shards.loading.index import CorpusIndex

TargetKind = Literal["classes", "values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """Which field of the json a model learns to predict."""

    kind: Literal["label", "label_probs", "emotion", "values"] = option(
        help="label: the weak label; label_probs: its distribution; emotion: the truth; values: "
        "numbers in the json",
        default="label",
    )
    classes: tuple[str, ...] = option(
        help="default: those the training utterances have", default=()
    )
    values: tuple[str, ...] = option(
        help="names of the numbers, for kind values: arousal,valence", default=()
    )

    @property
    def target_kind(self) -> TargetKind:
        """What is predicted: one of some classes, or numbers."""
        return "values" if self.kind == "values" else "classes"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.classes) - set(EMOTIONS))
        if unknown:
            raise ConfigError(
                f"classes: got {', '.join(unknown)}, expected some of {', '.join(EMOTIONS)}"
            )

        if (self.kind == "values") != bool(self.values):
            raise ConfigError(
                f"values: got {self.values} for kind {self.kind}; name numbers for kind values, "
                "and none for another kind"
            )


@dataclass(frozen=True, slots=True)
class Targets:
    """One target of every row of an index: float32 `array` [N, W], NaN where it is unknown.

    Of kind `classes` a row is a distribution over `names`; of kind `values` it holds the numbers
    that `names` names.
    """

    kind: TargetKind
    names: tuple[str, ...]
    array: NDArray[np.float32]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows have a target."""
        return np.asarray(np.isfinite(self.array).all(axis=1))

    @property
    def labels(self) -> NDArray[np.int64]:
        """The likeliest class of each row [N], the first of equals; -1 where it is unknown."""
        return np.where(self.known, np.nan_to_num(self.array).argmax(axis=1), -1)

    @property
    def by_name(self) -> dict[str, NDArray[np.float32]]:
        """The targets by their kind, the form that a reader of batches takes."""
        return {self.kind: self.array}


def resolve_classes(index: CorpusIndex, config: TargetConfig) -> tuple[str, ...]:
    """The classes to learn, in the project's order; for kind `values`, the names of the numbers.

    These are the configured classes, or all that the utterances of `index` have. Raises ConfigError
    when no utterance has a configured class, or when there are fewer than two classes.
    """
    if config.kind == "values":
        return config.values

    column = "emotion" if config.kind == "emotion" else "label"
    present = set(index.table[column].to_pylist())
    classes = tuple(emotion for emotion in EMOTIONS if emotion in present)

    if config.kind == "label_probs" and config.classes:
        # A distribution also teaches classes that are never the likeliest one.
        return tuple(emotion for emotion in EMOTIONS if emotion in config.classes)

    if missing := sorted(set(config.classes) - present):
        raise ConfigError(
            f"data.target.classes: no training utterance is {' or '.join(missing)}; `{column}` in "
            f"their json is one of {', '.join(classes) or 'nothing'}"
        )

    if len(classes) < 2:
        raise ConfigError(
            f"data.target.kind {config.kind}: `{column}` in the training utterances' json has "
            f"{len(classes)} classes, expected at least 2; `label` is written by `emostream pack`, "
            "or a column of an imported table, and kind emotion learns the truth in `emotion`"
        )

    return (
        classes if not config.classes else tuple(name for name in classes if name in config.classes)
    )


def read_targets(index: CorpusIndex, config: TargetConfig, names: tuple[str, ...]) -> Targets:
    """The target of each utterance of `index`; a label that is not in `names` is unknown."""
    if config.kind == "values":
        values = np.stack([index.values(name) for name in names], axis=1)
        return Targets("values", names, values.astype(np.float32))
    if config.kind == "label_probs":
        return Targets("classes", names, _soft(index, names))

    column = "emotion" if config.kind == "emotion" else "label"
    number = {name: place for place, name in enumerate(names)}
    labels = np.asarray(
        [number.get(label, -1) for label in index.table[column].to_pylist()], dtype=np.int64
    )

    probs = np.full((len(index), len(names)), np.nan, dtype=np.float32)
    probs[labels >= 0] = np.eye(len(names), dtype=np.float32)[labels[labels >= 0]]
    return Targets("classes", names, probs)


def _soft(index: CorpusIndex, names: tuple[str, ...]) -> NDArray[np.float32]:
    """The stored distributions restricted to `names` and renormalized."""
    nothing = [np.nan] * len(EMOTIONS)
    stored = [row if row is not None else nothing for row in index.table["label_probs"].to_pylist()]
    chosen = np.asarray(stored, dtype=np.float32)[:, [EMOTIONS.index(name) for name in names]]
    total = chosen.sum(axis=1, keepdims=True)

    return np.where(total > 0, chosen / np.where(total > 0, total, 1.0), np.nan).astype(np.float32)
