"""The loss is Eq. 3 over the utterances of a step that have each target."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shards.loading.loader import Batch, Padded
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.recipes.multimodal.config import MultimodalConfig
from trainers.recipes.multimodal.model import MultimodalModel

WIDTHS = {"acoustics": 4, "sentiment": 3, "face_embedding": 5}
NAN = np.nan


def model(**options: Any) -> MultimodalModel:
    torch.manual_seed(0)
    sizes = SequenceEncoderConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        dropout_probability=0.0,
    )
    made = MultimodalModel(
        LayerwiseEncoder(SequenceEncoder(sizes)), MultimodalConfig(**options), WIDTHS
    )
    return made.eval()


def batch(rows: Sequence[int], missing: dict[str, Sequence[int]] | None = None) -> Batch:
    """Utterances `rows` of a made-up corpus; those in `missing[name]` lack the target `name`."""
    lengths = [4000 + 800 * (row % 3) for row in rows]
    sound = torch.zeros(len(rows), max(lengths))
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        sound[place, :length] = torch.randn(length, generator=torch.Generator().manual_seed(row))

    targets = {name: torch.from_numpy(_targets(name, rows)) for name in WIDTHS}
    for name, lacking in (missing or {}).items():
        for row in lacking:
            if row in rows:
                targets[name][list(rows).index(row)] = NAN

    return Batch(
        inputs={"sound": Padded(0.1 * sound, torch.tensor(lengths))},
        targets=targets,
        sets=torch.zeros(len(rows), dtype=torch.int64),
        rows=torch.tensor(rows),
        speakers=["s"] * len(rows),
        number=0,
    )


def _targets(name: str, rows: Sequence[int]) -> NDArray[np.float32]:
    drawn = [
        np.random.default_rng([row, WIDTHS[name]]).standard_normal(WIDTHS[name]) for row in rows
    ]
    array = np.stack(drawn).astype(np.float32)
    if name == "sentiment":
        array = np.exp(array) / np.exp(array).sum(axis=1, keepdims=True)
    return array


@pytest.mark.parametrize("mse", ["mean", "sum"])
def test_the_loss_is_that_of_a_computation_by_hand(mse: str) -> None:
    """In numpy, with missing modalities, a missing value, and both readings of Eq. 1."""
    made = model(mse=mse, acoustics_weight=0.7, sentiment_weight=0.5, face_weight=0.2)
    given = batch([0, 1, 2, 3], {"face_embedding": [0, 2], "sentiment": [3]})
    given.targets["acoustics"][1, 2] = NAN

    with torch.no_grad():
        terms = made(given)
        answers = {name: answer.numpy() for name, answer in made.predict(given).items()}
    targets = {name: target.numpy() for name, target in given.targets.items()}

    join = np.nanmean if mse == "mean" else np.nansum
    squares = {
        name: [join(np.square(answers[name][row] - targets[name][row])) for row in rows]
        for name, rows in (("acoustics", range(4)), ("face_embedding", (1, 3)))
    }
    logits = answers["sentiment"][:3]
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    cross_entropy = -(targets["sentiment"][:3] * logs).sum(axis=1).mean()

    acoustics, faces = np.mean(squares["acoustics"]), np.mean(squares["face_embedding"])
    assert float(terms["acoustics"]) == pytest.approx(acoustics, rel=1e-5)
    assert float(terms["face_embedding"]) == pytest.approx(faces, rel=1e-5)
    assert float(terms["sentiment"]) == pytest.approx(cross_entropy, rel=1e-5)
    expected = 0.7 * acoustics + 0.5 * cross_entropy + 0.2 * faces
    assert float(terms["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_step_in_two_batches_has_the_gradient_of_one() -> None:
    """Each term is a mean over the whole step's utterances, however the targets are spread."""
    missing = {"face_embedding": [0, 1, 2], "sentiment": [4]}
    whole, parts = batch(range(6), missing), [batch([0, 1], missing), batch([2, 3, 4, 5], missing)]

    made = model().train()
    made(whole)["loss"].backward()
    expected = {
        name: value.grad.clone()
        for name, value in made.named_parameters()
        if value.grad is not None
    }

    made.zero_grad()
    previews = [made.preview(part) for part in parts]
    for number, part in enumerate(parts):
        made.see_rest_of_step(previews[1 - number], 2)
        (made(part)["loss"] / 2).backward()  # the engine averages over the batches

    for name, value in made.named_parameters():
        if name in expected:
            torch.testing.assert_close(value.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_a_batch_without_a_target_has_the_term_0_and_still_reaches_its_head() -> None:
    """So that all ranks compute the same gradients; the others' gradients are as without it."""
    made = model().train()
    terms = made(batch([0, 1], {"face_embedding": [0, 1]}))
    terms["loss"].backward()

    assert terms["face_embedding"].item() == 0.0
    gradient = made.heads["face_embedding"].weight.grad
    assert gradient is not None
    assert not gradient.any()


def test_neither_batchmates_nor_padding_change_an_utterances_losses() -> None:
    """An utterance's row of `scores` is the one that it has alone."""
    made = model()
    together = made.scores(batch([0, 1, 2]))
    alone = torch.cat([made.scores(batch([row])) for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_energy_is_learned_as_a_bit() -> None:
    """The binary cross-entropy of the logit, which is log 2 for a logit of 0."""
    made = MultimodalModel(
        model().encoder, MultimodalConfig(acoustics="energy"), {"acoustics": 1}
    ).eval()
    torch.nn.init.zeros_(made.heads["acoustics"].weight)
    torch.nn.init.zeros_(made.heads["acoustics"].bias)

    given = batch([0, 1])
    given.targets["acoustics"] = torch.tensor([[0.0], [1.0]])
    assert float(made(given)["acoustics"]) == pytest.approx(np.log(2), rel=1e-6)
