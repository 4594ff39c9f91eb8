"""The classes that a model and another corpus share, over which `--other-corpus` measures.

A class that the other corpus lacks can only be wrong there, and an utterance of a class that the
model lacks is wrong whatever the answer. So the scores of the former are dropped, and the rest is
renormalized; the latter are not counted (multimodal-adaptive-pretraining, section IV-F, Table V).

Shapes: N utterances, C classes of the model, K classes that are shared.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex
from shards.loading.targets import stated_classes
from trainers.evaluation.config import EvaluateConfig
from trainers.evaluation.target import Target
from trainers.evaluation.targets import ClassTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedClasses:
    """`target` has the shared classes, which stand at `places` [K] of the model's classes.

    `dropped` are the other classes of the model.
    """

    target: ClassTarget
    places: NDArray[np.int64]
    dropped: tuple[str, ...]

    def scores(self, scores_NC: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probabilities [N, K] of the shared classes, of which each row sums to 1.

        Where the model gave all of them a probability of 0, they are alike. Scores of which nothing
        is dropped stay as they are.
        """
        if not self.dropped:
            return scores_NC

        kept_NK = scores_NC[:, self.places].astype(np.float64)
        total_N1 = kept_NK.sum(axis=1, keepdims=True)
        alike = 1 / len(self.places)
        return np.divide(
            kept_NK, total_N1, out=np.full_like(kept_NK, alike), where=total_N1 != 0
        ).astype(np.float32)

    def described(self, scores_NC: NDArray[np.float32], known: NDArray[np.int64]) -> dict[str, Any]:
        """What metrics.json says: the dropped classes, and how often one of them was the likeliest.

        `known` are the rows of the utterances that count.
        """
        likeliest = scores_NC[known].argmax(axis=1)
        return {
            "shared": list(self.target.names),
            "dropped": list(self.dropped),
            "num_dropped_answers": int((~np.isin(likeliest, self.places)).sum()),
        }


def shared_classes(
    config: EvaluateConfig, target: Target, corpus: CorpusIndex, index: CorpusIndex
) -> SharedClasses | None:
    """What the model's `target` shares with another corpus; None where nothing is to be shared.

    That is without `--other-corpus`, and for a target without classes. `corpus` are all utterances
    of the shards, and `index` those that are measured. Raises ConfigError when fewer than two
    classes are shared, and when calibrated scores, which are no probabilities, would be dropped.
    """
    if not config.other_corpus or not isinstance(target, ClassTarget):
        return None

    stated = set(stated_classes(corpus, target.truth_config(index))) - {None}
    places = np.flatnonzero([name in stated for name in target.names])
    names = tuple(target.names[place] for place in places)
    dropped = tuple(name for name in target.names if name not in names)
    if len(names) < 2:
        raise ConfigError(
            f"--other-corpus: the model answers with {', '.join(target.names)}, and the classes of "
            f"{config.shards} are {', '.join(sorted(map(str, stated))) or 'none'}; expected at "
            "least two classes that both have"
        )

    if dropped and config.pldc is not None:
        raise ConfigError(
            f"--pldc {config.pldc}: the scores of {', '.join(dropped)}, which {config.shards} "
            "lacks, cannot be dropped, because calibrated scores are no probabilities; leave out "
            "--pldc or --other-corpus"
        )
    return SharedClasses(target=ClassTarget(names, target.learned), places=places, dropped=dropped)
