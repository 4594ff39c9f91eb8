"""`evaluate --start` tells how far training has moved the encoder, through the command line."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.cluster.training.test_folds import evaluate, metrics, train, write_world


def test_the_distance_from_the_start_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Terminal, metrics.json, predictions.parquet and page tell it, over all models together."""
    shards = write_world(tmp_path, lambda number: f"s{number}")
    assert train(tmp_path, shards, "--folds", "all", folds="speaker:3") == 0
    runs = [f"{tmp_path}/run/fold-{fold}/best" for fold in range(3)]
    assert evaluate(tmp_path, shards, *runs, options=("--start", runs[0])) == 0

    # The first model has not moved from itself, and the others are others.
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    distances = table["start_distance"].to_numpy()
    of_first = np.isin(table["key"].to_pylist(), keys_of_fold(tmp_path, shards, runs[0]))
    assert distances[of_first].max() < 1e-12 < distances[~of_first].min()

    assert evaluate(tmp_path, shards, *runs, options=("--start", runs[0])) == 0
    found = metrics(tmp_path)["start"]
    assert found["cosine_distance"] == pytest.approx(distances.mean())
    low, high = found["interval"]
    assert low < found["cosine_distance"] < high
    assert (found["number"], found["encoder"]) == (36, runs[0])

    shown = f"{found['cosine_distance']:.4f}"
    assert f"cosine distance from start   {shown}  (95 %" in capsys.readouterr().out
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "Distance from start" in page
    assert shown in page
    assert f"{low:.4f} to {high:.4f}" in page


def keys_of_fold(folder: Path, shards: str, checkpoint: str) -> list[str]:
    assert evaluate(folder, shards, checkpoint) == 0
    table = pq.read_table(folder / "out" / "predictions.parquet")
    assert "start_distance" not in table.column_names
    assert "start" not in metrics(folder)
    keys: list[str] = table["key"].to_pylist()
    return keys
