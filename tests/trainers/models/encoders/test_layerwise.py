"""The seam before each layer: nothing changes without it, and a layer sees just what it gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    VideoMAEConfig,
    VideoMAEModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from shards.config import ConfigError
from tests.worlds.encoders import own_data2vec
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.models.encoders.seams import BeforeLayer, LayerInput
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.models.encoders.speech.waveform import normalizes
from trainers.models.parts.pooling import masked_mean

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
CONVOLUTIONS = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "hubert-layer": (
        HubertConfig,
        HubertModel,
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
    ),
    "hubert-group": (HubertConfig, HubertModel, {"feat_extract_norm": "group"}),
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model, {"feat_extract_norm": "layer"}),
    "wavlm": (
        WavLMConfig,
        WavLMModel,
        {"feat_extract_norm": "layer", "num_buckets": 20, "max_bucket_distance": 40},
    ),
    "wavlm-stable": (
        WavLMConfig,
        WavLMModel,
        {
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "num_buckets": 20,
            "max_bucket_distance": 40,
        },
    ),
    "data2vec": (
        Data2VecAudioConfig,
        Data2VecAudioModel,
        {"conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2},
    ),
}
# The project's own data2vec encoders.
OWN: dict[str, dict[str, Any]] = {
    "own-data2vec2": {},
    "own-data2vec": {"body": "data2vec", "num_extra_tokens": 0},
    "own-log-mel": {"front_end": "log_mel"},
}
LENGTHS = (3000, 1800, 2400)


def speech(family: str) -> LayerwiseEncoder:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config_class, model_class, options = FAMILIES[family]
    config = config_class(**SMALL, **(CONVOLUTIONS | options))
    return LayerwiseEncoder(model_class(config), normalize=normalizes(config)).eval()


def mel() -> LayerwiseEncoder:
    torch.manual_seed(0)
    return LayerwiseEncoder(SequenceEncoder(SequenceEncoderConfig(hidden_size=32))).eval()


def encoder_named(name: str) -> LayerwiseEncoder:
    if name in OWN:
        model = own_data2vec(**OWN[name])
        return LayerwiseEncoder(model, normalize=normalizes(model.config)).eval()
    return mel() if name == "mel" else speech(name)


def sounds(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    inputs = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(inputs, lengths, strict=True):
        row[:length] = torch.randn(length)
    return inputs, torch.tensor(lengths)


def unchanged(_: int, hidden: Tensor, mask: Tensor) -> LayerInput:
    return LayerInput(hidden, mask)


PLAIN = [*FAMILIES, "mel"]
ALL = [*PLAIN, *OWN]


@pytest.mark.parametrize("name", ALL)
def test_a_seam_that_changes_nothing_changes_nothing(name: str) -> None:
    """Hooks that change nothing leave every number as it was."""
    encoder, batch = encoder_named(name), sounds()
    with torch.inference_mode():
        (plain, mask), (seamed, seamed_mask) = encoder(*batch), encoder(*batch, unchanged)
    assert torch.equal(mask, seamed_mask)
    torch.testing.assert_close(seamed[mask], plain[mask])


@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_seam_it_is_the_model_itself(name: str) -> None:
    """The frames are those of transformers' own model behind its own feature extractor."""
    encoder, (inputs, lengths) = encoder_named(name), sounds((2400,))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=encoder.normalizes)
    values = extractor(inputs[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_values

    with torch.inference_mode():
        found, mask = encoder(inputs, lengths)
        torch.testing.assert_close(
            found, encoder.model(values).last_hidden_state, rtol=1e-4, atol=1e-5
        )

    assert mask.all()
    assert encoder.normalizes == (name != "hubert-group")


@pytest.mark.parametrize("name", FAMILIES)
def test_all_hidden_states_are_those_of_the_model(name: str) -> None:
    """The states are those of `output_hidden_states`, and the last is the encoder's output."""
    encoder, (inputs, lengths) = encoder_named(name), sounds((2400,))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=encoder.normalizes)
    values = extractor(inputs[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_values

    with torch.inference_mode():
        found, mask = encoder.hidden_states(inputs, lengths)
        output = encoder.model(values, output_hidden_states=True)

    assert len(found) == len(output.hidden_states) == 4
    for state, theirs in zip(
        found, [*output.hidden_states[:-1], output.last_hidden_state], strict=True
    ):
        torch.testing.assert_close(state, theirs, rtol=1e-4, atol=1e-5)
    assert mask.all()


@pytest.mark.parametrize("name", ALL)
def test_hidden_states_go_with_a_seam(name: str) -> None:
    """The last state is the encoder's output, the others are layers' inputs before the seam."""
    encoder, batch = encoder_named(name), sounds()
    seen: list[Tensor] = []

    def doubled(_: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        seen.append(hidden)
        return LayerInput(2 * hidden, mask)

    with torch.inference_mode():
        states, mask = encoder.hidden_states(*batch, doubled)
        last, last_mask = encoder(*batch, doubled)
    assert torch.equal(states[-1], last)
    assert torch.equal(mask, last_mask)
    assert all(torch.equal(state, before) for state, before in zip(states[:-1], seen, strict=False))
    assert len(states) == len(encoder.layers) + 1


def test_a_checkpoint_without_some_weights_is_refused(tmp_path: Path) -> None:
    """A checkpoint that lacks weights is refused by their names.

    Only what stands for hidden frames may be missing.
    """
    encoder_named("wavlm").model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("masked_spec_embed", None)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    load_encoder(str(tmp_path))

    del weights["encoder.layers.1.attention.k_proj.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(
        ConfigError,
        match=r"without encoder\.layers\.1\.attention\.k_proj\.bias, expected all weights",
    ):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("name", ALL)
def test_pooled_features_do_not_depend_on_batchmates(name: str) -> None:
    """An utterance has the same features alone and beside longer ones, with or without a prefix."""
    encoder, (inputs, lengths) = encoder_named(name), sounds()

    def prefixed(_: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        prefix = torch.full((len(hidden), 2, 32), 0.3)
        return LayerInput(
            torch.cat([prefix, hidden], 1), torch.cat([mask[:, :1].expand(-1, 2), mask], 1), 2
        )

    for seam in (None, prefixed):
        with torch.inference_mode():
            together = masked_mean(*encoder(inputs, lengths, seam))
            alone = [
                masked_mean(*encoder(inputs[row : row + 1, :length], lengths[row : row + 1], seam))
                for row, length in enumerate(LENGTHS)
            ]
        torch.testing.assert_close(torch.cat(alone), together, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_a_prefix_is_what_concatenation_by_hand_gives(name: str) -> None:
    """The frames equal those of layers called one after another by hand on [t_l; x] (Eq. 6).

    The prefix positions are dropped in between.
    """
    encoder, (inputs, lengths) = encoder_named(name), sounds((2400, 2400))
    torch.manual_seed(3)
    prefixes = torch.randn(3, 2, 4, 32)
    inputs_seen: list[Tensor] = []

    def prefixed(layer: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        inputs_seen.append(hidden)
        taken = torch.ones(2, 4, dtype=torch.bool)
        return LayerInput(torch.cat([prefixes[layer], hidden], 1), torch.cat([taken, mask], 1), 4)

    with torch.inference_mode():
        found, _ = encoder(inputs, lengths, prefixed)
        hidden, bias = inputs_seen[0], None
        for layer, module in enumerate(encoder.layers):
            joined = torch.cat([prefixes[layer], hidden], dim=1)
            mask = torch.ones(joined.shape[:2], dtype=torch.bool)
            if name.startswith("wavlm"):
                joined, bias = module(joined, attention_mask=mask, position_bias=bias, index=layer)
            else:
                joined = module(joined, mask) if name == "mel" else module(joined)
            hidden = joined[:, 4:]
        final = encoder.model.norm(hidden) if name == "mel" else hidden
        if name in ("hubert-layer", "wavlm-stable"):
            final = encoder.model.encoder.layer_norm(hidden)
    torch.testing.assert_close(found, final, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use_mean_pooling", [False, True])
def test_videomae_takes_prefixes(use_mean_pooling: bool) -> None:
    """A prefix by hand gives the same for VideoMAE, whose layers have another name and no mask."""
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=16, patch_size=8, num_frames=4, use_mean_pooling=use_mean_pooling, **SMALL
    )
    encoder = LayerwiseEncoder(VideoMAEModel(config)).eval()
    pixels, lengths = torch.randn(2, 4, 3, 16, 16), torch.tensor([4, 4])
    prefixes = torch.randn(3, 2, 4, 32)

    def prefixed(layer: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        taken = torch.ones(2, 4, dtype=torch.bool)
        return LayerInput(torch.cat([prefixes[layer], hidden], 1), torch.cat([taken, mask], 1), 4)

    with torch.inference_mode():
        plain, mask = encoder(pixels, lengths)
        torch.testing.assert_close(plain, encoder.model(pixels).last_hidden_state)
        found, _ = encoder(pixels, lengths, prefixed)
        hidden = encoder.model.embeddings(pixels, None)
        for layer, module in enumerate(encoder.layers):
            hidden = module(torch.cat([prefixes[layer], hidden], dim=1))[:, 4:]
        final = hidden if use_mean_pooling else encoder.model.layernorm(hidden)
    assert mask.shape == (2, 8)
    assert mask.all()
    torch.testing.assert_close(found, final, rtol=1e-4, atol=1e-5)


def videomae(use_mean_pooling: bool = True) -> LayerwiseEncoder:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=16, patch_size=8, num_frames=4, use_mean_pooling=use_mean_pooling, **SMALL
    )
    return LayerwiseEncoder(VideoMAEModel(config)).eval()


def long_prefix(_: int, hidden: Tensor, mask: Tensor) -> LayerInput:
    """Put four positions before a layer's input that follow from the sample alone."""
    prefix = 3.0 * hidden.mean(dim=1, keepdim=True).expand(-1, 4, -1)
    return LayerInput(
        torch.cat([prefix, hidden], 1), torch.cat([mask[:, :1].expand(-1, 4), mask], 1), 4
    )


@pytest.mark.parametrize("use_mean_pooling", [False, True])
def test_pooled_videomae_is_the_mean_of_its_own_tokens(use_mean_pooling: bool) -> None:
    """Without a prefix, the pooled features equal those of transformers' own forward pass."""
    encoder, pixels = videomae(use_mean_pooling), torch.randn(3, 4, 3, 16, 16)
    with torch.inference_mode():
        found = masked_mean(*encoder(pixels, torch.full((3,), 4)))
        expected = encoder.model(pixels, bool_masked_pos=None).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seam", [None, long_prefix])
def test_a_film_does_not_depend_on_its_batchmates(seam: BeforeLayer | None) -> None:
    """A clip has the same features alone and among others, with a prefix and without."""
    encoder, pixels, lengths = videomae(), torch.randn(3, 4, 3, 16, 16), torch.full((3,), 4)
    with torch.inference_mode():
        together = masked_mean(*encoder(pixels, lengths, seam))
        alone = [
            masked_mean(*encoder(pixels[n : n + 1], lengths[n : n + 1], seam)) for n in range(3)
        ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


def test_a_prefix_reaches_the_tokens_of_a_film_through_attention_alone() -> None:
    """A prefix changes the tokens, but not when attention's output is cut off in every layer."""
    encoder, pixels, lengths = videomae(), torch.randn(2, 4, 3, 16, 16), torch.full((2,), 4)
    with torch.inference_mode():
        open_before, open_after = (
            encoder(pixels, lengths)[0],
            encoder(pixels, lengths, long_prefix)[0],
        )

        for layer in encoder.layers:
            layer.attention.output.dense.weight.zero_()
            layer.attention.output.dense.bias.zero_()
        cut_before, cut_after = (
            encoder(pixels, lengths)[0],
            encoder(pixels, lengths, long_prefix)[0],
        )

    assert not torch.allclose(open_after, open_before, atol=1e-3)
    torch.testing.assert_close(cut_after, cut_before, rtol=1e-5, atol=1e-6)


def test_videomae_in_bfloat16_gives_the_same_features_roughly() -> None:
    """In bfloat16 the features stay near, although pictures come in float32."""
    encoder, pixels, lengths = videomae(), torch.randn(3, 4, 3, 16, 16), torch.full((3,), 4)
    with torch.inference_mode():
        exact = masked_mean(*encoder(pixels, lengths, long_prefix))
        rough = masked_mean(*encoder.bfloat16()(pixels, lengths, long_prefix)).float()
    assert (exact - rough).norm() / exact.norm() < 0.05


def test_frozen_parts_of_videomae_get_no_gradient() -> None:
    """Only the patch embedding and the lowest layers get no gradient."""
    encoder = videomae().train()
    encoder.freeze(front_end=True, num_layers=1)
    encoder(torch.randn(2, 4, 3, 16, 16), torch.full((2,), 4))[0].sum().backward()

    frozen = {
        name for name, parameter in encoder.model.named_parameters() if parameter.grad is None
    }
    names = {name for name, _ in encoder.model.named_parameters()}
    assert frozen == {
        name for name in names if name.startswith(("embeddings.", "encoder.layer.0."))
    }
    assert frozen < names


def test_face_features_are_blind_to_padding() -> None:
    """Features of three lengths are the same together and alone."""
    torch.manual_seed(0)
    encoder = LayerwiseEncoder(
        SequenceEncoder(SequenceEncoderConfig("face", feature_size=5, hidden_size=32))
    ).eval()
    features, lengths = torch.randn(3, 9, 5), torch.tensor([9, 4, 1])

    with torch.inference_mode():
        together = masked_mean(*encoder(features, lengths))
        alone = [
            masked_mean(*encoder(features[n : n + 1, :m], lengths[n : n + 1]))
            for n, m in enumerate((9, 4, 1))
        ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*FAMILIES, *OWN])
def test_training_draws_from_torch_alone(name: str) -> None:
    """The same seed gives the same frames in training, even of very short utterances."""
    encoder, batch = encoder_named(name).train(), sounds((90, 60))
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        found.append(encoder(*batch)[0])
    assert torch.equal(*found)
    assert {name for name, p in encoder.named_parameters() if not p.requires_grad} <= {
        "model.masked_spec_embed",
        "model.body.mask_embedding",
    }


@pytest.mark.parametrize("name", [*FAMILIES, *OWN])
def test_an_utterance_shorter_than_a_frame_is_one_frame(name: str) -> None:
    """Its features are finite and depend on neither batchmates nor padding beyond the longest."""
    encoder, (inputs, lengths) = encoder_named(name), sounds((2400, 5))
    with torch.inference_mode():
        frames, mask = encoder(torch.nn.functional.pad(inputs, (0, 700)), lengths)
        alone = masked_mean(*encoder(inputs[1:, :5], lengths[1:]))
    assert frames.shape[:2] == mask.shape
    assert mask[1].sum() == 1
    torch.testing.assert_close(masked_mean(frames, mask)[1:], alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["hubert-layer", "hubert-group", "data2vec"])
def test_a_frozen_front_end_costs_no_backward_pass(name: str) -> None:
    """Below the first trained layer, nothing keeps a graph."""
    encoder = encoder_named(name).train()
    encoder.freeze(front_end=True, num_layers=1)
    graphs: list[bool] = []
    encoder.model.feature_extractor.register_forward_hook(
        lambda _, __, out: graphs.append(out.requires_grad)
    )

    encoder(*sounds())[0].sum().backward()
    assert graphs == [False]
    assert {p.grad is None for p in encoder.layers[0].parameters()} == {True}
    assert {p.grad is None for p in encoder.layers[1].parameters()} == {False}


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_weights_give_the_same_features_roughly(name: str) -> None:
    """A module cast as a whole, as DeepSpeed does, is as exact as eight bits of mantissa allow."""
    encoder, batch = encoder_named(name), sounds()
    with torch.inference_mode():
        exact = masked_mean(*encoder(*batch))
        rough = masked_mean(*encoder.bfloat16()(*batch)).float()
    assert (exact - rough).norm() / exact.norm() < 0.05


def test_log_energies_stay_exact_in_bfloat16() -> None:
    """Window, filters and statistics are not cast with the weights."""
    small = SequenceEncoder(SequenceEncoderConfig(hidden_size=32))
    small.set_statistics(torch.linspace(-12, -3, 80), torch.linspace(1, 3, 80))
    before, statistics = small.features(*sounds())[0], small.feature_mean.clone()
    small.bfloat16()
    assert torch.equal(small.features(*sounds())[0], before)
    assert torch.equal(small.feature_mean, statistics)
    assert small.norm.weight.dtype == torch.bfloat16
