"""Runs side by side: names of methods, classes and values, the personalization gap."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from sklearn.metrics import f1_score

from cluster.cli import main
from cluster.comparing.methods import by_method
from cluster.comparing.runs import read_run
from shards.samples.sample import Sample
from tests.worlds.small import write_shard
from tests.worlds.training import CLASSES, make_utterance, small_values

SEEDS = range(3)


def mislabeled(split: str, speaker: int, number: int) -> Sample:
    """Make an utterance whose weak label is anger unless it is neutral, whatever the truth."""
    plain = make_utterance(split, speaker, number)
    label = plain.metadata["emotion"] if plain.metadata["emotion"] == "neutral" else "anger"
    return Sample(
        key=plain.key,
        audio=plain.audio,
        audio_format="flac",
        metadata={**plain.metadata, "label": label, "valence": number % 4},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed shards of twelve training speakers, whose weak labels differ from the truth."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("compare")

    (folder / "packed").mkdir()
    for split, speakers in (("train", 12), ("validation", 3), ("test", 3)):
        samples = [mislabeled(split, speaker, n) for speaker in range(speakers) for n in range(6)]
        write_shard(folder / "packed" / f"{split}-000000.tar", samples)
    return folder


def run(
    folder: Path,
    name: str,
    recipe: str = "finetune",
    evaluated: tuple[str, ...] = (),
    **values: Any,
) -> str:
    """Train and evaluate, and return the folder of the evaluation."""
    out = folder / name
    if not (out / "train.json").exists():
        engine = {"num_steps": 2, "validate_every": 2, "checkpoint_every": 2, "log_every": 2}
        options = small_values(
            f"{folder}/packed/*.tar", out, recipe, **(engine | values.pop("engine", {}))
        )
        for group, given in values.items():
            options[group] = options.get(group, {}) | given
        (folder / "options.yaml").write_text(yaml.safe_dump(options))
        assert main(["train", "--config", str(folder / "options.yaml")]) == 0

    evaluation = out / "-".join(["evaluation", *evaluated]).replace("--", "")
    command = [
        "evaluate",
        "--checkpoint",
        f"{out}/best",
        "--shards",
        f"{folder}/packed/*.tar",
        "--out",
        str(evaluation),
    ]

    assert main([*command, *evaluated]) == 0
    return str(evaluation)


def compare(folder: Path, *arguments: str) -> dict[str, Any]:
    assert main(["compare", "--out", str(folder / "table.json"), *arguments]) == 0
    found: dict[str, Any] = json.loads((folder / "table.json").read_text())
    return found


def test_methods_are_told_apart_by_all_that_differs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each adapted encoder and each other option gives a method its own name; seeds share one."""
    adaptation = {"num_labels": 4, "min_samples": 800, "mask_length": 2}
    out = folder / "tapt"
    values = small_values(
        f"{folder}/packed/*.tar", out, "tapt", num_steps=2, validate_every=2, checkpoint_every=2
    )
    (folder / "options.yaml").write_text(yaml.safe_dump(values | {"model": adaptation}))
    assert main(["train", "--config", str(folder / "options.yaml")]) == 0

    runs = [run(folder, f"plain-{seed}", engine={"seed": seed}) for seed in SEEDS]
    runs.append(run(folder, "adapted", encoder={"checkpoint": f"{out}/best"}))
    runs.append(run(folder, "lr=0.01", engine={"learning_rate": 0.01}))
    runs += [
        run(folder, "plain-0", evaluated=("--pldc", "mu", "--neighbors", k)) for k in ("1", "3")
    ]

    methods = by_method([read_run(folder) for folder in runs])
    assert {name: sorted(seeds) for name, seeds in methods.items()} == {
        "finetune": [0, 1, 2],
        "finetune from tapt": [0],
        "finetune engine.learning_rate=0.01": [0],
        "finetune neighbors=1 pldc=mu": [0],
        "finetune neighbors=3 pldc=mu": [0],
    }

    assert main(["compare", "--runs", runs[0], runs[0], "--out", str(folder / "t.json")]) == 2
    assert "finetune with seed 0 is there twice" in capsys.readouterr().err

    table = compare(folder, "--runs", *runs[:3], f"ours={runs[4]}")["methods"]
    assert set(table) == {"finetune", "ours"}

    own = [
        json.loads((Path(one) / "metrics.json").read_text())["scores"]["accuracy"]
        for one in runs[:3]
    ]
    assert table["finetune"]["ACC"]["mean"] == pytest.approx(sum(own) / 3)
    assert table["finetune"]["ACC"]["p"] is None


def test_runs_of_other_lengths_are_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The baseline is found by its recipe, though its name says how long it was trained.

    Each method has an interval over speakers, and so has its difference to the baseline.
    """
    runs = [run(folder, "plain-0"), run(folder, "weighting", "weighting", engine={"num_steps": 3})]
    found = compare(folder, "--runs", *runs)
    assert found["baseline"] == "finetune engine.num_steps=2"
    assert set(found["methods"]) == {found["baseline"], "weighting engine.num_steps=3"}

    base, other = (found["methods"][name]["ACC"] for name in found["methods"])
    assert base["difference"] == 0.0
    assert base["difference_interval"] == [0.0, 0.0]
    assert other["difference"] == pytest.approx(other["mean"] - base["mean"])
    low, high = other["interval"]
    assert low <= other["mean"] <= high
    assert "difference to finetune engine.num_steps=2, paired by speaker" in capsys.readouterr().out

    longer = run(folder, "longer", engine={"num_steps": 3})
    assert main(["compare", "--runs", runs[0], longer, "--out", str(folder / "t.json")]) == 2
    assert "got 2 of the methods found, expected one" in capsys.readouterr().err


def test_values_are_compared_by_concordance(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of values have O-CCC, A-CCC, their spread and significance.

    They are not compared with runs of classes.
    """
    target = {"target": {"kind": "values", "values": ["arousal", "valence"]}}
    runs = [run(folder, f"values-{seed}", data=target, engine={"seed": seed}) for seed in SEEDS]
    heads = [
        run(
            folder,
            f"head-{seed}",
            data=target,
            model={"head": "interpreter"},
            engine={"seed": seed},
        )
        for seed in SEEDS
    ]

    table = compare(folder, "--runs", *runs, *heads)["methods"]
    assert set(table) == {"finetune", "finetune head=interpreter"}
    figures = table["finetune head=interpreter"]
    assert {"O-CCC arousal", "A-CCC valence", "A-CCC std valence"} <= set(figures)
    assert 0 <= figures["A-CCC arousal"]["p"] <= 1

    scores = [json.loads((Path(one) / "metrics.json").read_text())["scores"] for one in heads]
    assert figures["A-CCC valence"]["mean"] == pytest.approx(
        np.mean([score["over_speakers"][1] for score in scores])
    )
    assert "O-CCC arousal" in capsys.readouterr().out

    mixed = [runs[0], run(folder, "plain-0")]
    assert main(["compare", "--runs", *mixed, "--out", str(folder / "t.json")]) == 2
    assert "expected runs that predict the same classes or values" in capsys.readouterr().err


def test_the_gap_is_what_knowing_the_speakers_gains(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gap is dependent minus independent on the same utterances, over seeds.

    A model is not measured on what it has heard.
    """
    known, left_out = {"known_seconds": 0.5}, ("--known-seconds", "0.5")
    dependent = [
        run(folder, f"dependent-{s}", data=known, engine={"seed": s}, evaluated=left_out)
        for s in SEEDS
    ]
    independent = [
        run(folder, f"plain-{seed}", engine={"seed": seed}, evaluated=left_out) for seed in SEEDS
    ]

    gaps = compare(
        folder, "--runs", *independent, *dependent, "--baseline", "finetune data.known_seconds=0.5"
    )

    metrics = [
        json.loads((Path(one) / "metrics.json").read_text()) for one in (*dependent, *independent)
    ]
    assert len({one["number"] for one in metrics}) == 1
    assert (
        len(pq.read_table(Path(dependent[0]) / "predictions.parquet")) + metrics[0]["num_left_out"]
        == 18
    )

    accuracies = [one["scores"]["accuracy"] for one in metrics]
    (gap,) = (entry for entry in gaps["personalisation_gap"] if entry["figure"] == "ACC")
    assert gap["gap"] == pytest.approx(np.mean(accuracies[:3]) - np.mean(accuracies[3:]))
    assert gap["seeds"] == 3
    assert "personalization gap, all training speakers: ACC" in capsys.readouterr().out

    checkpoint = [
        "--checkpoint",
        f"{folder}/dependent-0/best",
        "--shards",
        f"{folder}/packed/*.tar",
    ]
    assert main(["evaluate", *checkpoint, "--out", str(folder / "refused")]) == 2
    assert "give --known-seconds 0.5" in capsys.readouterr().err

    chained = {"checkpoint": f"{folder}/dependent-0/best"}
    # What its encoder has heard, this model has heard too.
    run(folder, "chained", encoder=chained, evaluated=left_out)
    assert (
        main(
            [
                "evaluate",
                "--checkpoint",
                f"{folder}/chained/best",
                *checkpoint[2:],
                "--out",
                str(folder / "r"),
            ]
        )
        == 2
    )
    assert "give --known-seconds 0.5" in capsys.readouterr().err


def test_other_corpora_truths_and_checkpoints_are_other_methods(
    folder: Path, tmp_path: Path
) -> None:
    """A method is measured on one corpus, against one truth, at one kind of checkpoint.

    The name of the method says which.
    """
    (tmp_path / "packed").mkdir()
    for split in ("train", "validation", "test"):
        samples = [
            mislabeled(split, speaker, number) for speaker in range(4) for number in range(6)
        ]
        write_shard(tmp_path / "packed" / f"{split}-000000.tar", samples)

    here, elsewhere = run(folder, "plain-0"), run(tmp_path, "plain-1", engine={"seed": 1})

    last = [
        "--checkpoint",
        f"{folder}/plain-0/last",
        "--shards",
        f"{folder}/packed/*.tar",
        "--out",
        f"{folder}/last",
    ]
    assert main(["evaluate", *last]) == 0

    names = sorted(by_method([read_run(one) for one in (here, elsewhere, f"{folder}/last")]))
    assert len(names) == 3
    assert sum("model=last" in name for name in names) == 1
    assert all("data.corpus=" in name and "evaluate.corpus" not in name for name in names)


def test_calibration_knows_the_labels_that_were_learned(folder: Path) -> None:
    """PLDC by all training speakers gives the mean of their weak labels, not of the truth."""
    evaluated = ("--pldc", "mu", "--neighbors", "12")
    out = run(folder, "plain-0", evaluated=evaluated)
    table = pq.read_table(Path(out) / "predictions.parquet").to_pandas()
    means = table.groupby("speaker")[["score_neutral", "score_anger"]].mean().to_numpy()
    assert means == pytest.approx(np.asarray([[1 / 3, 2 / 3]] * 3), abs=1e-5)
    assert CLASSES[2] == "happiness"
    assert "score_happiness" not in table  # nobody was taught it


def test_runs_are_laid_out_by_their_options(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command tabulates and draws finished runs by seeds, sizes and classes.

    The F1 of the classes is that of scikit-learn.
    """
    few = {"num_utterances": 12}
    runs = [run(folder, f"plain-{seed}", engine={"seed": seed}) for seed in SEEDS]
    runs += [
        run(folder, f"layers-{seed}", encoder={"num_layers": 1}, engine={"seed": seed})
        for seed in SEEDS
    ]
    small = [run(folder, "few", data=few), run(folder, "few-2", data=few | {"subset_seed": 1})]

    rows = ["--rows", "encoder.num_layers", "--columns", "data.num_utterances"]
    picture = str(folder / "gain.svg")
    found = compare(folder, "--runs", *runs, *small, *rows, "--picture", picture)
    assert found["baseline"] == "1"
    cells = found["figures"]["F1"]
    assert {row: list(mine) for row, mine in cells.items()} == {"1": ["all"], "2": ["12", "all"]}
    assert (cells["2"]["12"]["runs"], cells["2"]["all"]["runs"]) == (2, 3)
    assert 0 <= cells["2"]["all"]["p"] <= 1
    assert Path(picture).read_text().startswith("<svg xmlns")
    assert "F1 by data.num_utterances" in capsys.readouterr().out

    table = pq.read_table(Path(runs[0]) / "predictions.parquet").to_pandas()
    table = table[table["truth"].notna()]
    names = ["neutral", "anger"]
    expected = f1_score(table["truth"], table["predicted"], labels=names, average=None)
    classes = ["--rows", "recipe", "--columns", "class"]
    by_class = compare(folder, "--runs", runs[0], *classes)["figures"]["F1"]["finetune"]
    assert [by_class[name]["mean"] for name in names] == pytest.approx(list(expected))
