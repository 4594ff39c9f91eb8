"""On another corpus the classes that both have count, and a model's other scores are dropped."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from shards.config import ConfigError
from shards.loading.index import CorpusIndex, read_index
from tests.worlds.training import write_training_world
from trainers.evaluation.config import EvaluateConfig
from trainers.evaluation.shared_classes import SharedClasses, shared_classes
from trainers.evaluation.target import Target
from trainers.evaluation.targets import ClassTarget, ValueTarget


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusIndex:
    """Return a corpus with the classes neutral, anger and happiness."""
    return read_index(write_training_world(tmp_path_factory.mktemp("packed")))


def options(**changes: Any) -> EvaluateConfig:
    given = {"checkpoint": ("best",), "shards": "*.tar", "out": "out", "other_corpus": True}
    return EvaluateConfig(**(given | changes))


def shared_by(names: list[str], corpus: CorpusIndex) -> SharedClasses:
    found = shared_classes(options(), ClassTarget(names), corpus, corpus)
    assert found is not None
    return found


def test_the_classes_are_those_that_both_have(corpus: CorpusIndex) -> None:
    """They keep the model's order, also when the corpus has further classes."""
    found = shared_by(["happiness", "calm", "anger"], corpus)
    assert found.target.names == ("happiness", "anger")
    assert (found.places.tolist(), found.dropped) == ([0, 2], ("calm",))
    assert found.target.unknown_truths(corpus) == {"neutral": len(corpus) // 3}


def test_a_class_of_another_split_is_shared_too(corpus: CorpusIndex) -> None:
    """What the corpus has does not depend on which utterances are measured."""
    angry = np.flatnonzero(np.asarray(corpus.table["emotion"].to_pylist()) == "anger")
    names = ["neutral", "anger"]
    found = shared_classes(options(), ClassTarget(names), corpus, corpus.take(angry))
    assert found is not None
    assert found.target.names == tuple(names)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-20, 20), min_size=4, max_size=4), min_size=1, max_size=5))
def test_scores_are_a_softmax_over_the_shared_classes(rows: list[list[float]]) -> None:
    """Dropping and renormalizing gives what a softmax over the shared classes alone gives."""
    logits = np.asarray(rows)
    shared = SharedClasses(
        target=ClassTarget(["a", "c"]), places=np.asarray([0, 2]), dropped=("b", "d")
    )
    found = shared.scores(softmax(logits, axis=1).astype(np.float32))
    assert found == pytest.approx(np.exp(log_softmax(logits[:, [0, 2]], axis=1)), abs=1e-5)


def test_a_model_that_gives_the_shared_classes_nothing_is_undecided() -> None:
    """A row without any probability left is alike for all classes, and no NaN."""
    shared = SharedClasses(
        target=ClassTarget(["a", "c"]), places=np.asarray([0, 2]), dropped=("b",)
    )
    scores = np.asarray([[0, 1, 0], [0.3, 0.6, 0.1]], dtype=np.float32)
    assert shared.scores(scores) == pytest.approx(np.asarray([[0.5, 0.5], [0.75, 0.25]]))
    assert shared.described(scores, np.asarray([0, 1]))["num_dropped_answers"] == 2
    assert shared.described(scores, np.asarray([], dtype=np.int64))["num_dropped_answers"] == 0


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        (ValueTarget(["arousal"]), {}),
        (ClassTarget(["anger", "calm"]), {"other_corpus": False}),
    ],
)
def test_nothing_is_dropped_otherwise(
    corpus: CorpusIndex, target: Target, changes: dict[str, Any]
) -> None:
    """Values have no classes, and without the option every class stays."""
    assert shared_classes(options(**changes), target, corpus, corpus) is None


def test_what_cannot_be_measured_is_refused(corpus: CorpusIndex) -> None:
    """Fewer than two shared classes, calibrated scores and several models are refused."""
    with pytest.raises(ConfigError, match=r"are anger, happiness, neutral; expected at least two"):
        shared_classes(options(), ClassTarget(["anger", "calm"]), corpus, corpus)

    target = ClassTarget(["anger", "neutral", "calm"])
    with pytest.raises(ConfigError, match="--pldc mu: the scores of calm, which"):
        shared_classes(options(pldc="mu"), target, corpus, corpus)
    with pytest.raises(ConfigError, match="--other-corpus: got 2 models, expected one"):
        options(checkpoint=("one", "two"))


def test_calibrated_scores_stay_when_nothing_is_dropped(corpus: CorpusIndex) -> None:
    """PLDC is for corpora that have all of the model's classes, whose scores are not touched."""
    names = ["anger", "neutral"]
    found = shared_classes(options(pldc="mu"), ClassTarget(names), corpus, corpus)
    assert found is not None
    scores = np.asarray([[1.5, -0.2]], dtype=np.float32)
    assert found.scores(scores) is scores
