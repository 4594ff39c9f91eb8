"""What a model is to predict: which field of the json, as a class or as numbers.

The classes and their order are decided here too, once for training and evaluation. They are those
that the corpus has or those that the options name. The seven emotions are only what teachers agree
on, so `label_probs` alone is bound to them.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError, option
from shards.emotions import EMOTIONS, class_name, in_order
from shards.loading.index import CorpusIndex
from shards.loading.ratings import STIMULI, count_votes, distributions, votes_by_label

TargetKind = Literal["classes", "values", "ratings"]
Stimulus = Literal["voice", "face", "audiovisual"]
_MAX_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """Which field of the json a model learns to predict."""

    kind: Literal["label", "label_probs", "emotion", "values", "ratings"] = option(
        help="Field of the samples' json to learn. label: `label`, the class that a column of "
        "your table states, or the weak label that `emostream pack` writes; label_probs: the "
        "distribution that `emostream pack` writes; emotion: `emotion`, the true emotion; values: "
        "numbers; ratings: the votes of people in `ratings`, whose shares are learned. Of ratings, "
        "several classes can be true of an utterance: each with more than 1/C of its votes for C "
        "classes.",
        default="label",
    )
    stimulus: Stimulus = option(
        help="For kind ratings: what the raters had, whose votes are learned and measured against. "
        "voice: the sound alone; face: the picture alone; audiovisual: both.",
        default="audiovisual",
    )
    classes: tuple[str, ...] = option(
        help="Classes to learn, such as anger,boredom,neutral. Without them, all classes that the "
        "training utterances have are learned. Of ratings, only votes for these classes count.",
        default=(),
    )
    merge: dict[str, str] = option(
        help="Labels that count as another class: excitement=happiness,calm=neutral.",
        default_factory=dict,
    )
    unknown: Literal["error", "drop"] = option(
        help="What to do when an utterance's label is none of the classes. error: stop and name "
        "these labels; drop: leave such utterances out, and say how many they are.",
        default="error",
    )
    f1_over: Literal["present", "classes"] = option(
        help="Classes that macro-F1 is the mean over. present: those that occur in the truth or in "
        "the predictions, as in scikit-learn; classes: all, where a class that nobody has counts "
        "0. Macro-F1 also decides which model becomes RUN/best.",
        default="present",
    )
    values: tuple[str, ...] = option(
        help="Names of the numbers to learn, for kind values: arousal,valence.", default=()
    )

    @property
    def target_kind(self) -> TargetKind:
        """What is predicted: one of some classes, several of them, or numbers."""
        if self.kind in ("values", "ratings"):
            return self.kind
        return "classes"

    @property
    def column(self) -> Literal["label", "emotion"]:
        """The column of an index that holds the stated classes."""
        return "emotion" if self.kind == "emotion" else "label"

    @property
    def wanted(self) -> tuple[str, ...]:
        """The classes that the options name, in the project's order and spelling."""
        return in_order(_named("classes", name) for name in self.classes)

    @property
    def merged(self) -> Mapping[str, str]:
        """`merge` in the project's spelling, from the stated class to the one it counts as."""
        return {_named("merge", a): _named("merge", b) for a, b in self.merge.items()}

    def __post_init__(self) -> None:
        merged, wanted = self.merged, self.wanted

        if again := sorted(set(merged.values()) & set(merged)):
            raise ConfigError(
                f"merge: {', '.join(again)} is both merged and merged into; give each label the "
                "class that it ends in"
            )
        if gone := sorted(set(wanted) & set(merged)):
            raise ConfigError(
                f"classes: got {', '.join(gone)}, which merge counts as another class; leave it "
                "out of one of the two"
            )

        beyond = {*wanted, *merged, *merged.values()}.difference(EMOTIONS)
        if self.kind == "label_probs" and beyond:
            raise ConfigError(
                f"kind label_probs: got {', '.join(sorted(beyond))}, but the stored distributions "
                f"are over {', '.join(EMOTIONS)}; name only these in classes and merge, or learn "
                "kind label"
            )
        if self.kind != "ratings" and self.stimulus != "audiovisual":
            raise ConfigError(
                f"stimulus: got {self.stimulus} for kind {self.kind}; it chooses among the ratings "
                "of kind ratings"
            )
        if (self.kind == "values") != bool(self.values):
            raise ConfigError(
                f"values: got {self.values} for kind {self.kind}; name numbers for kind values, "
                "and none for another kind"
            )


@dataclass(frozen=True, slots=True)
class Targets:
    """One target of every row of an index: float32 `array` [N, W], NaN where it is unknown.

    Of kind `classes` and `ratings` a row is a distribution over `names`; of kind `values` it holds
    the numbers that `names` names.
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

    def take(self, rows: NDArray[np.int64]) -> "Targets":
        """The targets of `rows`, in that order."""
        return Targets(self.kind, self.names, self.array[rows])

    @property
    def by_name(self) -> dict[str, NDArray[np.float32]]:
        """The targets by their kind, the form that a reader of batches takes."""
        return {self.kind: self.array}


def stated_classes(index: CorpusIndex, config: TargetConfig) -> list[str | None]:
    """The class that each utterance states [N], after merging; None where it states none."""
    merged = config.merged
    stated: list[str | None] = index.table[config.column].to_pylist()

    return [None if label is None else merged.get(label, label) for label in stated]


def resolve_classes(index: CorpusIndex, config: TargetConfig) -> tuple[str, ...]:
    """The classes to learn, in the project's order; for kind `values`, the names of the numbers.

    These are the configured classes, or all that the utterances of `index` have, or have votes for.
    Raises ConfigError when no utterance has a configured class, or when there are fewer than two
    classes.
    """
    if config.kind == "values":
        return config.values
    if config.kind == "label_probs" and config.classes:
        # A distribution also teaches classes that are never the likeliest one.
        return config.wanted

    if config.kind == "ratings":
        return _rated_classes(index, config)

    column = config.column
    classes = in_order(label for label in stated_classes(index, config) if label is not None)
    if missing := sorted(set(config.wanted) - set(classes)):
        raise ConfigError(
            f"data.target.classes: no training utterance is {' or '.join(missing)}; `{column}` in "
            f"their json is one of {', '.join(classes) or 'nothing'}"
        )

    if len(config.wanted or classes) < 2:
        raise ConfigError(
            f"data.target.kind {config.kind}: `{column}` in the training utterances' json has "
            f"{len(config.wanted or classes)} classes, expected at least 2; `label` is written by "
            "`emostream pack`, or a column of an imported table, and kind emotion learns the truth "
            "in `emotion`"
        )
    return config.wanted or classes


def read_targets(index: CorpusIndex, config: TargetConfig, names: tuple[str, ...]) -> Targets:
    """The target of each utterance of `index`; a label that is not in `names` is unknown."""
    if config.kind == "values":
        values = np.stack([index.values(name) for name in names], axis=1)
        return Targets("values", names, values.astype(np.float32))
    if config.kind == "label_probs":
        return Targets("classes", names, _soft(index, config, names))
    if config.kind == "ratings":
        return Targets("ratings", names, distributions(_votes(index, config, names)))

    number = {name: place for place, name in enumerate(names)}
    stated = stated_classes(index, config)
    labels = np.asarray(
        [-1 if label is None else number.get(label, -1) for label in stated], dtype=np.int64
    )

    probs = np.full((len(index), len(names)), np.nan, dtype=np.float32)
    probs[labels >= 0] = np.eye(len(names), dtype=np.float32)[labels[labels >= 0]]
    return Targets("classes", names, probs)


def read_stimuli(
    index: CorpusIndex, config: TargetConfig, names: tuple[str, ...]
) -> dict[str, Targets]:
    """The ratings of each utterance of `index`, one target for each stimulus, by its name.

    An utterance can be rated by one stimulus and not by another, so their `known` differ.
    """
    return {
        stimulus: Targets("ratings", names, distributions(_votes(index, config, names, stimulus)))
        for stimulus in STIMULI
    }


def labels_outside(
    index: CorpusIndex, config: TargetConfig, names: Iterable[str]
) -> dict[str, int]:
    """How many utterances of `index` state each class that is not in `names`, most frequent first.

    Empty for kinds `values` and `label_probs`, which state no class. Of ratings, an utterance
    counts with its most frequent label when none of its votes is for one of `names`.
    """
    if config.kind in ("values", "label_probs"):
        return {}

    inside = set(names)
    stated = (
        _rated_outside(index, config, inside)
        if config.kind == "ratings"
        else stated_classes(index, config)
    )
    counts = Counter(label for label in stated if label is not None and label not in inside)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def require_known_labels(
    index: CorpusIndex, config: TargetConfig, names: Iterable[str], split: str
) -> None:
    """Raise ConfigError when a label is none of the classes `names`, unless the options drop it."""
    names = tuple(names)
    outside = labels_outside(index, config, names)

    if outside and config.unknown == "error":
        raise ConfigError(
            f"data.target: {sum(outside.values())} of {len(index)} utterances of the split {split} "
            f"have a label that is none of the classes {', '.join(names)}: "
            f"{shown_counts(outside)}; add them to data.target.classes if training utterances "
            "have them, count them as another class (data.target.merge=LABEL=CLASS), or leave "
            "these utterances out (data.target.unknown=drop)"
        )


def shown_counts(counts: Mapping[str, int]) -> str:
    """Numbers by name, for people: "boredom 46, calm 3"; of many names, the first ones."""
    shown = [f"{name} {number}" for name, number in list(counts.items())[:_MAX_NAMED]]
    more = len(counts) - len(shown)

    return ", ".join(shown) + (f" and {more} more" if more else "")


def _soft(index: CorpusIndex, config: TargetConfig, names: tuple[str, ...]) -> NDArray[np.float32]:
    """The stored distributions, merged, restricted to `names` and renormalized."""
    nothing = [np.nan] * len(EMOTIONS)
    stored = [row if row is not None else nothing for row in index.table["label_probs"].to_pylist()]
    merged = config.merged

    # Column j of `chosen` is the sum of the emotions that count as class j.
    probs = np.asarray(stored, dtype=np.float32)
    counted_as = [merged.get(emotion, emotion) for emotion in EMOTIONS]
    members = [[place for place, c in enumerate(counted_as) if c == name] for name in names]
    chosen = np.stack([probs[:, places].sum(axis=1) for places in members], axis=1)

    total = chosen.sum(axis=1, keepdims=True)
    return np.where(total > 0, chosen / np.where(total > 0, total, 1.0), np.nan).astype(np.float32)


def _metadata(index: CorpusIndex) -> Iterator[Mapping[str, object]]:
    return (json.loads(text) for text in index.table["json"].to_pylist())


def _votes(
    index: CorpusIndex, config: TargetConfig, names: Sequence[str], stimulus: str | None = None
) -> NDArray[np.int64]:
    """The votes of each utterance for each class [N, C], of the configured stimulus by default."""
    merged = config.merged
    rows = [
        count_votes(metadata, stimulus or config.stimulus, names, merged)
        for metadata in _metadata(index)
    ]
    return np.stack(rows) if rows else np.zeros((0, len(names)), dtype=np.int64)


def _rated_classes(index: CorpusIndex, config: TargetConfig) -> tuple[str, ...]:
    """The classes that the votes are for, or the configured ones."""
    merged = config.merged
    voted = set[str]()
    for metadata in _metadata(index):
        votes = votes_by_label(metadata, config.stimulus, merged)
        voted |= {label for label, number in votes.items() if number}

    found = in_order(voted)
    if missing := sorted(set(config.wanted) - voted):
        raise ConfigError(
            f"data.target.classes: no training utterance has a vote for {' or '.join(missing)}; "
            f"the votes of `ratings.{config.stimulus}` in their json are for "
            f"{', '.join(found) or 'nothing'}"
        )
    if len(config.wanted or found) < 2:
        raise ConfigError(
            f"data.target.kind ratings: the votes of `ratings.{config.stimulus}` in the training "
            f"utterances' json are for {len(config.wanted or found)} classes, expected at least 2; "
            "import them with `emostream import --ratings`, or choose another "
            "data.target.stimulus"
        )
    return config.wanted or found


def _rated_outside(
    index: CorpusIndex, config: TargetConfig, inside: Collection[str]
) -> Iterator[str]:
    """The most frequent label of each utterance that has votes, but none for a class `inside`."""
    merged = config.merged
    for metadata in _metadata(index):
        votes = votes_by_label(metadata, config.stimulus, merged)
        given = {label: number for label, number in votes.items() if number}
        if given and not given.keys() & inside:
            yield max(sorted(given), key=given.__getitem__)


def _named(where: str, label: str) -> str:
    name = class_name(label)
    if name is None:
        raise ConfigError(f"{where}: got {label!r}, expected the name of a class")
    return name
