"""A set is personalized by the support that the control names, and never by accident by itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import read_index
from shards.loading.loader import BatchReader
from tests.trainers.models.test_recognizer import make as recognizer
from tests.worlds.training import heard, write_training_world
from trainers.evaluation.predicting import (
    Support,
    load_recognizer,
    plan_sets,
    predict,
    seconds_heard,
    utterances_learned,
)
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.recognizer_config import RecognizerConfig
from trainers.models.trained import TrainedRecognizer

SIZES = st.lists(st.integers(2, 9), min_size=2, max_size=5)


def speakers(sizes: list[int]) -> dict[str, NDArray[np.int64]]:
    edges = np.cumsum([0, *sizes])
    return {f"s{place}": np.arange(edges[place], edges[place + 1]) for place in range(len(sizes))}


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 10), st.integers(0, 3))
def test_support_is_of_the_kind_asked_for(sizes: list[int], set_size: int, seed: int) -> None:
    """Every utterance is predicted once, with support of the kind that was asked for.

    Disjoint support is others of the same speaker, wrong support is another speaker's.
    """
    groups = speakers(sizes)
    owner = {row: name for name, rows in groups.items() for row in rows.tolist()}

    for support in ("same", "disjoint", "wrong"):
        planned = plan_sets(groups, set_size, support, seed)  # type: ignore[arg-type]
        predicted = [batch.rows[:number] for batch, number in planned]
        assert sorted(np.concatenate(predicted).tolist()) == list(owner)

        for batch, number in planned:
            mine, others = batch.rows[:number].tolist(), batch.rows[number:].tolist()
            assert len({owner[row] for row in mine}) == 1
            assert bool(others) == (support != "same")
            assert not set(mine) & set(others)
            assert {owner[row] == owner[mine[0]] for row in others} <= {support == "disjoint"}


def test_an_encoder_is_no_recognizer(tmp_path: Path) -> None:
    """The error for an encoder says what to do first; a folder without a model is refused too."""
    SequenceEncoder(SequenceEncoderConfig(hidden_size=8, num_hidden_layers=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(
        ConfigError, match="got another model, expected a recognizer; fine-tune an encoder first"
    ):
        load_recognizer(str(tmp_path))

    with pytest.raises(ConfigError, match="no exported model"):
        load_recognizer(str(tmp_path / "nothing"))


def test_what_has_no_such_support_is_refused() -> None:
    """One utterance has no other of its speaker, and one speaker has no other speaker."""
    with pytest.raises(ConfigError, match="'s1' has one utterance"):
        plan_sets(speakers([3, 1]), 8, "disjoint", 0)
    with pytest.raises(ConfigError, match="expected at least two"):
        plan_sets(speakers([3]), 8, "wrong", 0)


def trained_on(**values: object) -> EmotionRecognizer:
    encoder = SequenceEncoderConfig(hidden_size=8, num_hidden_layers=1).to_dict()
    return EmotionRecognizer(
        RecognizerConfig(encoder=encoder, names=["anger", "neutral"], trained_on=values)
    )


def test_what_was_heard_counts_through_a_chain_of_runs() -> None:
    """The most that this model or one before it heard of the split counts, and no other split."""
    model = trained_on(
        known_seconds=2.0, known_split="test", start={"known_seconds": 5.0, "known_split": "test"}
    )

    assert seconds_heard(model, "test") == 5.0
    assert seconds_heard(model, "validation") == 0.0
    assert seconds_heard(trained_on(), "test") == 0.0


def test_calibration_knows_the_speakers_that_were_learned(tmp_path: Path) -> None:
    """Calibration uses the two of six training speakers that the model learned from.

    When test speakers took the place of some, these are the training speakers that were left.
    """
    corpus = read_index(write_training_world(tmp_path))
    assert len(utterances_learned(trained_on(), corpus).speakers) == 6
    assert (
        len(utterances_learned(trained_on(num_speakers=2, known_seconds=0.0), corpus).speakers) == 2
    )

    (tmp_path / "test-000000.tar").unlink()
    assert (
        len(
            utterances_learned(
                trained_on(num_speakers=2, known_seconds=0.0), read_index(f"{tmp_path}/*")
            ).speakers
        )
        == 2
    )


@pytest.mark.parametrize("support", ["disjoint", "wrong"])
def test_a_prefix_is_made_from_the_support_alone(tmp_path: Path, support: Support) -> None:
    """Scores are those that a prefix from the support utterances alone gives."""
    index = read_index(write_training_world(tmp_path)).split("test")
    # Why no quantizer: untrained codes are all alike.
    extractor = {"code_width": 8, "num_prefixes": 2, "quantized": False}
    model = recognizer("prefix", extractor=extractor).eval()
    found = predict(TrainedRecognizer(model, None), index, set_size=2, support=support, seed=3)

    reader = BatchReader(index, ["sound"])
    for plan, number in plan_sets(index.rows_by_speaker(), 2, support, 3):
        batch = reader[0, plan]
        alone = torch.zeros(len(batch), dtype=torch.long)

        with torch.inference_mode():
            scores = model(*heard(batch), alone, torch.arange(len(batch)) >= number).scores_NC
        np.testing.assert_allclose(
            found.scores[plan.rows[:number]], scores[:number].softmax(dim=1), rtol=1e-4
        )
