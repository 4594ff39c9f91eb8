"""Votes join the utterances of an import, and a row that cannot count says why."""

import json
import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.config import ConfigError
from tests.shards.importing.joining.worlds import metadata, rejected, run, write_clips, write_rows

LONG = ("key", "stimulus", "label", "votes")
GOOD = [
    ("s1_a", "voice", "Happy", 3),
    ("s1_a", "voice", "calm", 2),
    ("s1_a", "Audio-Visual", "happy", "4.0"),
    ("s2_b", "face", "sad", 1),
]


def long_table(folder: Path, rows: Any) -> str:
    return str(write_rows(folder / "votes.csv", LONG, rows))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_clips(tmp_path, ["s1_a", "s2_b", "s2_c"])


def test_votes_join_by_key(clips: Path) -> None:
    """Each utterance gets its votes by stimulus; one that nobody rated gets none, and is counted.

    Utterances without sound or video come in with what is said as their transcript.
    """
    report = run(clips, ratings=long_table(clips.parent, [*GOOD, ("s2_b", "voice", "sad", 0)]))
    assert (report.num_imported, report.num_rejected) == (3, 0)

    found = metadata(clips)
    assert found["s1_a"]["ratings"] == {
        "voice": {"Happy": 3, "calm": 2},
        "audiovisual": {"happy": 4},
    }
    # Votes of 0 say nothing.
    assert found["s2_b"]["ratings"] == {"face": {"sad": 1}}
    assert "ratings" not in found["s2_c"]

    (joined,) = report.remarks.joined
    assert joined.num_utterances == {"voice": 1, "audiovisual": 1, "face": 1}
    assert (joined.num_rows, joined.num_without, joined.example_without) == (5, 1, "s2_c")
    assert (joined.rejected, joined.is_faulty) == ({}, False)
    assert rejected(clips, "ratings") == {}


@pytest.mark.parametrize("votes", ["3.5", "-1", "", "many", "1e2", "4294967296", "inf", "1_0"])
def test_votes_that_are_no_whole_number_are_rejected(clips: Path, votes: str) -> None:
    """So are the other votes on the same stimulus, which would be an incomplete distribution."""
    rows = [*GOOD, ("s1_a", "voice", "anger", votes)]
    report = run(clips, ratings=long_table(clips.parent, rows))
    assert metadata(clips)["s1_a"]["ratings"] == {"audiovisual": {"happy": 4}}

    reasons = rejected(clips, "ratings")
    assert reasons[4].startswith(f"bad_votes: votes is '{votes}', expected a whole number")
    assert reasons[0].startswith("incomplete_rating: the voice votes cannot be used because of row")
    assert reasons.keys() == {0, 1, 4}
    assert report.remarks.joined[0].rejected == {"bad_votes": 1, "incomplete_rating": 2}
    assert report.remarks.joined[0].is_faulty


def test_rows_that_cannot_count_say_why(clips: Path) -> None:
    """Unknown utterances and stimuli, missing cells, cells too many, and rows that say it again."""
    rows = [
        *GOOD,
        ("s9_z", "voice", "anger", 1),
        ("s1_a", "smell", "anger", 1),
        ("", "voice", "anger", 1),
        ("s2_b", "voice", "", 1),
        ("s1_a", "voice", " HAPPY ", 3),
        ("s2_b", "face", "Sad", 2),
        ("s2_b", "face"),
    ]
    report = run(clips, ratings=long_table(clips.parent, rows))

    reasons = rejected(clips, "ratings")
    assert {row: reason.partition(":")[0] for row, reason in reasons.items()} == {
        3: "incomplete_rating",
        4: "unknown_key",
        5: "bad_stimulus",
        6: "no_key",
        7: "bad_label",
        8: "duplicate_rating",
        9: "contradictory_rating",
        10: "bad_row",
    }
    assert reasons[8].endswith("row 0 has voice votes for HAPPY too")
    assert reasons[9].endswith("row 3 has face votes for Sad too, 1 and not 2")

    # A row that says the same again does no harm; one that contradicts leaves nothing.
    found = metadata(clips)
    assert found["s1_a"]["ratings"]["voice"] == {"Happy": 3, "calm": 2}
    assert "ratings" not in found["s2_b"]
    assert report.remarks.joined[0].examples["unknown_key"].key == "s9_z"


def test_ratings_of_a_larger_corpus_are_no_fault(clips: Path) -> None:
    """Rows of other utterances are counted and listed, but nothing is wrong with them."""
    report = run(clips, ratings=long_table(clips.parent, [*GOOD, ("s9_z", "voice", "anger", 1)]))
    assert report.remarks.joined[0].rejected == {"unknown_key": 1}
    assert not report.remarks.joined[0].is_faulty


def test_names_are_compared_as_keys(tmp_path: Path) -> None:
    """Dots, and the two spellings of an accent, do not keep votes from their utterance."""
    clips = write_clips(tmp_path, ["Zoe\u0308_a.wav"])
    run(clips, ratings=long_table(tmp_path, [("Zo\u00eb_a.wav", "voice", "fear", 2)]))
    assert metadata(clips)["Zo\u00eb_a_wav"]["ratings"] == {"voice": {"fear": 2}}


def test_typed_tables_join_too(tmp_path: Path) -> None:
    """Tables of Parquet and JSON lines join, numbered keys and columns with gaps included."""
    pq.write_table(
        pa.table({"key": [7, 8], "transcript": ["a", "b"], "take": [1, 2]}), tmp_path / "c.parquet"
    )
    pq.write_table(
        pa.table(
            {"key": [7, 8], "stimulus": ["face"] * 2, "label": ["joy"] * 2, "votes": [2.0, None]}
        ),
        tmp_path / "v.parquet",
    )
    run(tmp_path / "c.parquet", ratings=str(tmp_path / "v.parquet"))
    assert rejected(tmp_path / "c.parquet", "ratings")[1].startswith("bad_votes: votes is ''")

    lines = [
        {"key": "7", "stimulus": "face", "label": "joy", "votes": 2},
        {"key": "8", "stimulus": "voice", "label": "fear", "votes": 5},
    ]
    (tmp_path / "v.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run(tmp_path / "c.parquet", ratings=str(tmp_path / "v.jsonl"))

    shards = list((tmp_path / "out").glob("*.tar"))
    assert len(shards) == 1
    text = shards[0].read_bytes()
    assert b'{"ratings":{"face":{"joy":2}},"take":1}' in text
    assert b'{"ratings":{"voice":{"fear":5}},"take":2}' in text


def test_tables_that_cannot_be_joined_are_refused(clips: Path) -> None:
    """Unknown columns, keys that fit nowhere, and ratings that are there already."""
    other = write_rows(clips.parent / "other.csv", ("key", "votes"), [("s1_a", 1)])
    with pytest.raises(ConfigError, match="got the columns key, votes; expected key or clip, stim"):
        run(clips, ratings=str(other))

    strangers = long_table(clips.parent, [("s1_a.flac", "voice", "anger", 1)])
    with pytest.raises(ConfigError, match=r"none of its keys, such as 's1_a_flac', .* as 's1_a'"):
        run(clips, ratings=strangers)

    twice = write_rows(
        clips.parent / "twice.csv", ("clip", "transcript", "ratings"), [("s1_a", "a", "{}")]
    )
    with pytest.raises(ConfigError, match="--ratings: the table of utterances has a column rat"):
        run(twice, ratings=long_table(clips.parent, GOOD))


def test_an_import_follows_its_tables(clips: Path) -> None:
    """Other votes give other shards, equal ones in another order the same, none takes the list."""
    first = run(clips, ratings=long_table(clips.parent, GOOD)).shards
    assert run(clips, ratings=long_table(clips.parent, GOOD[::-1])).shards == first
    assert run(clips, ratings=long_table(clips.parent, GOOD[1:])).shards != first

    names = {path.name for path in (clips.parent / "out").iterdir()}
    assert "import-rejected-ratings.parquet" in names
    run(clips)
    names = {path.name for path in (clips.parent / "out").iterdir()}
    assert "import-rejected-ratings.parquet" not in names


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from(["s1_a", "s2_b", "s3_c"]),
            st.sampled_from(["voice", "face", "audiovisual"]),
            st.sampled_from(["anger", "calm", "fear", "odd \u00e9"]),
        ),
        st.integers(1, 9),
        min_size=1,
    ),
    st.integers(0, 99),
)
def test_every_vote_arrives_in_any_order(votes: dict[tuple[str, str, str], int], seed: int) -> None:
    """The votes of the table are those of the json, each once."""
    rows = [(*place, number) for place, number in votes.items()]
    random.Random(seed).shuffle(rows)

    with TemporaryDirectory() as folder:
        clips = write_clips(Path(folder), ["s1_a", "s2_b", "s3_c"])
        run(clips, ratings=long_table(Path(folder), rows))
        found = Counter(
            {
                (key, stimulus, label): number
                for key, fields in metadata(clips).items()
                for stimulus, counts in fields.get("ratings", {}).items()
                for label, number in counts.items()
            }
        )
    assert found == votes
