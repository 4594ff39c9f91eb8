"""Made answers of groups of speakers, for the tests of fairness."""

import numpy as np

from trainers.evaluation.fairness.grouping import Grouping
from trainers.evaluation.multilabel.one_vs_rest import OneVsRest, above_threshold


def make_answers(
    num_speakers: int, per_speaker: int, *, shift: float = 0.0, seed: int = 0
) -> tuple[OneVsRest, np.ndarray, Grouping]:
    """Answers to three classes, the speakers, and their two groups, every other speaker in one.

    `shift` is taken from the evidence for the first class of the second group.
    """
    rng = np.random.default_rng(seed)
    number = num_speakers * per_speaker
    speaker = np.arange(number) // per_speaker
    place = (speaker % 2).astype(np.int64)

    truth = rng.random((number, 3)) < 0.4
    evidence = 1.5 * truth + rng.standard_normal((number, 3))
    evidence[:, 0] -= shift * place
    probs = np.exp(evidence) / np.exp(evidence).sum(axis=1, keepdims=True)
    answers = OneVsRest(
        names=("x", "y", "z"),
        rule="probability above 1/3",
        probs_NC=probs.astype(np.float32),
        chosen_NC=above_threshold(probs.astype(np.float32)),
        truth_NC=truth,
    )
    speakers = np.asarray([f"s{n}" for n in speaker], dtype=object)
    return answers, speakers, make_grouping("voice", ["high", "low"], place, speaker)


def make_grouping(field: str, names: list[str], place: np.ndarray, speaker: np.ndarray) -> Grouping:
    """A grouping with the counts that belong to `place` [N] and `speaker` [N]."""
    return Grouping(
        field=field,
        names=names,
        place=place.astype(np.int64),
        num_utterances=np.bincount(place, minlength=len(names)),
        num_speakers=np.asarray(
            [len(set(speaker[place == group].tolist())) for group in range(len(names))]
        ),
    )
