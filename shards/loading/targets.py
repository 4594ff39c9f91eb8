"""What a model is to predict: which field of the json, as a class or as numbers, and the classes in their order."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError, option
from shards.emotions import EMOTIONS
from shards.loading.index import CorpusIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """The supervision."""

    kind: Literal["label", "label_probs", "emotion", "values"] = option(
        help="label: the weak label; label_probs: its distribution; emotion: the truth; values: numbers in the json",
        default="label",
    )
    classes: tuple[str, ...] = option(help="default: those the training utterances have", default=())
    values: tuple[str, ...] = option(help="names of the numbers, for kind values: arousal,valence", default=())

    def __post_init__(self) -> None:
        unknown = sorted(set(self.classes) - set(EMOTIONS))
        if unknown:
            raise ConfigError(f"classes: got {', '.join(unknown)}, expected some of {', '.join(EMOTIONS)}")
        if (self.kind == "values") != bool(self.values):
            raise ConfigError(f"values: got {self.values} for kind {self.kind}; name numbers exactly for kind values")


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of every row of an index: `labels` int64 [N] (-1 unknown), `probs` float32 [N, C] (NaN unknown), or
    `values` float32 [N, V] (NaN unknown). `names` are the classes, or the numbers.
    """

    names: tuple[str, ...]
    is_values: bool
    labels: NDArray[np.int64]
    probs: NDArray[np.float32]
    values: NDArray[np.float32]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows have a target."""
        return np.isfinite(self.values.sum(axis=1)) if self.is_values else self.labels >= 0


def resolve_classes(index: CorpusIndex, config: TargetConfig) -> tuple[str, ...]:
    """The configured classes, or those of `index`, in the project's order; for numbers, their names."""
    if config.kind == "values":
        return config.values
    column = "emotion" if config.kind == "emotion" else "label"
    present = set(index.table[column].to_pylist())
    classes = tuple(emotion for emotion in EMOTIONS if emotion in present)
    if config.kind == "label_probs" and config.classes:  # a distribution teaches classes that are never the likeliest
        return tuple(emotion for emotion in EMOTIONS if emotion in config.classes)
    if missing := sorted(set(config.classes) - present):
        raise ConfigError(
            f"data.target.classes: no training utterance is {' or '.join(missing)}; `{column}` in their json is one of "
            f"{', '.join(classes) or 'nothing'}"
        )
    if len(classes) < 2:
        raise ConfigError(
            f"data.target.kind {config.kind}: `{column}` in the training utterances' json has {len(classes)} classes, "
            "expected at least 2; `label` is written by `emostream pack`, or a column of an imported table, and kind "
            "emotion learns the truth in `emotion`"
        )
    return classes if not config.classes else tuple(name for name in classes if name in config.classes)


def read_targets(index: CorpusIndex, config: TargetConfig, names: tuple[str, ...]) -> Targets:
    """The target of each utterance of `index`; one outside `names` is unknown."""
    num_rows, width = len(index), len(names)
    if config.kind == "values":
        values = np.stack([index.values(name) for name in names], axis=1).astype(np.float32)
        unknown = np.full(num_rows, -1, dtype=np.int64)
        return Targets(names, True, unknown, np.empty((num_rows, 0), dtype=np.float32), values)
    column = "emotion" if config.kind == "emotion" else "label"
    number = {name: place for place, name in enumerate(names)}
    labels = np.asarray([number.get(label, -1) for label in index.table[column].to_pylist()], dtype=np.int64)
    probs = np.full((num_rows, width), np.nan, dtype=np.float32)
    probs[labels >= 0] = np.eye(width, dtype=np.float32)[labels[labels >= 0]]
    if config.kind == "label_probs":
        probs, labels = _soft(index, names)
    return Targets(names, False, labels, probs, np.empty((num_rows, 0), dtype=np.float32))


def no_targets(index: CorpusIndex) -> Targets:
    """Targets of an index nobody asks for."""
    return read_targets(index, TargetConfig(), ())


def _soft(index: CorpusIndex, names: tuple[str, ...]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The stored distributions restricted to `names` and renormalised, and their largest class."""
    nothing = [np.nan] * len(EMOTIONS)
    stored = [row if row is not None else nothing for row in index.table["label_probs"].to_pylist()]
    chosen = np.asarray(stored, dtype=np.float32)[:, [EMOTIONS.index(name) for name in names]]
    total = chosen.sum(axis=1, keepdims=True)
    probs = np.where(total > 0, chosen / np.where(total > 0, total, 1.0), np.nan).astype(np.float32)
    labels = np.where(np.isfinite(probs).all(axis=1), np.nan_to_num(probs).argmax(axis=1), -1)
    return probs, labels.astype(np.int64)
