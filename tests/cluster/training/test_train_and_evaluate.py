"""From packed shards to a table of methods: train, evaluate, compare, through the command line."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from cluster.cli import main
from tests.worlds.small import write_shard
from tests.worlds.training import make_utterance, small_values, write_training_world
from trainers.engine import checkpoints


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, trained with three seeds each."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    shards = write_training_world(folder / "packed")

    for recipe in ("finetune", "setpeer"):
        for seed in range(3):
            out = folder / f"{recipe}-{seed}"
            options = folder / "options.yaml"
            options.write_text(
                yaml.safe_dump(small_values(shards, out, recipe, seed=seed, num_steps=6))
            )
            assert main(["train", "--config", str(options)]) == 0
            evaluate(folder, f"{recipe}-{seed}")

    return folder


def evaluate(folder: Path, run: str, *options: str, name: str = "evaluation") -> int:
    command = [
        "evaluate",
        "--checkpoint",
        f"{folder}/{run}/best",
        "--shards",
        f"{folder}/packed/*.tar",
    ]
    return main([*command, "--out", f"{folder}/{run}/{name}", *options])


def metrics(folder: Path, run: str, name: str = "evaluation") -> dict[str, object]:
    loaded: dict[str, object] = json.loads((folder / run / name / "metrics.json").read_text())
    return loaded


def test_every_test_utterance_is_predicted(runs: Path) -> None:
    """Each utterance is a row whose scores sum to one, and the metrics name the truth."""
    table = pq.read_table(runs / "setpeer-0" / "evaluation" / "predictions.parquet")
    assert len(table) == 36
    scores = table.select(["score_neutral", "score_anger", "score_happiness"]).to_pandas()
    assert scores.sum(axis=1).to_numpy() == pytest.approx(1.0, abs=1e-5)
    found = metrics(runs, "setpeer-0")
    assert (found["number"], found["num_speakers"], found["truth"]) == (36, 6, "true emotion")


def test_the_accuracy_is_that_of_the_predictions(runs: Path) -> None:
    """The accuracy equals a recount from the table of predictions."""
    table = pq.read_table(runs / "finetune-1" / "evaluation" / "predictions.parquet").to_pandas()
    names = ["neutral", "anger", "happiness"]
    predicted = table[[f"score_{name}" for name in names]].to_numpy().argmax(axis=1)
    right = [
        names[place] == emotion for place, emotion in zip(predicted, table["emotion"], strict=True)
    ]

    assert metrics(runs, "finetune-1")["scores"]["accuracy"] == pytest.approx(
        sum(right) / len(right)
    )  # type: ignore[index]


def test_predictions_and_metrics_tell_what_was_compared(runs: Path) -> None:
    """The table has truth and prediction, and agrees with the figures of each speaker."""
    table = pq.read_table(runs / "finetune-1" / "evaluation" / "predictions.parquet").to_pandas()
    found = metrics(runs, "finetune-1")
    assert (table["truth"] == table["emotion"]).all()
    for speaker, rows in table.groupby("speaker"):
        mine = found["per_speaker"][speaker]  # type: ignore[index]
        assert mine["number"] == len(rows)
        assert mine["accuracy"] == pytest.approx((rows["truth"] == rows["predicted"]).mean())


def test_a_field_that_nobody_has_is_refused_first(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped --color-by is refused before anything is written."""
    assert evaluate(runs, "setpeer-0", "--color-by", "speakr", name="mistyped") == 2
    assert (
        "--color-by speakr: no utterance has this field in its json; the first one has the fields"
        in capsys.readouterr().err
    )
    assert not (runs / "setpeer-0" / "mistyped").exists()


def test_truths_the_model_has_no_class_for_are_counted(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Utterances whose true emotion is no class of the model count in no figure.

    The metrics, the output and the page say how many they are.
    """
    plain = [make_utterance("test", speaker, number) for speaker in range(2) for number in range(6)]
    sad = [
        replace(one, metadata={**one.metadata, "emotion": "sadness"})
        for one in plain
        if one.key.endswith("3")
    ]

    shards = f"{tmp_path}/test.tar"
    write_shard(Path(shards), [one for one in plain if not one.key.endswith("3")] + sad)

    command = [
        "evaluate",
        "--checkpoint",
        f"{runs}/finetune-0/best",
        "--shards",
        shards,
        "--out",
        f"{tmp_path}/out",
    ]

    assert main(command) == 0
    said = (
        "2 more are not counted: their true emotion is unknown or none of neutral, anger, happiness"
    )
    assert said in capsys.readouterr().out

    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (found["number"], found["num_without_truth"]) == (10, 2)
    assert "2 more are not counted" in (tmp_path / "out" / "evaluation.html").read_text()


def test_disjoint_support_leaves_nobody_out_silently(runs: Path) -> None:
    """With disjoint support, sets are small enough to leave other utterances as support."""
    assert (
        evaluate(runs, "setpeer-0", "--support", "disjoint", "--set-size", "0", name="halves") == 0
    )
    found = metrics(runs, "setpeer-0", "halves")
    assert (found["number"], found["num_left_out"]) == (36, 0)


def test_a_page_is_written_with_a_map_by_any_field(runs: Path) -> None:
    """The page lies beside the numbers, with a map for each field that --color-by names."""
    colors = ["--color-by", "speaker", "demographics.sex"]
    assert evaluate(runs, "setpeer-0", *colors, "--set-size", "3", name="page") == 0
    page = (runs / "setpeer-0" / "page" / "evaluation.html").read_text()
    # Three speakers in two sets each.
    assert page.count("<title>demographics.sex: female</title>") == 6
    assert "By <bdi>demographics.sex</bdi>" in page


def test_support_from_elsewhere_is_for_personalized_models(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SetPeER takes disjoint and wrong support; a model that is not personalized refuses both."""
    for support in ("disjoint", "wrong"):
        assert (
            evaluate(runs, "setpeer-0", "--support", support, "--set-size", "3", name=support) == 0
        )
        assert metrics(runs, "setpeer-0", support)["number"] == 36
    assert evaluate(runs, "finetune-0", "--support", "wrong", name="wrong") == 2
    assert "not personalized" in capsys.readouterr().err


def test_calibration_changes_scores_and_says_so(runs: Path) -> None:
    """PLDC moves the mean of each speaker's scores to that of its neighbors' labels."""
    assert evaluate(runs, "finetune-0", "--pldc", "mu", "--neighbors", "6", name="pldc") == 0
    table = pq.read_table(runs / "finetune-0" / "pldc" / "predictions.parquet").to_pandas()
    means = table.groupby("speaker")["score_anger"].mean()
    # Why a third: every training speaker is a neighbor, and their three classes are even.
    assert means.to_numpy() == pytest.approx(1 / 3, abs=1e-5)


def test_a_full_disk_stops_the_run_and_it_resumes(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk gives status 4 and the remedy; the resumed run has an undisturbed run's curve."""
    values = small_values(
        f"{runs}/packed/*.tar", tmp_path / "full", "finetune", num_steps=6, checkpoint_every=2
    )
    options = tmp_path / "options.yaml"
    options.write_text(yaml.safe_dump(values))
    real, num_calls = checkpoints.flush_tree, 0

    def fail_later(path: Path) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 2:  # while the second checkpoint is written
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    monkeypatch.setattr(checkpoints, "flush_tree", fail_later)
    assert main(["train", "--config", str(options)]) == 4
    assert "run the same command with --resume" in capsys.readouterr().err
    assert len(list((tmp_path / "full" / "checkpoints").glob("step-*"))) == 1
    assert main(["train", "--config", str(options), "--resume"]) == 0
    assert curve(tmp_path / "full") == curve(runs / "finetune-0")


@pytest.mark.slow
def test_ray_workers_do_what_one_process_does(runs: Path, tmp_path: Path) -> None:
    """Two Ray Train workers have the curve of one process, up to the rounding of floats."""
    curves = []
    for num_workers in (1, 2):
        out = tmp_path / str(num_workers)
        values = small_values(
            f"{runs}/packed/*.tar", out, "setpeer", num_steps=4, batches_per_step=2
        )
        options = tmp_path / "options.yaml"
        options.write_text(yaml.safe_dump(values))
        assert main(["train", "--config", str(options), "--num-workers", str(num_workers)]) == 0
        curves.append(curve(out))

    assert len(curves[0]) == 4
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


def curve(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_folder_without_a_model_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without a model is refused with an example of what was expected."""
    assert evaluate(runs, "packed") == 2
    assert "expected a folder such as RUN/best" in capsys.readouterr().err
