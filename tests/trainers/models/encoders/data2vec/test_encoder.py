"""The project's own data2vec encoders: their sizes, ALiBi, tokens, hidden frames and files."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForAudioClassification

from tests.worlds.encoders import SIZES, own_data2vec
from trainers.models.encoders.data2vec.body import Body
from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.encoders.data2vec.decoders import ConvolutionalDecoder, make_decoder
from trainers.models.encoders.data2vec.encoder import (
    Data2VecEncoder,
    Data2VecForAudioClassification,
)
from trainers.models.encoders.data2vec.layers import Alibi, alibi_slopes
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.models.encoders.registry import register_models
from trainers.models.encoders.seams import LayerInput
from trainers.models.personal.adapted_encoder import save_encoder


def count(*modules: nn.Module) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters())


@pytest.mark.parametrize(
    ("sizes", "encoder_alone", "with_decoder"),
    [
        ({"num_extra_tokens": 0}, 93_163_532, 93_783_308),
        ({"num_extra_tokens": 10}, 93_171_212, 93_790_988),
        ({"body": "data2vec", "num_extra_tokens": 0}, 93_164_288, 93_754_880),
    ],
)
def test_it_is_as_large_as_the_published_ones(
    sizes: dict[str, Any], encoder_alone: int, with_decoder: int
) -> None:
    """The numbers of weights are those of Table 2: 93.78, 93.79 and 93.75 million."""
    config = Data2VecConfig(**sizes)
    with torch.device("meta"):
        encoder, decoder = Data2VecEncoder(config), make_decoder(config)
    assert count(encoder) == encoder_alone
    assert count(encoder, decoder) == with_decoder


def test_slopes_of_twelve_heads_are_the_published_ones() -> None:
    """Eight heads have halves of halves; the four others lie between those of sixteen heads."""
    assert alibi_slopes(8) == [2.0**-power for power in range(1, 9)]
    assert alibi_slopes(12)[8:] == pytest.approx([0.7071, 0.3536, 0.1768, 0.0884], abs=1e-4)
    assert alibi_slopes(4) == [0.25, 0.0625, 0.015625, 0.00390625]


def test_frames_keep_their_places_when_others_are_removed() -> None:
    """The bias of kept frames is cut out of that of all frames; a negative scale counts as 0."""
    alibi, places = Alibi(4), torch.tensor([[0, 3, 4, 9]])
    alibi.scale.data = torch.tensor([1.0, 0.5, -0.3, 2.0])
    everything, kept = alibi(torch.arange(10).unsqueeze(0)).detach(), alibi(places).detach()
    assert torch.equal(kept[0], everything[0][:, places[0]][:, :, places[0]])
    assert kept[0, 0, 1, 3] == pytest.approx(-0.25 * 6)
    assert not kept[0, 2].any()


def body_and_frames(**sizes: Any) -> tuple[Body, Tensor, Tensor]:
    body = own_data2vec(**sizes).eval().body
    torch.manual_seed(2)
    return body, torch.randn(2, 12, 32), torch.ones(2, 12, dtype=torch.bool)


def test_tokens_stand_in_front_of_a_prefix() -> None:
    """A pass with tokens and prefixes equals layers called by hand on [tokens; prefix; frames]."""
    body, frames, mask = body_and_frames()
    prefixes = torch.randn(3, 2, 4, 32)

    def prefixed(layer: int, hidden: Tensor, seen: Tensor) -> LayerInput:
        taken = torch.ones(2, 4, dtype=torch.bool)
        return LayerInput(torch.cat([prefixes[layer], hidden], 1), torch.cat([taken, seen], 1), 4)

    assert body.tokens is not None
    assert body.alibi is not None
    with torch.inference_mode():
        found = body(frames, mask, None, prefixed)

        hidden = body.norm(
            torch.cat([body.tokens.expand(2, -1, -1), frames + body.positions(frames, mask)], dim=1)
        )
        bias = torch.zeros(2, 4, 19, 19)
        bias[..., 7:, 7:] = body.alibi(torch.arange(12).expand(2, -1))
        for layer, prefix in zip(body.layers, prefixes, strict=True):
            joined = layer(torch.cat([hidden[:, :3], prefix, hidden[:, 3:]], dim=1), bias)
            hidden = torch.cat([joined[:, :3], joined[:, 7:]], dim=1)

    torch.testing.assert_close(found.tokens_NXD, hidden[:, :3])
    torch.testing.assert_close(found.frames_NTD, hidden[:, 3:])


def test_hidden_frames_are_zero_for_the_positions_and_then_leave() -> None:
    """What a hidden frame held changes nothing; those kept are those that are not hidden."""
    body, frames, mask = body_and_frames()
    hide = torch.zeros(2, 12, dtype=torch.bool)
    hide[0, 2:8], hide[1, ::2] = True, True

    with torch.inference_mode():
        found = body(frames, mask, hide, remove_hidden=True)
        other = body(torch.where(hide.unsqueeze(-1), 9.0, frames), mask, hide, remove_hidden=True)
        zeroed = frames.masked_fill(hide.unsqueeze(-1), 0.0)
        with_positions = (zeroed + body.positions(zeroed, mask))[1][~hide[1]]
        assert body.tokens is not None
        first = body.norm(torch.cat([body.tokens, with_positions]))

    seen: list[Tensor] = []
    body.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        body(frames, mask, hide, remove_hidden=True)
    assert found.frames_NTD.shape == (2, 6, 32)
    torch.testing.assert_close(found.frames_NTD, other.frames_NTD)
    torch.testing.assert_close(seen[0][1], first)


def test_hidden_frames_of_data2vec_stay_as_the_mask_embedding() -> None:
    """Frames where the mask embedding stands give the same as if they were hidden."""
    body, frames, mask = body_and_frames(body="data2vec")
    hide = torch.zeros(2, 12, dtype=torch.bool)
    hide[:, 3:7] = True
    assert body.mask_embedding is not None
    with torch.inference_mode():
        instead = torch.where(hide.unsqueeze(-1), body.mask_embedding, frames)
        torch.testing.assert_close(
            body(frames, mask, hide).frames_NTD, body(instead, mask).frames_NTD
        )


def test_feed_forward_outputs_are_those_before_the_sum() -> None:
    """The last layer's output is the norm of its feed-forward output and what went into it."""
    body, frames, mask = body_and_frames(num_extra_tokens=0)
    inputs: list[Tensor] = []
    body.layers[-1].feed_forward.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda _, given: inputs.append(given[0])
    )
    with torch.inference_mode():
        found = body(frames, mask, want_feed_forwards=True)
        expected = body.layers[-1].output_norm(inputs[0] + found.feed_forwards[-1])  # type: ignore[operator]
    assert len(found.feed_forwards) == 3
    torch.testing.assert_close(found.frames_NTD, expected)


def test_a_layer_that_is_passed_over_changes_nothing() -> None:
    """With a probability of 1 the layers do nothing in training, and everything in evaluation."""
    body, frames, mask = body_and_frames(dropout_probability=0.0, num_extra_tokens=0)
    body.layer_drop = 1.0
    with torch.inference_mode():
        before = body.norm(frames + body.positions(frames, mask))
        torch.testing.assert_close(body.train()(frames, mask).frames_NTD, before)
        assert not torch.allclose(body.eval()(frames, mask).frames_NTD, before, atol=0.1)


def test_the_decoder_fills_in_hidden_frames() -> None:
    """Convolutions by hand over the kept frames at their places, without noise, give the same."""
    torch.manual_seed(0)
    decoder = ConvolutionalDecoder(Data2VecConfig(**SIZES | {"mask_noise": 0.0})).eval()
    hide = torch.rand(2, 10).argsort(dim=1) < 5
    frames = torch.randn(2, 5, 32)
    with torch.inference_mode():
        found = decoder(frames, hide)
        whole = torch.zeros(2, 10, 32)
        for row in range(2):
            whole[row, ~hide[row]] = frames[row]
        first, second = decoder.convolutions
        one = F.gelu(F.layer_norm(first(whole.mT).mT, (16,)))
        two = F.gelu(F.layer_norm(second(one.mT).mT, (16,))) + one
        torch.testing.assert_close(found, decoder.projection(two))


@pytest.mark.parametrize("sizes", [{}, {"front_end": "log_mel"}, {"body": "data2vec"}])
def test_a_saved_encoder_is_loaded_whole(tmp_path: Path, sizes: dict[str, Any]) -> None:
    """A saved encoder gives the same frames, through the project and through transformers."""
    model = own_data2vec(**sizes)
    if model.config.front_end == "log_mel":
        model.front_end.set_statistics(torch.full((20,), -3.0), torch.full((20,), 2.0))
    encoder = LayerwiseEncoder(model, normalize=model.config.normalize).eval()
    save_encoder(encoder, tmp_path)
    sounds, lengths = torch.randn(1, 2400), torch.tensor([2400])

    loaded = load_encoder(str(tmp_path)).eval()
    assert loaded.normalizes == ("front_end" not in sizes)
    with torch.inference_mode():
        assert torch.equal(loaded(sounds, lengths)[0], encoder(sounds, lengths)[0])
    assert type(AutoModel.from_pretrained(tmp_path)) is Data2VecEncoder


def test_masked_prediction_gives_it_a_mask_embedding(tmp_path: Path) -> None:
    """data2vec 2.0 has none; one that is learned is saved with the encoder."""
    encoder = LayerwiseEncoder(own_data2vec())
    assert encoder.mask_embedding is None
    encoder.learn_mask()
    save_encoder(encoder, tmp_path)
    found = load_encoder(str(tmp_path)).mask_embedding
    assert found is not None
    assert encoder.mask_embedding is not None
    assert torch.equal(found, encoder.mask_embedding)


def test_its_classifier_does_not_hear_padding(tmp_path: Path) -> None:
    """Logits are those of an utterance alone, and those of the mean of projected frames."""
    register_models()
    torch.manual_seed(1)
    config = Data2VecConfig(**SIZES, num_labels=4, classifier_proj_size=8)
    Data2VecForAudioClassification(config).save_pretrained(tmp_path)
    model = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()

    sounds = torch.randn(2, 3000)
    mask = torch.arange(3000) < torch.tensor([[3000], [1700]])
    with torch.inference_mode():
        together = model(sounds, attention_mask=mask.long()).logits
        alone = model(sounds[1:, :1700]).logits
        frames, _ = model.encoder(sounds[:1], torch.tensor([3000]))
        expected = model.classifier(model.projector(frames).mean(dim=1))
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[:1], expected, rtol=1e-4, atol=1e-5)
