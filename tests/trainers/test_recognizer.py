"""The recogniser: every fusion trains, saves and loads; support sets are what prefixes are made from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import HubertConfig

from trainers.losses import soft_cross_entropy
from trainers.models.recognizer import EmotionRecognizer, RecognizerConfig, _halves

SETS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
SMALL_P = {"code_width": 8, "num_prefixes": 2, "num_codes": 12}
FUSIONS = ["none", "prefix", "addition", "cross_attention"]


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return torch.randn(len(SETS), 4800), torch.tensor([4800, 3000, 4000, 4800, 2000, 4800, 3300, 4100])


def make(fusion: str, **options: Any) -> EmotionRecognizer:
    torch.manual_seed(1)
    encoder = {"model_type": "emostream_sequence", "hidden_size": 32, "num_hidden_layers": 2}
    extractor = SMALL_P | ({"num_prefixes": 1} if fusion == "addition" else {})
    values = {"encoder": encoder, "names": ["neutral", "anger", "happiness"], "fusion": fusion, "extractor": extractor}
    return EmotionRecognizer(RecognizerConfig(**(values | options)))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_is_trained(fusion: str) -> None:
    """A step gives each parameter a gradient, so no rank of a distributed run waits for one that has none."""
    model = make(fusion).train()
    found = model(*batch(), SETS)
    loss = found.scores_NC.square().mean() + sum(found.terms.values())
    loss.backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == set()
    assert set(found.terms) == (set() if fusion == "none" else {"vq", "nce"})


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_saved_recogniser_is_the_same_recogniser(fusion: str, tmp_path: Path) -> None:
    """`from_pretrained` gives the same scores."""
    model = make(fusion, head="interpreter").eval()
    model.save_pretrained(tmp_path)
    loaded = EmotionRecognizer.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(*batch(), SETS).scores_NC, model(*batch(), SETS).scores_NC)
    assert (tmp_path / "model.safetensors").exists()


def test_a_transformers_encoder_is_saved_with_it(tmp_path: Path) -> None:
    """The encoder's own configuration travels inside the recogniser's."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": (16,), "conv_kernel": (10,), "conv_stride": (5,), "num_feat_extract_layers": 1}
    encoder = HubertConfig(feat_extract_norm="layer", num_conv_pos_embeddings=8, **small, **convolutions).to_dict()
    model = make("prefix", encoder=encoder, normalise=True).eval()
    model.save_pretrained(tmp_path)
    loaded = EmotionRecognizer.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(*batch(), SETS).scores_NC, model(*batch(), SETS).scores_NC)


@pytest.mark.parametrize("fusion", FUSIONS[1:])
def test_sets_do_not_see_each_other(fusion: str) -> None:
    """The scores of a set are those it has alone."""
    model, (inputs, lengths) = make(fusion).eval(), batch()
    with torch.inference_mode():
        together = model(inputs, lengths, SETS).scores_NC
        alone = model(inputs[4:7], lengths[4:7], torch.zeros(3, dtype=torch.long)).scores_NC
    torch.testing.assert_close(together[4:7], alone, rtol=1e-3, atol=1e-5)


def test_prefixes_are_made_from_the_source_alone() -> None:
    """An utterance outside the source is served by the set's prefix and does not change it."""
    model, (inputs, lengths) = make("prefix").eval(), batch()
    source = torch.tensor([True, True, False, False, True, True, False, True])
    changed = inputs.clone()
    changed[2] = torch.randn(4800)
    with torch.inference_mode():
        before = model(inputs, lengths, SETS, source)
        after = model(changed, lengths, SETS, source)
        everybody = model(inputs, lengths, SETS)
    torch.testing.assert_close(after.scores_NC[[0, 1, 3]], before.scores_NC[[0, 1, 3]])
    torch.testing.assert_close(before.speakers_BD, after.speakers_BD)
    assert before.codes[0].shape == everybody.codes[0].shape == (3 * 2,)


def test_halves_are_disjoint_and_equal() -> None:
    """Every set of two or more gives two halves of equal size; a set of one gives none."""
    halves = _halves(SETS)
    assert halves is not None
    (first, numbers), (second, other_numbers) = halves
    assert torch.equal(numbers, other_numbers)
    assert numbers.tolist() == [0, 0, 1]
    assert not set(first.tolist()) & set(second.tolist())
    assert SETS[first].tolist() == SETS[second].tolist() == [0, 0, 1]
    assert _halves(torch.tensor([0, 1, 2])) is None


def test_it_learns() -> None:
    """Forty steps on eight utterances bring the loss near zero, personalised and not."""
    targets = torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])]
    for fusion in ("none", "prefix"):
        model = make(fusion, head_dropout=0.0).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(60):
            found = model(*batch(), SETS)
            loss = soft_cross_entropy(found.scores_NC, targets)
            optimiser.zero_grad()
            (loss + 0.1 * sum(found.terms.values())).backward()
            optimiser.step()
        assert loss.item() < 0.3
