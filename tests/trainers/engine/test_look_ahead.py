"""An utterance weighs the same in a step, whichever of its batches holds it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shards.config_values import from_mapping
from shards.loading.batch_plan import PlannedBatch
from shards.loading.index import read_index
from shards.loading.loader import Batch
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.engine.look_ahead import LookAhead
from trainers.engine.process_group import join_group
from trainers.task import TrainingModel
from trainers.training import make_task

SIZES = (1, 2, 5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def made(shards: str, folder: Path, recipe: str, **options: Any) -> tuple[TrainingModel, Any]:
    """A model without dropout, and what makes a batch of rows."""
    join_group()
    values = small_values(shards, folder / "run", recipe)
    values["encoder"]["dropout"] = 0.0
    values["data"] |= options.pop("data", {})
    values["model"] = {"head_dropout": 0.0} | options
    (folder / "run").mkdir(parents=True)

    task = make_task(from_mapping(TrainConfig, values), read_index(shards))
    reader = task.training_reader()
    return task.build_model().train(), lambda number, rows: reader[
        number, PlannedBatch(np.asarray(rows), np.arange(len(rows)))
    ]


def gradient(model: TrainingModel, batches: list[Batch]) -> tuple[Tensor, float]:
    """What a step over `batches` gives: gradient and loss, both divided by their number."""
    model.zero_grad()
    total = 0.0
    for batch, share, rest in LookAhead(model, seed=0).over(batches):
        model.see_rest_of_step(rest, len(batches))
        loss = share * model(batch)["loss"] / len(batches)
        loss.backward()
        total += loss.item()

    found = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return torch.cat(found), total


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("finetune", {"class_weights": "balanced"}),
        ("weighting", {"neighbors": 1, "weight": 2.0}),
        ("finetune", {"data": {"target": {"kind": "values", "values": ["arousal"]}}}),
    ],
)
def test_three_uneven_batches_are_one_large_one(
    shards: str, tmp_path: Path, recipe: str, options: dict[str, Any]
) -> None:
    """Loss and gradient of a step do not depend on how its utterances lie in batches."""
    model, batch_of = made(shards, tmp_path, recipe, **options)
    rows = np.random.default_rng(0).permutation(36)[: sum(SIZES)]
    parts = np.split(rows, np.cumsum(SIZES)[:-1])

    divided, loss = gradient(model, [batch_of(place, part) for place, part in enumerate(parts)])
    whole, whole_loss = gradient(model, [batch_of(0, rows)])

    assert loss == pytest.approx(whole_loss, rel=1e-5)
    torch.testing.assert_close(divided, whole, rtol=1e-3, atol=1e-6)


def test_a_weight_of_two_comes_to_two(shards: str, tmp_path: Path) -> None:
    """An utterance alone in its batch counts by its speaker's weight."""
    model, batch_of = made(shards, tmp_path, "weighting", neighbors=1, weight=2.0)
    plain, _ = made(shards, tmp_path / "plain", "finetune")
    plain.load_state_dict(model.state_dict(), strict=False)

    ratios = {
        round((model(batch)["loss"] / plain(batch)["loss"]).item(), 4)
        for batch in (batch_of(0, [row]) for row in range(36))
    }
    assert max(ratios) / min(ratios) == pytest.approx(2.0, rel=1e-3)


def test_looking_ahead_leaves_no_trace(shards: str, tmp_path: Path) -> None:
    """Batch norm's statistics are those of before, though predictions were computed."""
    data = {"target": {"kind": "values", "values": ["arousal"]}}
    model, batch_of = made(shards, tmp_path, "finetune", head="interpreter", data=data)
    before = [buffer.clone() for buffer in model.buffers()]

    list(LookAhead(model, seed=0).over([batch_of(0, [0, 1, 2]), batch_of(1, [3, 4])]))
    for kept, buffer in zip(before, model.buffers(), strict=True):
        assert torch.equal(kept, buffer)


def test_masked_prediction_counts_hidden_frames(shards: str, tmp_path: Path) -> None:
    """A batch of tapt counts by the frames that its next forward pass hides."""
    values = small_values(shards, tmp_path / "run", "tapt")
    values["model"] = {"num_labels": 4, "min_samples": 1600, "projection_size": 8}
    task = make_task(from_mapping(TrainConfig, values), read_index(shards))
    join_group()
    task.prepare(tmp_path / "run", lambda said: None)
    model, batch = task.build_model(), task.training_reader()[0, task.plan().epoch(0)[0]]

    torch.manual_seed(7)
    counted = model.batch_weight(batch)

    hidden: list[int] = []
    predictor: Any = model.predictor
    predictor.register_forward_pre_hook(lambda _, inputs: hidden.append(int(inputs[2].sum())))
    torch.manual_seed(7)
    model(batch)
    assert [counted] == hidden
