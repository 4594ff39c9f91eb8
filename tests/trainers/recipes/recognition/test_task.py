"""SetPeER's loss is Eq. 8 with the weights of the options, and its L_NCE is Eq. 7 of P's halves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards.config_values import from_mapping
from shards.loading.index import read_index
from shards.loading.loader import Batch
from tests.worlds.training import classes, heard, small_values, write_training_world
from trainers.config import TrainConfig
from trainers.recipes.recognition.model import RecognitionModel
from trainers.recipes.recognition.task import RecognitionTask
from trainers.training import make_task

WEIGHTS = {"classification_weight": 0.7, "contrastive_weight": 0.3, "vq_weight": 0.05}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def made(shards: str, out: Path, **model: Any) -> tuple[RecognitionModel, Batch]:
    """Make the model of a run and its first batch, two sets of four.

    The model has no dropout, so that two passes are the same.
    """
    values = small_values(shards, out)
    values["model"] |= WEIGHTS | {"head_dropout": 0.0} | model
    values["encoder"]["dropout"] = 0.0

    task = make_task(from_mapping(TrainConfig, values), read_index(shards))
    built = task.build_model().train()
    assert isinstance(built, RecognitionModel)

    for module in built.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0

    return built, task.training_reader()[0, task.plan().epoch(0)[0]]


def test_the_loss_is_equation_8(shards: str, tmp_path: Path) -> None:
    """The loss is lambda_1 L_CLS + lambda_2 L_NCE + lambda_3 L_VQ, and L_CLS is torch's."""
    model, batch = made(shards, tmp_path)
    torch.manual_seed(3)
    terms = model(batch)

    torch.testing.assert_close(
        terms["loss"], 0.7 * terms["supervised"] + 0.3 * terms["nce"] + 0.05 * terms["vq"]
    )
    # Every term must count, or a lost weight would not show.
    assert min(terms[name] for name in ("supervised", "nce", "vq")) > 0

    scores = model.recognizer(*heard(batch), batch.sets).scores_NC
    torch.testing.assert_close(terms["supervised"], F.cross_entropy(scores, classes(batch)))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_contrast_is_equation_7_between_halves(
    shards: str, tmp_path: Path, similarity: str
) -> None:
    """L_NCE compares a speaker's halves with those of the other speaker, layer by layer."""
    model, batch = made(shards, tmp_path, temperature=0.25, similarity=similarity)
    extractor = model.recognizer.extractor
    assert extractor is not None

    halves: list[Tensor] = []
    extractor.register_forward_hook(
        lambda _, seen, made: halves.append(made.embeddings_BQD.flatten(1))
    )
    terms = model(batch)

    contrasts = []
    # A layer's prefix comes first, then its halves.
    for embeddings in halves[1::2]:
        first, second = embeddings[:2], embeddings[2:]
        if similarity == "cosine":
            first, second = (part / part.norm(dim=1, keepdim=True) for part in (first, second))
        alike = torch.exp(first @ second.T / 0.25)
        contrasts.append(-torch.log(alike.diagonal() / alike.sum(dim=1)).mean())

    assert len(contrasts) == 2
    torch.testing.assert_close(terms["nce"], torch.stack(contrasts).mean())


def test_without_its_weight_there_is_no_contrast(shards: str, tmp_path: Path) -> None:
    """P is not asked about halves when their consistency does not count."""
    model, batch = made(shards, tmp_path, contrastive_weight=0.0)
    terms = model(batch)
    assert "nce" not in terms
    torch.testing.assert_close(terms["loss"], 0.7 * terms["supervised"] + 0.05 * terms["vq"])


def test_balanced_class_weights_reach_the_loss(shards: str, tmp_path: Path) -> None:
    """The loss is the mean of torch's weighted losses; a class half as frequent weighs double."""
    values = small_values(shards, tmp_path, "finetune") | {
        "model": {"class_weights": "balanced", "head_dropout": 0.0}
    }
    values["encoder"]["dropout"] = 0.0

    config, corpus = from_mapping(TrainConfig, values), read_index(shards)
    kept = [
        row
        for row, name in enumerate(corpus.table["label"].to_pylist())
        if name != "anger" or row % 2
    ]

    task = make_task(config, corpus.take(np.asarray(kept)))
    assert isinstance(task, RecognitionTask)
    model, batch = task.build_model(), task.training_reader()[0, task.plan().epoch(0)[0]]

    labels = task.train.table["label"].to_pylist()
    weights = torch.tensor([1 / labels.count(name) for name in task.target.names])
    assert weights[1] == 2 * weights[0]
    weights *= len(labels) / len(weights)

    scores = model.eval().recognizer(*heard(batch), batch.sets).scores_NC
    torch.testing.assert_close(
        model(batch)["supervised"],
        F.cross_entropy(scores, classes(batch), weight=weights, reduction="none").mean(),
    )


@pytest.mark.parametrize("recipe", ["finetune", "weighting"])
def test_classes_have_equal_shares_on_request(shards: str, tmp_path: Path, recipe: str) -> None:
    """The plan follows the classes that are learned, and a shuffled run cannot go on so."""
    values = small_values(shards, tmp_path, recipe)
    config, corpus = from_mapping(TrainConfig, values), read_index(shards)
    values["data"]["sampling"] = "class_balanced"
    values["data"]["target"] = {"merge": {"happiness": "neutral"}}
    balanced = from_mapping(TrainConfig, values)

    task = make_task(balanced, corpus)
    assert isinstance(task, RecognitionTask)
    rows = np.concatenate([batch.rows for batch in task.plan().epoch(0)])
    drawn = [task.train.table["label"].to_pylist()[row] for row in rows]
    assert (len(drawn), drawn.count("anger")) == (36, 18)  # of 12 in the corpus
    assert task.identity != make_task(config, corpus).identity


def test_the_best_model_is_that_of_the_best_macro_f1(shards: str, tmp_path: Path) -> None:
    """The best model has the best macro-F1, not the best accuracy; for values, the best CCC."""
    values = small_values(shards, tmp_path, "finetune")
    config = from_mapping(TrainConfig, values)
    assert (
        make_task(config, read_index(shards)).objective({"accuracy": 0.9, "macro_f1": 0.2}) == 0.2
    )
    values["data"]["target"] = {"kind": "values", "values": ["arousal"]}
    config = from_mapping(TrainConfig, values)
    assert make_task(config, read_index(shards)).objective({"ccc": 0.3, "speaker_ccc": 0.7}) == 0.3
