"""From a checkpoint's own classes to the seven emotions, for every labeler's probabilities.

A checkpoint names its classes in `id2label`. Each name must mean one of the seven emotions, by
itself ("Happy", "joy") or because the panel says so (`label_names`), or be listed in `drop_labels`.
Anything else is refused, as a class left out by accident shifts every probability. The classes that
stay are summed by emotion and renormalized (EmoCeleb drops "contempt" in this way).

A checkpoint may know fewer than seven emotions; the others get probability 0. The table says which
emotions a labeler knows, so that a selection does not take its zeros for an opinion
(`shards.selection.coverage`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.inference.outcomes import Missing, Outcome
from shards.config import ConfigError
from shards.emotions import EMOTIONS, NUM_EMOTIONS, canonical_emotion

MIN_EMOTIONS = 2
# Below it the classes that were kept say nothing: to renormalize would blow up rounding errors.
MIN_MASS = 1e-6


@dataclass(frozen=True, slots=True)
class EmotionMapping:
    """`matrix` [num_classes, 7] of zeros and ones: which class counts toward which emotion."""

    matrix: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        id2label: Mapping[int, str],
        *,
        drop_labels: Collection[str],
        label_names: Mapping[str, str],
        checkpoint: str,
    ) -> "EmotionMapping":
        """Map `id2label`.

        Raises ConfigError naming every class that means none of the seven and is not dropped.
        """
        names = {_fold(label): emotion for label, emotion in label_names.items()}
        # A class to which the panel gives a meaning is not left out.
        dropped = {_fold(label) for label in drop_labels} - names.keys()

        if strange := sorted(names.keys() - {_fold(label) for label in id2label.values()}):
            raise ConfigError(
                f"checkpoint {checkpoint}: label_names speaks of {', '.join(strange)}, but its "
                f"classes are {', '.join(id2label[index] for index in range(len(id2label)))}"
            )

        matrix = np.zeros((len(id2label), NUM_EMOTIONS))
        unknown = []
        for index in range(len(id2label)):
            label = id2label[index]
            emotion = names.get(_fold(label)) or canonical_emotion(label)
            if emotion is not None and _fold(label) not in dropped:
                matrix[index, EMOTIONS.index(emotion)] = 1.0
            elif _fold(label) not in dropped:
                unknown.append(label)

        mapping = cls(matrix)
        _check(mapping, unknown, id2label, checkpoint)
        return mapping

    @property
    def known_emotions(self) -> tuple[str, ...]:
        """The emotions that a class counts toward."""
        return tuple(
            emotion for emotion, column in zip(EMOTIONS, self.matrix.T, strict=True) if column.any()
        )

    def apply(self, probabilities: NDArray[np.float64]) -> NDArray[np.float32] | None:
        """Class probabilities [num_classes] as a distribution [7] over the emotions.

        None when next to nothing of them is mapped, for example when "other" has it all.
        """
        emotions = probabilities.astype(np.float64) @ self.matrix
        mass = emotions.sum()
        return (emotions / mass).astype(np.float32) if mass > MIN_MASS else None


def _fold(label: str) -> str:
    return label.strip().casefold()


def _check(
    mapping: EmotionMapping, unknown: list[str], id2label: Mapping[int, str], checkpoint: str
) -> None:
    labels = ", ".join(id2label[index] for index in range(len(id2label)))

    if unknown:
        raise ConfigError(
            f"checkpoint {checkpoint}: cannot map {', '.join(unknown)} (of its classes {labels}) "
            f"onto {', '.join(EMOTIONS)}. Say what they mean with label_names (calm: neutral) or "
            "leave them out with drop_labels"
        )
    num_known = len(mapping.known_emotions)
    if num_known < MIN_EMOTIONS:
        raise ConfigError(
            f"checkpoint {checkpoint}: its classes {labels} cover {num_known} of "
            f"{', '.join(EMOTIONS)}, expected at least {MIN_EMOTIONS}; choose another checkpoint, "
            "or say what its classes mean with label_names"
        )


def emotions(mapping: EmotionMapping, probabilities: NDArray[np.float64]) -> Outcome:
    """One utterance's class probabilities as a distribution over the seven emotions."""
    if not np.isfinite(probabilities).all():
        return Missing("non_finite_prediction: the model answered with NaN or infinity")

    mapped = mapping.apply(probabilities)
    if mapped is None:
        return Missing(
            "unmapped_prediction: nearly all probability is on classes that drop_labels leaves out"
        )
    return mapped
