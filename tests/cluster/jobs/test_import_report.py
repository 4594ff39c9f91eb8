"""What `emostream import` prints: each kind of rejected row with an example, and remarks."""

from pathlib import Path

import pytest

from cluster.cli import main

TABLE = (
    "clip,audio,transcript,speaker,emotion\n"
    "a,1.wav,yes,s1,happy\n"
    "b,1.wav,NA,s2,calm\n"
    "c,2.wav,no,nan,calm\n"
    "d,,,s1,odd\n"
    "e,../1.wav,no,s1,\n"
)


def run(folder: Path, *options: str) -> int:
    (folder / "1.wav").write_bytes(b"one")
    (folder / "t.csv").write_text(TABLE)
    command = ["import", str(folder / "t.csv"), "--root", str(folder), "--out", str(folder / "out")]
    return main([*command, "--check", "none", *options])


def test_the_report_of_an_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts, one example each, where the list is, and what a person should know of the rest."""
    assert run(tmp_path) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"2 of 5 rows in 2 shards in {tmp_path / 'out'}"
    assert lines[1].startswith("  rejected 1 x missing_file; row 2, 'c': audio '2.wav'")
    assert lines[2].startswith("  rejected 1 x no_media; row 3, 'd': the row has no audio")
    assert lines[3].startswith("  rejected 1 x path_outside_root; row 4, 'e': audio is '../1.wav'")
    assert lines[4:] == [
        f"  every rejected row and its reason: {tmp_path / 'out' / 'import-rejected.parquet'} "
        "(rows count from 0)",
        "  read as empty, because of a word such as NA: cells of transcript 1, speaker 1; "
        "--null-values changes the words",
        "  3 rows have an emotion that is none of the seven: calm 2, odd 1; `emostream train` can "
        "learn them, but `select` cannot check what teachers say against them",
        "  twins: 2 rows in 1 groups have the same sound and video, 1 of the groups under several "
        "speakers, such as 'a' (s1), 'b' (s2); --deduplicate imports only the first of each",
    ]


def test_the_report_of_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same, in the conditional; no list is promised that was not written."""
    assert run(tmp_path, "--dry-run", "--deduplicate") == 3
    printed = capsys.readouterr().out
    assert printed.startswith(
        "dry run: 1 of 5 rows would be imported, in 1 shards; nothing was written\n"
        "  rejected 1 x duplicate_media; row 1, 'b': the same sound and video as 'a' in row 0\n"
    )
    assert "import-rejected.parquet" not in printed
    assert not (tmp_path / "out").exists()


def test_the_report_of_joined_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who has what of each table, and what was rejected; rows that fit nowhere are no fault."""
    (tmp_path / "t.csv").write_text("clip,speaker,transcript\na,s1,yes\nb,s2,no\n")
    (tmp_path / "v.csv").write_text("key,stimulus,label,votes\na,voice,happy,2\nx,voice,sad,1\n")
    (tmp_path / "s.csv").write_text("speaker,sex,home,age\ns1,f,NA,30\n")
    command = ["import", str(tmp_path / "t.csv"), "--root", str(tmp_path)]
    command += ["--out", str(tmp_path / "out"), "--ratings", str(tmp_path / "v.csv")]
    assert main([*command, "--speakers", str(tmp_path / "s.csv")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"2 of 2 rows in 1 shards in {tmp_path / 'out'}",
        "  ratings: 1 of 2 rows joined; utterances that have voice 1",
        "  ratings: 1 utterances have none, such as 'b'",
        "  ratings: rejected 1 x unknown_key; row 1, 'x': no row of the table of utterances has "
        "this key",
        f"  all of them: {tmp_path / 'out' / 'import-rejected-ratings.parquet'}",
        "  demographics: 1 of 1 rows joined; utterances that have sex 1, age 1",
        "  demographics: 1 utterances have none, such as 'b'",
        "  demographics: read as empty, because of a word such as NA: cells of home 1; "
        "--null-values changes the words",
    ]

    (tmp_path / "v.csv").write_text("key,stimulus,label,votes\na,voice,happy,2.5\n")
    assert main([*command, "--dry-run"]) == 3
    printed = capsys.readouterr().out
    assert "  ratings: 0 of 1 rows joined; utterances that have any: 0\n" in printed
    assert "rejected 1 x bad_votes; row 0, 'a': votes is '2.5'" in printed
    assert "all of them" not in printed
