"""What votes for three stimuli have in common, measured in the same way on any corpus.

The figures by which the synthetic raters are compared with those of CREMA-D. Arrays of votes are
`[utterance, emotion]`, one for each stimulus; an utterance has every label with more than 1/C of
its votes, compared as whole numbers.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from shards.synthetic.corpus import World

STIMULI = ("voice", "face", "audiovisual")
FIGURES = (
    *(f"several labels, {stimulus}" for stimulus in STIMULI),
    *(f"neutral's share of votes, {stimulus}" for stimulus in STIMULI),
    "macro-F1 of voice votes",
    "macro-F1 of face votes",
    "macro-F1 of both, regression",
)
CREMA_D = (0.698, 0.573, 0.549, 0.440, 0.260, 0.260, 0.637, 0.750, 0.804)
"""FIGURES of CREMA-D's 7,442 clips; the regression is tested on five folds of its actors."""

NUM_FOLDS = 5
_MIN_LABELS = 20


def votes_of(
    world: World, num_speakers: int
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """Votes by stimulus of all utterances of the first speakers, and the speaker of each."""
    votes: dict[str, list[list[int]]] = {stimulus: [] for stimulus in STIMULI}
    speakers = []

    for index in range(num_speakers):
        person = world.speaker(index)
        for utterance in range(person.num_utterances):
            speakers.append(index)
            for stimulus, counts in world.ratings(person, utterance).items():
                votes[stimulus].append(list(counts.values()))

    return {name: np.array(counts) for name, counts in votes.items()}, np.array(speakers)


def labels_of(votes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The labels `[utterance, emotion]` with more than 1/C of an utterance's votes."""
    labels: NDArray[np.bool_] = votes.shape[1] * votes > votes.sum(axis=1, keepdims=True)
    return labels


def figures_of(
    votes: Mapping[str, NDArray[np.int64]], fold: NDArray[np.int64], *, neutral: int = 0
) -> NDArray[np.float64]:
    """The values of FIGURES; `fold` [utterance] says which part each is tested in."""
    labels = {stimulus: labels_of(votes[stimulus]) for stimulus in STIMULI}
    several = [float((labels[one].sum(axis=1) > 1).mean()) for one in STIMULI]
    shares = [float(votes[one][:, neutral].sum() / votes[one].sum()) for one in STIMULI]

    predicted = (labels["voice"], labels["face"], _by_regression(votes, fold))
    scores = [macro_f1(labels["audiovisual"], one) for one in predicted]

    return np.array([*several, *shares, *scores])


def macro_f1(true: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """Macro-F1 over the emotions that have enough labels to be judged."""
    judged = true.sum(axis=0) >= _MIN_LABELS
    return float(f1_score(true[:, judged], predicted[:, judged], average="macro"))


def _by_regression(
    votes: Mapping[str, NDArray[np.int64]], fold: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Labels by softmax regression on the shares of voice and face votes, over folds."""
    shares = {name: counts / counts.sum(axis=1, keepdims=True) for name, counts in votes.items()}
    inputs, targets = np.hstack([shares["voice"], shares["face"]]), shares["audiovisual"]
    num_classes = targets.shape[1]
    probabilities = np.zeros_like(targets)

    for tested in np.unique(fold):
        train, test = fold != tested, fold == tested

        # Soft targets are every class once, with the class's share of votes as the weight.
        model = LogisticRegression(C=1e3, max_iter=1000).fit(
            np.repeat(inputs[train], num_classes, axis=0),
            np.tile(np.arange(num_classes), int(train.sum())),
            sample_weight=targets[train].reshape(-1),
        )
        probabilities[test] = model.predict_proba(inputs[test])

    return probabilities > 1 / num_classes
