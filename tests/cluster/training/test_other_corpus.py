"""A model is measured on another corpus over the classes that both have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from tests.cluster.training.test_folds import evaluate, metrics, train, write_world
from tests.worlds.small import write_shard
from tests.worlds.training import make_utterance

# The model knows neutral, anger and happiness.
RENAMED = {"happiness": "boredom"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model, `run`, and of another corpus, `other`."""
    folder = tmp_path_factory.mktemp("world")
    assert train(folder, write_world(folder, lambda number: f"s{number}")) == 0

    samples = []
    for speaker in range(3):
        for number in range(6):
            one = make_utterance("test", speaker, number)
            named = {name: RENAMED.get(text, text) for name, text in texts(one.metadata)}
            samples.append(replace(one, metadata=one.metadata | named))
    (folder / "other").mkdir()
    write_shard(folder / "other" / "other.tar", samples)
    return folder


def texts(metadata: Any) -> list[tuple[str, str]]:
    return [(name, metadata[name]) for name in ("label", "emotion")]


def scores_of(folder: Path, *options: str) -> tuple[Any, dict[str, Any]]:
    best = f"{folder}/run/best"
    assert evaluate(folder, f"{folder}/other/*.tar", best, options=options) == 0
    return pq.read_table(folder / "out" / "predictions.parquet").to_pandas(), metrics(folder)


def test_only_shared_classes_count(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores and macro-F1 are those of numpy and scikit-learn on the answers without the option."""
    whole, _ = scores_of(world)
    capsys.readouterr()
    found, measured = scores_of(world, "--other-corpus")

    kept = whole[["score_neutral", "score_anger"]].to_numpy().astype(np.float64)
    assert "score_happiness" not in found.columns
    expected = kept / kept.sum(axis=1, keepdims=True)
    assert found[["score_neutral", "score_anger"]].to_numpy() == pytest.approx(expected, abs=1e-6)

    counts = (whole["emotion"] != "boredom").to_numpy()
    names = np.asarray(["neutral", "anger"])[expected.argmax(axis=1)]
    f1 = f1_score(whole["emotion"][counts], names[counts], average="macro")
    assert measured["scores"]["macro_f1"] == pytest.approx(f1)
    assert (measured["number"], measured["num_without_truth"]) == (12, 6)
    lost = int((whole["predicted"][counts] == "happiness").sum())
    assert measured["other_corpus"] == {
        "shared": ["neutral", "anger"],
        "dropped": ["happiness"],
        "num_dropped_answers": lost,
    }

    said = capsys.readouterr().out
    assert "6 more are not counted" in said
    assert "(boredom 6)" in said
    dropped = f"scores of happiness are dropped and the rest is renormalized ({lost} utterances"
    assert dropped in said
    page = (world / "out" / "evaluation.html").read_text()
    assert dropped in page
    assert "not counted, because the model does not know their class: boredom 6" in page


def test_the_corpus_of_training_is_no_other(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model is not measured as if its own corpus were another."""
    best = f"{world}/run/best"
    assert evaluate(world, f"{world}/*.tar", best, options=("--other-corpus",)) == 2
    assert "was trained on these very shards" in capsys.readouterr().err
