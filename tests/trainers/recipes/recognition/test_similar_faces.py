"""Weighting by video: who looks like the target speakers weighs more, by hand-computed weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import CorpusIndex, read_index
from shards.samples.sample import Sample
from tests.shards.media.pieces import encode_video, gray
from tests.worlds.small import write_shard
from tests.worlds.training import heard, video_values
from trainers.config import TrainConfig
from trainers.engine.process_group import join_group
from trainers.models.recognizer import EmotionRecognizer
from trainers.recipes.recognition.encoder_functionals import encoder_functionals
from trainers.recipes.recognition.similar_speakers import SIMILAR_SPEAKERS_NAME
from trainers.recipes.recognition.weighting import WeightingTask
from trainers.settings.encoder import EncoderConfig
from trainers.training import make_task, run_training

NUM_SPEAKERS, PER_SPEAKER = 4, 6


def make_portrait(split: str, speaker: int, number: int) -> Sample:
    """Make a film whose shade is the speaker's, and in which a square moves or stays."""
    rng = np.random.default_rng([speaker, number, len(split)])
    pictures = []
    for frame in range(4):
        picture = gray(50 * (1 + speaker), width=32, height=32)
        left = int(rng.integers(4)) + 4 * frame * (number % 2)
        picture[8:16, left : left + 8] = 20
        pictures.append(picture)

    name = f"{split}-{speaker}"
    labels = {"label": ("neutral", "anger")[number % 2], "duration_seconds": 0.4}
    return Sample(
        key=f"{name}-{number}",
        video=encode_video(pictures, frames_per_second=10),
        video_format="mp4",
        metadata={"speaker": name, "split": split, **labels},
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("films")
    for split in ("train", "validation", "test"):
        people = range(NUM_SPEAKERS)
        films = [make_portrait(split, one, n) for one in people for n in range(PER_SPEAKER)]
        write_shard(folder / f"{split}.tar", films)
    return f"{folder}/*.tar"


def weighting(shards: str, out: Path, **options: Any) -> TrainConfig:
    values = video_values(shards, out, "weighting", num_steps=4)
    values["model"] = {"neighbors": 1, "weight": 3.0} | options.pop("model", {})
    return from_mapping(TrainConfig, values | options)


def without_other_test_speakers(index: CorpusIndex, speaker: str) -> CorpusIndex:
    is_test = np.asarray(index.table["split"].to_pylist()) == "test"
    return index.take(np.flatnonzero(~is_test | (index.speaker_of_rows == speaker)))


def weights_of_speakers(config: TrainConfig, index: CorpusIndex) -> dict[str, float]:
    join_group()
    Path(config.out).mkdir(exist_ok=True)
    task = make_task(config, index)
    assert isinstance(task, WeightingTask)
    return dict(zip(task.train.speaker_of_rows, task.row_weights().tolist(), strict=True))


@pytest.mark.parametrize("number", range(NUM_SPEAKERS))
def test_the_speaker_who_looks_alike_weighs_more(shards: str, tmp_path: Path, number: int) -> None:
    """Of four speakers with equally many films one weighs 3, so the mean that divides all is 1.5.

    Test speaker n has the shade of training speaker n.
    """
    index = without_other_test_speakers(read_index(shards), f"test-{number}")
    found = weights_of_speakers(weighting(shards, tmp_path / "run"), index)
    expected = {f"train-{n}": 3 / 1.5 if n == number else 1 / 1.5 for n in range(NUM_SPEAKERS)}
    assert found == pytest.approx(expected)


def test_the_recipe_trains_on_video_and_compares_by_its_result(shards: str, tmp_path: Path) -> None:
    """A run exports a recognizer, by whose mean frames another run compares its speakers."""
    first = weighting(shards, tmp_path / "first")
    assert run_training(first).steps == 4

    best = str(tmp_path / "first" / "best")
    options = {"model": {"functionals": "encoder"}, "encoder": {"checkpoint": best}}
    second = weighting(shards, tmp_path / "second", **options)
    assert run_training(second).steps == 4
    saved = json.loads((tmp_path / "second" / SIMILAR_SPEAKERS_NAME).read_text())
    assert saved["made_from"]["encoder"] == best
    assert set(saved["neighbours"]) == {f"test-{n}" for n in range(NUM_SPEAKERS)}


def test_an_encoder_measures_its_mean_frame(shards: str, tmp_path: Path) -> None:
    """The functionals are the features that the recognizer pools."""
    config = weighting(shards, tmp_path / "run")
    assert run_training(config).steps == 4
    best = tmp_path / "run" / "best"
    model = EmotionRecognizer.from_pretrained(best).eval()

    join_group()
    task = make_task(config, read_index(shards))
    clips, lengths = heard(task.training_reader()[0, task.plan().epoch(0)[0]])
    with torch.inference_mode():
        expected = model(clips, lengths, torch.zeros_like(lengths)).pooled_ND
    measure = encoder_functionals(EncoderConfig(checkpoint=str(best)), "video")
    found = np.stack([measure(clip) for clip in clips])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)

    with pytest.raises(ConfigError, match="got an encoder of video, expected one of audio"):
        encoder_functionals(EncoderConfig(checkpoint=str(best)), "audio")


def test_what_cannot_be_compared_is_refused(shards: str, tmp_path: Path) -> None:
    """ComParE is for sound, and an encoder must be named."""
    with pytest.raises(ConfigError, match="because ComParE is for sound"):
        weighting(shards, tmp_path, model={"functionals": "compare"})
    with pytest.raises(ConfigError, match="got encoder without"):
        weighting(shards, tmp_path, model={"functionals": "encoder"})
