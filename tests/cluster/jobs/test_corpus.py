"""The commands whose work is in `shards` report the result by their exit status."""

import csv
import json
from pathlib import Path

import pytest

from cluster.cli import main


def import_rows(folder: Path, transcripts: list[str]) -> int:
    """Run `emostream import` on a table of transcripts; an empty one gives a row without media."""
    table = folder / "table.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["key", "transcript"])
        writer.writerows([f"utterance-{number}", text] for number, text in enumerate(transcripts))
    return main(["import", str(table), "--root", str(folder), "--out", str(folder / "shards")])


@pytest.mark.parametrize(("transcripts", "status"), [(["yes", "no"], 0), (["yes", ""], 3)])
def test_import_tells_of_rejected_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], transcripts: list[str], status: int
) -> None:
    """The exit status is 3 when a row was rejected.

    The screen and the summary count the reason.
    """
    assert import_rows(tmp_path, transcripts) == status

    rejected = {"no_media": 1} if status else {}
    assert (
        json.loads((tmp_path / "shards" / "import-summary.json").read_text())["rejected"]
        == rejected
    )

    printed = capsys.readouterr().out
    assert f"{2 - len(rejected)} of 2 rows in 1 shards" in printed
    assert ("rejected 1 x no_media" in printed) == bool(rejected)
