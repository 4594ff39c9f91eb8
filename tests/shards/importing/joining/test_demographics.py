"""What a table says of speakers joins their utterances, and a row that cannot count says why."""

from pathlib import Path

import pytest

from shards.config import ConfigError
from tests.shards.importing.joining.worlds import metadata, rejected, run, write_clips, write_rows


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_clips(tmp_path, ["s1_a", "s1_b", "s2_c", "s3_d"])


def test_demographics_join_by_speaker(clips: Path) -> None:
    """Every utterance of a speaker gets them; empty cells are left out, and ages are numbers."""
    speakers = write_rows(
        clips.parent / "speakers.csv",
        ("", "speaker", "Sex", "Age", "Home Town"),
        [
            (1, "s1", "female", "41", " Oslo "),
            (2, " s2", "", "50s", ""),
            (3, "s9", "male", "7", ""),
        ],
    )
    report = run(clips, speakers=str(speakers))

    found = metadata(clips)
    assert found["s1_a"]["demographics"] == {"sex": "female", "age": 41, "home town": "Oslo"}
    assert found["s1_a"]["demographics"] == found["s1_b"]["demographics"]
    assert found["s2_c"]["demographics"] == {"age": "50s"}
    assert "demographics" not in found["s3_d"]

    (joined,) = report.remarks.joined
    assert joined.num_utterances == {"sex": 2, "age": 3, "home town": 2}
    assert (joined.num_without, joined.example_without) == (1, "s3_d")
    assert joined.rejected == {"unknown_speaker": 1}
    assert not joined.is_faulty


def test_rows_that_cannot_count_say_why(clips: Path) -> None:
    """No name, and rows on one speaker: those that agree count once, others count for nothing."""
    rows = [("s1", "f"), ("s1", "f"), ("s2", "f"), ("s2", "m"), ("", "f"), ("s3",)]
    speakers = write_rows(clips.parent / "speakers.csv", ("speaker", "sex"), rows)
    report = run(clips, speakers=str(speakers))

    reasons = rejected(clips, "demographics")
    assert {row: reason.partition(":")[0] for row, reason in reasons.items()} == {
        1: "duplicate_speaker",
        2: "contradictory_speaker",
        3: "contradictory_speaker",
        4: "no_speaker",
        5: "bad_row",
    }
    assert report.remarks.joined[0].is_faulty
    assert [key for key, one in metadata(clips).items() if "demographics" in one] == [
        "s1_a",
        "s1_b",
    ]


def test_tables_that_cannot_be_joined_are_refused(clips: Path) -> None:
    """No column of speakers, names that differ by case, strangers, and no speakers to join to."""
    folder = clips.parent
    cases = {
        ("name", "sex"): "got the columns name, sex, expected speaker or ActorID",
        ("speaker",): "expected the names of at least two columns",
        ("speaker", "Sex", "sex"): r"columns differ only by case \(sex\)",
        ("ActorID", "sex"): "none of its speakers, such as 'x', is the speaker .* such as 's1'",
    }
    for header, said in cases.items():
        speakers = write_rows(folder / "speakers.tsv", header, [])
        speakers.write_text("\t".join(header) + "\n" + "\t".join("x" for _ in header) + "\n")
        with pytest.raises(ConfigError, match=said):
            run(clips, speakers=str(speakers))

    nobody = write_rows(folder / "nobody.csv", ("clip", "transcript"), [("a", "b")])
    with pytest.raises(ConfigError, match="has no column speaker to join by"):
        run(nobody, speakers=str(write_rows(folder / "s.csv", ("speaker", "sex"), [("s1", "f")])))
