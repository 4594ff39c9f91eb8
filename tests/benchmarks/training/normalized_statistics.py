"""Measures without any network how much a corpus gains from knowing who speaks.

Logistic regression learns from means and deviations of cepstra over each utterance. These
statistics are plain, standardized by the mean and deviation of the speaker's own utterances, which
needs no label, or standardized by those of another speaker.

Shapes: N utterances, X statistics.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shards.loading.folds import divided
from shards.loading.index import read_index
from trainers.engine.process_group import join_group
from trainers.recipes.recognition.functionals import functionals_of
from trainers.recipes.recognition.similar_speakers import Measured, measure_utterances

REGULARIZATION, MAX_ITERATIONS = 0.1, 1000


def normalized_accuracies(shards: str, folds: str = "split", fold: int = 0) -> dict[str, float]:
    """Compute A-ACC in percent on the split test, for each way of standardizing.

    Statistics are standardized by nobody, by the speaker, and by a wrong speaker.
    """
    join_group()
    corpus = divided(read_index(shards), folds, fold)
    splits = [corpus.split(name) for name in ("train", "test")]
    train, test = (
        measure_utterances(split, "audio", functionals_of("cepstra", "audio")) for split in splits
    )

    labels, truth = (
        np.asarray(split.table["label"].to_pylist(), dtype=np.str_) for split in splits
    )

    found = {}
    for by, at_test in (("nobody", ("nobody",)), ("speaker", ("speaker", "wrong"))):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=REGULARIZATION, max_iter=MAX_ITERATIONS)
        )
        model.fit(_standardized(train, by), labels)

        for given in at_test:
            found[given] = _over_speakers(
                model.predict(_standardized(test, given)) == truth, test.speakers
            )

    return found


def _standardized(measured: Measured, by: str) -> NDArray[np.float32]:
    """Standardize the statistics [N, X]."""
    statistics, speakers = measured.functionals, measured.speakers
    if by == "nobody":
        return statistics

    standardized, names = np.empty_like(statistics), np.unique(speakers)
    for place, name in enumerate(names):
        source = statistics[speakers == (name if by == "speaker" else names[place - 1])]
        mine = statistics[speakers == name]
        standardized[speakers == name] = (mine - source.mean(axis=0)) / (source.std(axis=0) + 1e-6)
    return standardized


def _over_speakers(right: NDArray[np.bool_], speakers: NDArray[np.object_]) -> float:
    return 100 * float(np.mean([right[speakers == name].mean() for name in np.unique(speakers)]))
