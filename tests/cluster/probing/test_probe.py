"""Probes through the command line: figures, rejects, low-resource subsets, and starred rows."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import balanced_accuracy_score

from actors.embedding.config import EmbedderConfig
from actors.features.config import LayerChoice
from actors.features.extractors import make_extractor
from actors.features.shard import extract_shard
from actors.reading.config import MediaConfig
from actors.reading.reader import Needs, ShardOpened, ShardReader
from actors.work.task import ShardProgress, ShardTask
from cluster.cli import main
from shards.loading.index import read_index
from shards.samples.sample import Sample
from shards.storage.files import list_files
from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import write_corpus
from shards.synthetic.dialogues import DialogueConfig
from tests.worlds.small import write_shard
from tests.worlds.training import CLASSES, make_utterance, write_training_world
from trainers.probing.finished import read_finished

Probe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labeled tones of 18 speakers with their spectral features, and an utterance without sound."""
    folder = tmp_path_factory.mktemp("world")
    write_training_world(folder / "shards")
    labels = {"speaker": "mute", "split": "train", "label": "anger", "emotion": "anger"}
    silent = Sample(key="mute-000", transcript="words", metadata=labels)
    write_shard(folder / "shards" / "odd.tar", [make_utterance("train", 7, 0), silent])
    make_features(folder)
    return folder


def make_features(folder: Path) -> None:
    """Make the features of every shard in this process."""
    (folder / "features").mkdir()
    extractor = make_extractor(EmbedderConfig(encoder="spectral"), LayerChoice(text="last"))
    extractor.setup(1)

    for file in list_files(f"{folder}/shards/*.tar"):
        reader = ShardReader(MediaConfig(), Needs(audio=True, vision=False))
        chunks = [chunk for chunk in reader.read(file.url) if not isinstance(chunk, ShardOpened)]
        task = ShardTask(
            url=file.url,
            name=file.name,
            size=file.size,
            version=file.version,
            table_url=f"{folder}/features/{file.name}.safetensors",
            maker="features:1",
        )
        utterances = [utterance for chunk in chunks for utterance in chunk]
        extract_shard(
            task, extractor, "spectral", utterances, shard_error=None, progress=ShardProgress()
        )


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Probe:
    """Run the command with more options, and return what probe.json holds."""

    def probe(*options: str, out: str = "out", status: int = 0) -> dict[str, Any]:
        command = ["probe", "--shards", f"{world}/shards/*.tar", "--features", f"{world}/features"]
        defaults = ["--input", "statistics", "--num-epochs", "15", "--folds", "speaker:3"]
        assert main([*command, *defaults, *options, "--out", f"{tmp_path}/{out}"]) == status
        path = tmp_path / out / "probe.json"
        return json.loads(path.read_text()) if path.exists() else {}

    return probe


def test_figures_are_those_of_the_predictions(
    run: Probe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pitch tells the class of these tones; the figures are scikit-learn's of the table beside."""
    document = run()
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    truth, said = (np.asarray(table[name].to_pylist()) for name in ("truth", "predicted"))
    pooled = document["figures"]["pooled"]
    assert pooled["accuracy"]["value"] == pytest.approx((truth == said).mean(), abs=1e-6)
    assert pooled["accuracy"]["value"] > 0.8
    wanted = balanced_accuracy_score(truth, said)
    assert pooled["unweighted_accuracy"]["value"] == pytest.approx(wanted, abs=1e-6)

    folds = [
        (truth == said)[np.asarray(table["fold"].to_pylist()) == fold].mean() for fold in "012"
    ]
    mean = document["figures"]["folds"]["accuracy"]["value"]
    assert mean == pytest.approx(np.mean(folds), abs=1e-6)
    assert f"WA         {100 * mean:14.2f}" in capsys.readouterr().out
    assert (document["num_utterances"], len(table)) == (110, 109)


def test_an_utterance_without_features_is_listed(
    run: Probe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is in rejected.parquet, counted in probe.json and said."""
    assert run()["rejected"] == {"no_audio": 1}
    (row,) = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert (row["key"], row["reason"]) == ("mute-000", "no_audio: the sample has no sound")
    assert "left out: 1 x no_audio" in capsys.readouterr().out


def test_the_same_options_give_the_same_figures(run: Probe) -> None:
    """Two runs agree in everything but their folder; another seed differs."""
    first, second = run(), run(out="again")
    for document in (first, second):
        document["config"].pop("out")
    assert first == second
    assert run("--seed", "1", out="other")["models"] != first["models"]


def test_selection_on_the_test_fold_is_marked(
    run: Probe, capsys: pytest.CaptureFixture[str]
) -> None:
    """The document and the output say that the figures are too good."""
    document = run("--select-on", "test")
    assert document["selected_on"] == "test"
    assert all(one["num_validation"] == one["num_test"] for one in document["models"])
    assert "* the best epoch was chosen on the tested utterances" in capsys.readouterr().out


def test_subsets_are_drawn_several_times(run: Probe) -> None:
    """Two resamplings of 20 training utterances give six models."""
    document = run("--num-utterances", "20", "--subset-seed", "0,1")
    assert [(one["subset_seed"], one["num_train"]) for one in document["models"]] == [
        (seed, 20) for seed in (0, 0, 0, 1, 1, 1)
    ]


def test_random_folds_say_that_they_share_speakers(
    run: Probe, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only folds of whole speakers give figures about strangers."""
    assert not run()["shares_speakers"]
    capsys.readouterr()
    assert run("--folds", "random:4", out="random")["shares_speakers"]
    assert "no figures about strangers" in capsys.readouterr().out


@pytest.mark.parametrize("input_name", ["frames", "utterance", "both"])
def test_every_input_is_learned_from(run: Probe, input_name: str) -> None:
    """Frames, their mean, and both beside each other."""
    document = run("--input", input_name, "--num-epochs", "5")
    width = 78 if input_name == "both" else 39
    assert document["num_parameters"] == width * 256 + 256 + 256 * 3 + 3
    assert document["figures"]["pooled"]["accuracy"]["value"] > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "last4"), "--layers last4: the features hold the layers 0; run"),
        (("--layers", "weighted"), "--layers weighted: the features hold layer 0 only"),
        (("--encoder", "spectral"), "give exactly one of --encoder"),
        (("--subset-seed", "0,1"), "several seeds choose nothing without --num-utterances"),
        (("--num-steps", "5"), "--num-steps: the head emotion2vec is trained by the other measure"),
        (("--folds", "session"), "have no `session` in their json"),
        (("--classes", "anger,neutral"), "have a label that is none of the classes"),
    ],
)
def test_wrong_options_are_refused(
    run: Probe, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each by name, with the remedy."""
    run(*options, status=2)
    assert message in capsys.readouterr().err


def test_probes_are_shown_beside_each_other(run: Probe, tmp_path: Path) -> None:
    """The page has both, their difference is 0 where they are the same, and a map of one fold."""
    first = run(out="first", status=0)
    run("--beside", f"{tmp_path}/first", "--name", "again", out="second")
    page = (tmp_path / "second" / "probe.html").read_text()
    assert first["name"] in page
    assert "0.0 to 0.0" in page

    places = pq.read_table(tmp_path / "second" / "map.parquet")
    assert len(places) == first["models"][0]["num_test"]
    finished = read_finished(f"{tmp_path}/second")
    table = pq.read_table(tmp_path / "second" / "predictions.parquet")
    said = np.asarray(finished.answers.names)[finished.answers.predicted]
    assert said.tolist() == table["predicted"].to_pylist()


def test_an_unfinished_probe_is_not_shown(
    run: Probe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without probe.json is refused before any training."""
    run("--beside", str(tmp_path), status=2)
    assert "holds no probe.json" in capsys.readouterr().err


def test_ratings_are_learned_as_shares(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Votes of 5 to 4 are two labels of three classes; figures of several labels are given."""
    folder = tmp_path / "world"
    folder.mkdir()
    samples = []
    for speaker in range(6):
        for number in range(6):
            one = make_utterance("train", speaker, number)
            own, next_ = CLASSES[number % 3], CLASSES[(number + 1) % 3]
            ratings = {"audiovisual": {own: 5, next_: 4}, "voice": {own: 1}}
            samples.append(replace(one, metadata=one.metadata | {"ratings": ratings}))
    (folder / "shards").mkdir()
    write_shard(folder / "shards" / "a.tar", samples)
    make_features(folder)

    command = ["probe", "--shards", f"{folder}/shards/*.tar", "--features", f"{folder}/features"]
    options = ["--input", "statistics", "--num-epochs", "5", "--folds", "speaker:3"]
    options += ["--truth", "ratings", "--out", f"{tmp_path}/rated"]
    assert main([*command, *options]) == 0
    document = json.loads((tmp_path / "rated" / "probe.json").read_text())
    assert document["truth"] == "audiovisual ratings"

    # Each class is true of two thirds of the utterances.
    rated = document["one_vs_rest"]
    assert [rated["emotions"][name]["number"] for name in CLASSES] == [24, 24, 24]
    assert 0 < rated["overall"]["brier_score"]["value"] < 0.4
    assert "several labels, by the rule: probability above 1/3" in capsys.readouterr().out
    assert "Emotions, each against the rest" in (tmp_path / "rated" / "probe.html").read_text()


def test_a_conversation_is_predicted_from_its_past(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three dialogues, all turns but the first are predicted, and the past is counted."""
    config = WorldConfig(
        dialogue=DialogueConfig(persistence=0.5), mean_utterances=8.0, min_utterances=4
    )
    write_corpus(config, f"{tmp_path}/shards", speakers=range(6), speakers_per_shard=3)
    make_features(tmp_path)

    command = ["probe", "--shards", f"{tmp_path}/shards", "--features", f"{tmp_path}/features"]
    options = ["--input", "statistics", "--head", "gru", "--history", "2", "--num-epochs", "2"]
    folds = ["--folds", "given:dialogue", "--out", f"{tmp_path}/out"]
    assert main([*command, *options, *folds]) == 0

    document = json.loads((tmp_path / "out" / "probe.json").read_text())
    rows = read_index(f"{tmp_path}/shards")
    turns = {
        (name, turn) for name, turn in zip(rows.texts("dialogue"), rows.texts("turn"), strict=True)
    }
    assert document["rejected"] == {"no_history": 3, "later_in_turn": len(rows) - len(turns)}
    # Two turns before: the second turn of each dialogue has one.
    assert document["conversation"] == {"history": 2, "num_short": 3, "num_apart": 0}
    assert len(pq.read_table(tmp_path / "out" / "predictions.parquet")) == len(turns) - 3
    assert "predicted from 2 turns before; 3 utterances have fewer" in capsys.readouterr().out
    page = (tmp_path / "out" / "probe.html").read_text()
    assert "predicted from 2 turns before" in page
