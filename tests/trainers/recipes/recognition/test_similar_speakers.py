"""Similar speakers are found and weigh more, and a resumed run keeps those it started with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as distributed

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import CorpusIndex, read_index
from tests.worlds.training import classes, small_values, write_training_world
from trainers.config import TrainConfig
from trainers.engine.process_group import join_group
from trainers.models.recognizer import EmotionRecognizer
from trainers.recipes.recognition.config import WeightingConfig
from trainers.recipes.recognition.similar_speakers import (
    SIMILAR_SPEAKERS_NAME,
    Choice,
    Measured,
    adaptation_set,
    find_neighbors,
)
from trainers.training import make_task, run_training


def voices(places: dict[str, float], per_speaker: int, seed: int) -> Measured:
    """Make speakers whose ten functionals scatter by 1 about a place of their own.

    Some functionals are missing or infinite.
    """
    rng = np.random.default_rng(seed)
    names = [name for name in places for _ in range(per_speaker)]
    functionals = np.asarray([[places[name]] * 10 for name in names]) + rng.standard_normal(
        (len(names), 10)
    )
    functionals[0, 0], functionals[-1, 1] = np.nan, np.inf
    return Measured(functionals.astype(np.float32), np.asarray(names, dtype=object))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def index(shards: str) -> CorpusIndex:
    return read_index(shards)


def weighting(
    shards: str, out: Path, options: dict[str, Any] | None = None, **engine: Any
) -> TrainConfig:
    values = small_values(shards, out, "weighting", **engine)
    return from_mapping(
        TrainConfig, values | {"model": {"neighbors": 1, "weight": 3.0} | (options or {})}
    )


def chosen_for(config: TrainConfig, train: CorpusIndex, target: CorpusIndex) -> set[str]:
    """Choose the adaptation set of a run that has a folder but no model yet."""
    join_group()
    Path(config.out).mkdir(parents=True, exist_ok=True)

    options = config.recipe_config()
    assert isinstance(options, WeightingConfig)
    choice = Choice(
        train=train,
        target=target,
        options=options,
        modality=config.data.modality,
        seed=config.engine.seed,
    )

    return adaptation_set(choice, Path(config.out))


def train_and_test(index: CorpusIndex) -> tuple[CorpusIndex, CorpusIndex]:
    return index.split("train"), index.split("test")


def choose_together(rank: int, shards: str, folder: Path) -> None:
    """Choose in one of two processes that measure half of the utterances each."""
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    chosen = chosen_for(weighting(shards, folder / "together"), *train_and_test(read_index(shards)))
    (folder / f"{rank}.json").write_text(json.dumps(sorted(chosen)))
    distributed.barrier()
    distributed.destroy_process_group()


def saved(config: TrainConfig) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(
        (Path(config.out) / SIMILAR_SPEAKERS_NAME).read_text()
    )["neighbours"]
    return found


@pytest.mark.parametrize("per_speaker", [30, 5])
def test_a_speakers_twin_is_the_nearest(per_speaker: int) -> None:
    """A speaker's twin is the nearest with many and with few utterances.

    Neighbors come in the order of their distance.
    """
    train = voices({"low": -4, "middle": 0, "high": 4}, per_speaker, seed=0)
    target = voices({"low twin": -4, "high twin": 4}, per_speaker, seed=1)
    found = find_neighbors(train, target, WeightingConfig(neighbors=2), seed=0)
    assert [neighbor.speaker for neighbor in found["low twin"]] == ["low", "middle"]
    assert [neighbor.speaker for neighbor in found["high twin"]] == ["high", "middle"]
    assert found["low twin"][0].divergence < found["low twin"][1].divergence


def test_one_utterance_a_speaker_is_enough() -> None:
    """One utterance is enough on both sides, and too many neighbors are all speakers."""
    train = voices({"low": -4, "middle": 0, "high": 4}, 1, seed=0)
    found = find_neighbors(
        train, voices({"twin": 4, "other": -4}, 1, seed=1), WeightingConfig(neighbors=10), seed=0
    )
    assert [neighbor.speaker for neighbor in found["twin"]] == ["high", "middle", "low"]
    assert all(np.isfinite(neighbor.divergence) for neighbor in found["twin"])


def test_a_speaker_heard_again_is_the_nearest(
    shards: str, index: CorpusIndex, tmp_path: Path
) -> None:
    """The same sound is at divergence 0, whichever other utterances it is read with."""
    train = index.split("train")
    again = train.take(
        np.concatenate([train.rows_by_speaker()[name] for name in ("train-4", "train-2")])
    )

    config = weighting(shards, tmp_path / "run")
    assert chosen_for(config, train, again) == {"train-2", "train-4"}
    assert saved(config)["train-2"][0] == {
        "speaker": "train-2",
        "divergence": pytest.approx(0.0, abs=1e-4),
    }


def test_two_processes_choose_what_one_does(
    shards: str, index: CorpusIndex, tmp_path: Path
) -> None:
    """Two processes that hear half each find the speakers and divergences of one process."""
    alone = weighting(shards, tmp_path / "alone")
    chosen = sorted(chosen_for(alone, *train_and_test(index)))

    torch.multiprocessing.spawn(choose_together, args=(shards, tmp_path), nprocs=2)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [
        chosen,
        chosen,
    ]

    for name, neighbors in saved(weighting(shards, tmp_path / "together")).items():
        assert neighbors[0]["divergence"] == pytest.approx(
            saved(alone)[name][0]["divergence"], rel=1e-6
        )


def test_weights_reach_the_loss(shards: str, index: CorpusIndex, tmp_path: Path) -> None:
    """The loss is the mean cross-entropy with three times the weight for chosen speakers.

    The mean weight over the training utterances is 1.
    """
    config = weighting(shards, tmp_path / "run")
    join_group()
    Path(config.out).mkdir()

    task = make_task(config, index)
    model = task.build_model().eval()
    chosen = {neighbors[0]["speaker"] for neighbors in saved(config).values()}

    batch = task.training_reader()[
        0, max(task.plan().epoch(0), key=lambda planned: len(planned.rows))
    ]

    weights = torch.tensor([3.0 if speaker in chosen else 1.0 for speaker in batch.speakers])
    assert set(weights.tolist()) == {1.0, 3.0}

    everyone = index.split("train").table["speaker"].to_pylist()
    mean_weight = sum(3.0 if name in chosen else 1.0 for name in everyone) / len(everyone)
    entropies = -model.scores(batch).log()[torch.arange(len(batch)), classes(batch)]
    assert model(batch)["loss"].item() == pytest.approx(
        ((weights * entropies).mean() / mean_weight).item(), rel=1e-5
    )


@pytest.mark.parametrize("engine", [{}, {"precision": "bfloat16", "zero_stage": 1}])
def test_the_recipe_trains(shards: str, tmp_path: Path, engine: dict[str, Any]) -> None:
    """The recipe trains in any precision and exports a plain recognizer."""
    config = weighting(shards, tmp_path / "run", {"neighbors": 100}, **engine)
    assert run_training(config).steps == 12
    assert {len(neighbors) for neighbors in saved(config).values()} == {6}
    assert EmotionRecognizer.from_pretrained(tmp_path / "run" / "best").extractor is None


def test_faces_and_values_train(shards: str, tmp_path: Path) -> None:
    """Face features are compared as they are, and values are weighted in the concordance."""
    config = weighting(shards, tmp_path / "run")
    data = {"modality": "face", "target": {"kind": "values", "values": ["arousal"]}}
    config = replace(config, data=from_mapping(type(config.data), data))
    assert set(run_training(config).best) == {"ccc", "speaker_ccc"}


def test_a_resumed_run_keeps_its_speakers(shards: str, index: CorpusIndex, tmp_path: Path) -> None:
    """The saved choice is read even if measuring again would find others, and must not be lost."""
    config = weighting(shards, tmp_path / "run")
    run_training(config)

    path = tmp_path / "run" / SIMILAR_SPEAKERS_NAME
    changed = json.loads(path.read_text())
    changed["neighbours"] = {"test-0": [{"speaker": "train-5", "divergence": 1.0}]}
    path.write_text(json.dumps(changed))

    resumed = replace(config, resume=True)
    assert chosen_for(resumed, *train_and_test(index)) == {"train-5"}
    with pytest.raises(ConfigError, match="made from other data or options"):
        chosen_for(replace(resumed, model=resumed.model | {"neighbors": 2}), *train_and_test(index))

    path.unlink()
    with pytest.raises(ConfigError, match="is missing"):
        run_training(resumed)
