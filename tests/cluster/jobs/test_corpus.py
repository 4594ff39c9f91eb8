"""The commands whose work is in `shards` say by their exit status how it went."""

import csv
import json
from pathlib import Path

import pytest

from cluster.cli import main


def import_rows(folder: Path, transcripts: list[str]) -> int:
    """`emostream import` of a table of transcripts, an empty one having nothing to import."""
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
    """The status is 3 when a row could not be read, and the reason is counted on the screen and in
    the summary.
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
