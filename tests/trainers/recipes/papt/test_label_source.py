"""Pseudo-labels of another encoder and of given centers, and the head trained with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import cdist
from transformers import HubertConfig, HubertModel

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.batch_plan import PlannedBatch
from shards.loading.index import read_index
from shards.loading.loader import BatchReader
from tests.trainers.recipes.papt.test_task import values_of
from tests.worlds.training import heard, write_training_world
from trainers.config import TrainConfig
from trainers.models.encoders.loading import load_encoder
from trainers.recipes.papt.config import PretrainConfig
from trainers.recipes.papt.frame_features import Mfcc
from trainers.recipes.papt.given_centers import read_centers
from trainers.recipes.papt.prediction_head import read_prediction_head
from trainers.recipes.papt.pseudo_labels import PseudoLabelJob
from trainers.recipes.papt.task import PretrainingTask
from trainers.training import run_training

NUM_LABELS, WIDTH, SIZE = 5, 16, 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def hubert(folder: Path, seed: int, width: int = WIDTH) -> Path:
    torch.manual_seed(seed)
    config = HubertConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(8, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
    )
    HubertModel(config).save_pretrained(folder)
    return folder


def head_tensors(rows: int = NUM_LABELS + 4) -> dict[str, torch.Tensor]:
    """Make a head as fairseq has it: four special symbols before the labels."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "final_proj.weight": (SIZE, WIDTH),
        "final_proj.bias": (SIZE,),
        "label_embs_concat": (rows, SIZE),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def task_of(shards: str, out: Path, checkpoint: Path, **model: Any) -> PretrainingTask:
    options = {"projection_size": None, "num_labels": NUM_LABELS} | model
    config = from_mapping(TrainConfig, values_of(shards, out, "tapt", checkpoint, **options))
    recipe = config.recipe_config()
    assert isinstance(recipe, PretrainConfig)
    return PretrainingTask(config, recipe, read_index(shards))


def test_labels_are_the_nearest_given_centers_of_another_encoder(
    shards: str, tmp_path: Path
) -> None:
    """A run labels the frames of the other encoder's layer by the centers in a file."""
    other = hubert(tmp_path / "other", seed=1, width=32)
    centers = np.random.default_rng(0).standard_normal((NUM_LABELS, 32)).astype(np.float32)
    np.save(tmp_path / "centers.npy", centers)

    values = values_of(
        shards,
        tmp_path / "run",
        "tapt",
        hubert(tmp_path / "hubert", seed=0),
        label_encoder=str(other),
        label_layer=2,
        label_centers=str(tmp_path / "centers.npy"),
        num_labels=NUM_LABELS,
    )
    values["engine"] |= {"num_steps": 1, "validate_every": 1}
    run_training(from_mapping(TrainConfig, values))

    folder = tmp_path / "run" / "pseudo_labels"
    np.testing.assert_array_equal(np.load(folder / "centres.npy"), centers)

    # The same by hand: transformers' own hidden states, and distances of scipy.
    train = read_index(shards).split("train")
    model = HubertModel.from_pretrained(other).eval()
    labels = _stored(folder)
    for row in (0, 7):
        one = PlannedBatch(np.asarray([row]), np.zeros(1, dtype=np.int64))
        samples, _ = heard(BatchReader(train, ["sound"])[0, one])
        with torch.inference_mode():
            frames = model(samples).last_hidden_state[0].numpy()
        key = train.keys(np.asarray([row]))[0]
        assert labels[key] == cdist(frames, centers).argmin(axis=1).tolist()


def _stored(folder: Path) -> dict[str, list[int]]:
    return {
        row["key"]: row["labels"]
        for path in folder.glob("shard-*.parquet")
        for row in pq.read_table(path).to_pylist()
    }


@pytest.mark.parametrize("rows", [NUM_LABELS, NUM_LABELS + 4])
@pytest.mark.parametrize("source", ["file", "checkpoint"])
def test_huberts_own_head_is_kept(shards: str, tmp_path: Path, source: str, rows: int) -> None:
    """Projection and label embeddings start as stored, without fairseq's special symbols."""
    checkpoint, tensors = hubert(tmp_path / "hubert", seed=0), head_tensors(rows)
    np.save(tmp_path / "centers.npy", np.zeros((NUM_LABELS, WIDTH), dtype=np.float32))

    where = "checkpoint"
    if source == "file":
        where = str(tmp_path / "head.safetensors")
        save_file(tensors, where)
    else:
        weights = checkpoint / "model.safetensors"
        save_file(load_file(weights) | tensors, weights, metadata={"format": "pt"})

    task = task_of(
        shards,
        tmp_path / "run",
        checkpoint,
        label_layer=1,
        label_centers=str(tmp_path / "centers.npy"),
        prediction_head=where,
    )
    predictor = task.build_model().predictor
    assert torch.equal(predictor.project.weight, tensors["final_proj.weight"])
    assert torch.equal(predictor.project.bias, tensors["final_proj.bias"])
    assert torch.equal(predictor.labels.weight, tensors["label_embs_concat"][-NUM_LABELS:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_embs_concat": torch.zeros(9 + 3, SIZE)}, "got 12 label embeddings, but there are"),
        ({"final_proj.weight": torch.zeros(SIZE, 8)}, r"got final_proj.weight \[6, 8\]"),
        ({"final_proj.bias": torch.zeros(3)}, r"final_proj.bias \[3\], expected \[6, 16\]"),
        ({"label_embs_concat": None}, "has no label_embs_concat"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    """The message says which tensor has which shape, and which is expected."""
    tensors = {
        name: tensor
        for name, tensor in (head_tensors() | change).items()
        if isinstance(tensor, torch.Tensor)
    }
    file = str(tmp_path / "head.safetensors")
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=message):
        read_prediction_head(
            file, checkpoint=None, revision=None, num_labels=NUM_LABELS, width=WIDTH
        )


def test_centers_are_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    """A .npy file and a .safetensors file of one tensor give the same float32 centers."""
    centers = np.arange(6, dtype=np.float64).reshape(2, 3)
    np.save(tmp_path / "c.npy", centers)
    save_file({"any": torch.from_numpy(centers)}, tmp_path / "c.safetensors")
    for name in ("c.npy", "c.safetensors"):
        found = read_centers(str(tmp_path / name))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, centers)


def test_centers_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    """A pickle is not opened, and the message says how to convert it; other faults are named."""
    pickled, thing, flat = (tmp_path / name for name in ("q.bin", "o.npy", "f.npy"))
    pickled.write_bytes(b"\x80\x04never read")
    np.save(thing, np.asarray([{}], dtype=object), allow_pickle=True)
    np.save(flat, np.zeros(3))

    for path, message in (
        (pickled, "got a pickle, which runs code when it is read.*joblib.load"),
        (thing, "cannot be read: Object arrays cannot be loaded"),
        (flat, r"got an array of shape \[3\], expected finite numbers"),
        (tmp_path / "no.npy", "no such file"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_centers(str(path))


def test_centers_of_another_width_or_number_are_refused(shards: str, tmp_path: Path) -> None:
    """The message names the option that says otherwise."""
    checkpoint = hubert(tmp_path / "hubert", seed=0)
    np.save(tmp_path / "c.npy", np.zeros((NUM_LABELS, 39), dtype=np.float32))
    values = values_of(
        shards,
        tmp_path / "run",
        "tapt",
        checkpoint,
        label_layer=1,
        label_centers=str(tmp_path / "c.npy"),
        num_labels=NUM_LABELS,
    )
    with pytest.raises(ConfigError, match="got centers of 39 numbers, expected 16"):
        run_training(from_mapping(TrainConfig, values))

    values["model"] |= {"num_labels": 4}
    with pytest.raises(ConfigError, match=r"got 5 centers, expected 4, as model\.num_labels says"):
        run_training(from_mapping(TrainConfig, values | {"out": str(tmp_path / "other")}))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"label_encoder": "base"}, "label_encoder, label_centers: got one of them without"),
        ({"prediction_head": "head.safetensors"}, "got head.safetensors without label_centers"),
        (
            {"prediction_head": "checkpoint", "label_centers": "c.npy", "label_layer": 9},
            "got checkpoint without encoder.checkpoint",
        ),
    ],
)
def test_options_that_need_each_other_are_told(model: dict[str, Any], message: str) -> None:
    """Half of a set of options is refused before anything is read."""
    with pytest.raises(ConfigError, match=message):
        from_mapping(
            TrainConfig, {"recipe": "tapt", "shards": "*.tar", "out": "run", "model": model}
        )


def test_an_error_of_the_label_encoder_names_its_options() -> None:
    """A hub name without a commit is refused by the names of its own options."""
    with pytest.raises(ConfigError, match=r"label_encoder some/hubert: .*model.label_revision too"):
        load_encoder("some/hubert", options=("model.label_encoder", "model.label_revision"))


def test_other_centers_make_other_labels(shards: str, tmp_path: Path) -> None:
    """A job in the folder of another identity does not keep that one's centers."""
    index = read_index(shards).split("train")
    for number in (1.0, 2.0):
        job = PseudoLabelJob(tmp_path, index, Mfcc(), {"centers": number})
        job.use(np.full((2, 39), number, dtype=np.float32))
        assert np.load(tmp_path / "centres.npy")[0, 0] == number
