"""CREMA-D's own tables: a small one made by hand, and the real ones where they are at hand.

The expected numbers of the real tables were counted by other code, and some of them are printed in
the paper (two-stage-aver, Tables 1 and 4).
"""

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from shards.loading.ratings import STIMULI, class_weights, count_votes, multi_hot
from tests import ROOT
from tests.shards.importing.joining.worlds import metadata, rejected, run, write_clips, write_rows

HEADER = ("", "A", "D", "F", "H", "N", "S", "fileName", "numResponses", "agreement", "emoVote")
# A S D F N H, the order of the weights in the literature.
CLASSES = ("anger", "sadness", "disgust", "fear", "neutral", "happiness")


def test_a_small_table_in_its_layout(tmp_path: Path) -> None:
    """A row's number tells the stimulus; totals that do not add up are refused."""
    clips = write_clips(tmp_path, ["1001_IEO_NEU_XX", "1002_DFA_ANG_XX"])
    one, two = "1001_IEO_NEU_XX", "1002_DFA_ANG_XX"
    rows: list[tuple[Any, ...]] = [
        ("100001", 0, 0, 0, 1, 10, 0, one, 11, 0.9, "N"),
        ("200001", 0, 0, 0, 0, 9, 0, one, 9, 1.0, "N"),
        ("300001", 0, 2, 2, 1, 7, 0, one, 12, 0.6, "N"),
        ("100002", 5, 2, 0, 0, 2, 1, two, 11, 0.5, "A"),
        ("200002", 5, 2.5, 0, 0, 2, 1, two, 10, 0.5, "A"),
        ("400002", 5, 2, 0, 0, 2, 1, two, 10, 0.5, "A"),
        ("300002", 6, 2, 0, 0, 1, 1, two, 10, 0.6, "A"),
    ]
    votes = write_rows(tmp_path / "tabulatedVotes.csv", HEADER, rows)
    speakers = write_rows(
        tmp_path / "VideoDemographics.csv",
        ("ActorID", "Age", "Sex", "Race", "Ethnicity"),
        [(1001, 51, "Male", "Caucasian", "Not Hispanic"), (1002, 21, "Female", "Asian", "")],
    )
    run(clips, ratings=str(votes), speakers=str(speakers))

    found = metadata(clips)
    assert found[one] == {
        "speaker": "1001",
        "ratings": {
            "voice": {"happiness": 1, "neutral": 10},
            "face": {"neutral": 9},
            "audiovisual": {"disgust": 2, "fear": 2, "happiness": 1, "neutral": 7},
        },
        "demographics": {
            "age": 51,
            "sex": "Male",
            "race": "Caucasian",
            "ethnicity": "Not Hispanic",
        },
    }
    # 2 of 12 votes are exactly a sixth, which is no label.
    counted = count_votes(found[one], "audiovisual", CLASSES)[None]
    assert multi_hot(counted).tolist() == [[0, 0, 0, 0, 1, 0]]

    assert found[two]["ratings"] == {
        "audiovisual": {"anger": 6, "disgust": 2, "neutral": 1, "sadness": 1}
    }
    assert found[two]["demographics"] == {"age": 21, "sex": "Female", "race": "Asian"}
    reasons = rejected(clips, "ratings")
    assert reasons.keys() == {3, 4, 5}
    assert reasons[3] == "bad_votes: the row has 10 votes, but numResponses is 11"
    assert reasons[4].startswith("bad_votes: D is '2.5'")
    assert reasons[5].startswith("bad_stimulus: the row's number is '400002', expected one that")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The json of every clip of the real corpus, from its own tables, without any media."""
    data = Path(os.environ.get("CREMA_D", ROOT.parent / "shared" / "data" / "crema-d"))
    if not (data / "tabulatedVotes.csv").exists():
        pytest.skip(f"no CREMA-D in {data}; set CREMA_D to the folder of tabulatedVotes.csv")

    with (data / "SentenceFilenames.csv").open(newline="") as stream:
        names = [row["Filename"] for row in csv.DictReader(stream)]
    clips = write_clips(tmp_path_factory.mktemp("crema-d"), names)
    report = run(
        clips,
        ratings=str(data / "tabulatedVotes.csv"),
        speakers=str(data / "VideoDemographics.csv"),
    )

    ratings, speakers = report.remarks.joined
    assert (report.num_rows, report.num_imported) == (7442, 7442)
    assert (ratings.num_rows, speakers.num_rows) == (22326, 91)
    assert ratings.rejected == speakers.rejected == {}
    assert ratings.num_utterances == dict.fromkeys(STIMULI, 7442)
    assert (ratings.num_without, speakers.num_without) == (0, 0)
    return metadata(clips)


def votes_on(imported: dict[str, dict[str, Any]], stimulus: str) -> NDArray[np.int64]:
    return np.stack([count_votes(fields, stimulus, CLASSES) for fields in imported.values()])


@pytest.mark.parametrize(
    ("stimulus", "num_votes", "num_several", "labels_a_clip", "num_on_the_limit", "neutral"),
    [
        ("voice", 68568, 5197, 1.90, 67, 0.44),
        ("face", 71654, 4264, 1.76, 19, 0.26),
        ("audiovisual", 71778, 4083, 1.69, 8, 0.26),
    ],
)
def test_the_real_votes_recounted(
    imported: dict[str, dict[str, Any]],
    stimulus: str,
    num_votes: int,
    num_several: int,
    labels_a_clip: float,
    num_on_the_limit: int,
    neutral: float,
) -> None:
    """Votes, clips with several labels, labels a clip, and cells at exactly 1/6, by stimulus."""
    votes = votes_on(imported, stimulus)
    labels = multi_hot(votes)

    assert votes.sum() == num_votes
    assert (labels.sum(axis=1) > 1).sum() == num_several
    assert labels.sum(axis=1).mean() == pytest.approx(labels_a_clip, abs=0.005)
    assert labels.sum(axis=1).min() == 1
    assert (6 * votes == votes.sum(axis=1, keepdims=True)).sum() == num_on_the_limit
    assert votes[:, CLASSES.index("neutral")].sum() / num_votes == pytest.approx(neutral, abs=0.005)


def test_the_class_weights_of_the_real_votes(imported: dict[str, dict[str, Any]]) -> None:
    """The weights of all clips from audio-visual labels, with both values of beta."""
    labels = multi_hot(votes_on(imported, "audiovisual"))
    assert labels.sum(axis=0).tolist() == [1658, 1695, 2348, 2257, 3291, 1340]

    authors = [1.1422, 1.1200, 0.8431, 0.8720, 0.6383, 1.3844]
    original = [1.1474, 1.1244, 0.8377, 0.8676, 0.6251, 1.3978]
    np.testing.assert_allclose(class_weights(labels, CLASSES), authors, atol=1e-4)
    np.testing.assert_allclose(class_weights(labels, CLASSES, 0.9999), original, atol=1e-4)


def test_the_groups_of_the_real_speakers(imported: dict[str, dict[str, Any]]) -> None:
    """Clips by sex and by race, as the paper counts them; one actor alone is of unknown race."""
    people = [fields["demographics"] for fields in imported.values()]
    assert Counter(one["sex"] for one in people) == {"Male": 3930, "Female": 3512}
    assert Counter(one["race"] for one in people) == {
        "Caucasian": 4988,
        "African American": 1804,
        "Asian": 568,
        "Unknown": 82,
    }
    unknown = {
        fields["speaker"]
        for fields in imported.values()
        if fields["demographics"]["race"] == "Unknown"
    }
    assert len(unknown) == 1
    ages = [one["age"] for one in people]
    assert (min(ages), max(ages)) == (20, 74)


@pytest.mark.parametrize(("stimulus", "macro_f1"), [("voice", 0.637), ("face", 0.750)])
def test_votes_on_one_channel_as_predictions_of_both(
    imported: dict[str, dict[str, Any]], stimulus: str, macro_f1: float
) -> None:
    """The labels of raters who heard or saw a clip, against those of raters who did both."""
    predicted, truth = (multi_hot(votes_on(imported, name)) for name in (stimulus, "audiovisual"))
    found = f1_score(truth, predicted, average="macro")
    assert found == pytest.approx(macro_f1, abs=5e-4)
