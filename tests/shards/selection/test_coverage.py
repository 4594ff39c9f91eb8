"""Teachers that lack emotions: zeros for what a teacher cannot know are no disagreement."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shards.emotions import EMOTIONS
from shards.selection.coverage import known_emotions, missing_emotions, raised
from shards.selection.job import select
from shards.selection.rule import Candidates, SelectConfig, choose
from shards.tables.predictions import Prediction, write_predictions
from tests.shards.selection.inputs import INFO, draw_candidates

FOUR = np.isin(EMOTIONS, ("neutral", "anger", "happiness", "sadness"))
SEVEN = np.ones(7, dtype=bool)


def configure(**options: object) -> SelectConfig:
    settings: dict[str, object] = {
        "predictions": "in",
        "out": "out",
        "teachers": ("text", "audio"),
        "classes": EMOTIONS,
        "min_per_speaker": 0,
    }
    return SelectConfig(**(settings | options))  # type: ignore[arg-type]


def with_four_class_audio(candidates: Candidates) -> Candidates:
    """The same utterances, whose audio teacher has never heard of three of the emotions."""
    audio = np.where(FOUR, candidates.teachers["audio"], 0.0)
    audio /= audio.sum(axis=1, keepdims=True)

    return dataclasses.replace(
        candidates,
        teachers={**candidates.teachers, "audio": audio},
        known={"text": SEVEN, "audio": FOUR},
    )


def by_hand(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """KL(first || second) with 0.001 for the three emotions that the second lacks."""
    lifted = [second[number] if FOUR[number] else 0.001 for number in range(7)]
    terms = [p * math.log(p * sum(lifted) / q) for p, q in zip(first, lifted, strict=True)]
    return sum(terms)


def test_a_four_class_teacher_agrees_and_disagrees() -> None:
    """Distances are finite and those of a hand-written sum; what lies outside is put apart."""
    candidates = with_four_class_audio(draw_candidates(3))

    selection = choose(candidates, configure())

    text, audio = candidates.teachers["text"], candidates.teachers["audio"]
    usable = ~np.isnan(text).any(axis=1) & ~np.isnan(audio).any(axis=1)
    outside = usable & (text[:, ~FOUR].sum(axis=1) > 0.5)
    assert selection.kept.sum() > 20
    assert outside.sum() > 20

    for row in np.flatnonzero(outside):
        assert selection.reason[row] == (
            "outside_known_emotions: teacher 'text' gives most of its probability to emotions "
            "that teacher 'audio' lacks (disgust, fear, surprise)"
        )
    for row in np.flatnonzero(usable & ~outside):
        distance = by_hand(text[row], audio[row])
        assert selection.distance[row] == pytest.approx(distance, rel=1e-9)
        assert (selection.reason[row] == "disagreement") == (distance > 1)


def test_as_the_first_teacher_its_zeros_are_as_published() -> None:
    """KL(first || second) is finite where the first teacher gives 0: nothing is raised there."""
    candidates = with_four_class_audio(draw_candidates(3))
    unaware = dataclasses.replace(candidates, known={})

    aware = choose(candidates, configure(teachers=("audio", "text")))
    plain = choose(unaware, configure(teachers=("audio", "text")))

    inside = [not str(reason).startswith("outside") for reason in aware.reason]
    np.testing.assert_array_equal(aware.distance[inside], plain.distance[inside])


def test_teachers_that_know_all_seven_are_compared_to_the_bit_as_published() -> None:
    """Saying that all are known changes no bit of a selection."""
    candidates = draw_candidates(1)
    told = dataclasses.replace(candidates, known={"text": SEVEN, "audio": SEVEN})

    plain, explicit = choose(candidates, configure()), choose(told, configure())

    assert raised(candidates.teachers["text"], SEVEN) is candidates.teachers["text"]
    np.testing.assert_array_equal(plain.reason, explicit.reason)
    np.testing.assert_array_equal(plain.probs, explicit.probs)
    np.testing.assert_array_equal(plain.distance, explicit.distance)


def test_match_kl_counts_what_is_compared() -> None:
    """The JS threshold lets as many utterances agree as KL <= 1 with raised zeros does."""
    candidates = with_four_class_audio(draw_candidates(2))

    kl = choose(candidates, configure())
    js = choose(candidates, configure(distance="js", threshold="match-kl"))

    assert (js.distance <= js.threshold).sum() == (kl.distance <= 1).sum() > 0


def test_one_teacher_alone_has_no_other_to_lack_anything() -> None:
    """A four-class teacher that nobody contradicts labels by its own four classes."""
    candidates = with_four_class_audio(draw_candidates(0))
    selection = choose(candidates, configure(teachers=("audio",)))
    assert not [reason for reason in selection.reason if str(reason).startswith("outside")]


def test_what_a_teacher_knows_is_what_its_table_says_or_its_zeros_show() -> None:
    """A declaration wins; without one, a column of zeros shows it, but only over enough rows."""
    probs = np.tile([0.25, 0.25, 0, 0, 0.25, 0.25, 0], (200, 1))
    probs[0] = np.nan

    assert known_emotions(None, probs).tolist() == FOUR.tolist()
    assert known_emotions(None, probs[:50]).all()
    assert known_emotions(",".join(EMOTIONS), probs).all()
    assert known_emotions("fear,anger", probs).sum() == 2
    assert missing_emotions({"text": SEVEN, "audio": FOUR}) == {
        "audio": ["disgust", "fear", "surprise"]
    }


def test_raised_rows_are_distributions_and_missing_ones_stay_missing() -> None:
    """What is known keeps its proportions; NaN, which is no prediction, stays NaN."""
    probs = np.array([[0.5, 0.25, 0, 0, 0.25, 0, 0], [np.nan] * 7])

    lifted = raised(probs, FOUR)

    assert lifted[0].sum() == pytest.approx(1)
    assert lifted[0, 0] / lifted[0, 1] == pytest.approx(2)
    assert lifted[0, ~FOUR] == pytest.approx(np.full(3, 0.001 / 1.003))
    assert np.isnan(lifted[1]).all()


@pytest.mark.parametrize("declared", [None, "neutral,anger,happiness,sadness"])
def test_tables_of_a_four_class_teacher_are_selected_from(
    tmp_path: Path, declared: str | None
) -> None:
    """With a footer that says what the teacher knows, or without, the selection keeps something."""
    candidates = with_four_class_audio(draw_candidates(4))
    rows = [
        Prediction(
            key=str(row),
            shard="a.tar",
            offset=row,
            size=1,
            speaker="ann",
            text=text.astype(np.float32),
            audio=audio.astype(np.float32),
        )
        for row, (text, audio) in enumerate(
            zip(candidates.teachers["text"], candidates.teachers["audio"], strict=True)
        )
        if not np.isnan(text + audio).any()
    ]
    labelers = {name: dict(labeler) for name, labeler in INFO.labelers.items()}
    if declared:
        labelers["audio"]["emotions"] = declared
    (tmp_path / "in").mkdir()
    info = dataclasses.replace(INFO, labelers=labelers)
    write_predictions(str(tmp_path / "in" / "a.parquet"), rows, info)

    summary = select(configure(predictions=str(tmp_path / "in"), out=str(tmp_path / "out")))

    assert summary["num_kept"] > 20
    assert summary["rejected"].keys() == {"disagreement", "outside_known_emotions"}
    assert summary["missing_emotions"] == {"audio": ["disgust", "fear", "surprise"]}
