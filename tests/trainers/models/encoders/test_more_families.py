"""Conformers, UniSpeech-SAT, SEW, w2v-BERT and Whisper: as transformers, and as layers by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    SeamlessM4TFeatureExtractor,
    SEWConfig,
    SEWModel,
    UniSpeechSatConfig,
    UniSpeechSatModel,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from shards.config import ConfigError
from tests.trainers.models.encoders.test_layerwise import CONVOLUTIONS, SMALL, sounds
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import encoder_of, load_encoder
from trainers.models.encoders.seams import BeforeLayer, LayerInput
from trainers.models.encoders.speech.waveform import normalizes
from trainers.models.parts.filter_banks import KaldiLogMel, WhisperLogMel
from trainers.models.parts.pooling import masked_mean

LAYER_NORM = {"feat_extract_norm": "layer"}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "conformer-relative": (
        Wav2Vec2ConformerConfig,
        Wav2Vec2ConformerModel,
        # So few positions that they are made longer, as by a very long utterance.
        CONVOLUTIONS | LAYER_NORM | {"conv_depthwise_kernel_size": 5, "max_source_positions": 20},
    ),
    "conformer-rotary": (
        Wav2Vec2ConformerConfig,
        Wav2Vec2ConformerModel,
        CONVOLUTIONS
        | LAYER_NORM
        | {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 5},
    ),
    "unispeech-sat": (
        UniSpeechSatConfig,
        UniSpeechSatModel,
        CONVOLUTIONS | LAYER_NORM | {"do_stable_layer_norm": True},
    ),
    "sew": (SEWConfig, SEWModel, CONVOLUTIONS | {"feat_extract_norm": "group"}),
    "w2v-bert": (Wav2Vec2BertConfig, Wav2Vec2BertModel, {"conv_depthwise_kernel_size": 5}),
    "w2v-bert-rotary": (
        Wav2Vec2BertConfig,
        Wav2Vec2BertModel,
        {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 5},
    ),
    "whisper": (
        WhisperConfig,
        WhisperModel,
        {
            "d_model": 32,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 8,
            "vocab_size": 20,
            "pad_token_id": 0,
            "max_source_positions": 50,
        },
    ),
}
LENGTHS = (3000, 1800, 2417)


def make_model(name: str, **changes: Any) -> Any:
    """Make a model with random weights, batch norm's statistics included."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config_class, model_class, options = FAMILIES[name]
    sizes = {} if name == "whisper" else SMALL
    model = model_class(config_class(**sizes | options | changes)).eval()

    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith(("running_mean", "running_var")):
            buffer.copy_(0.5 + torch.rand(buffer.shape))
    return model


def make_encoder(name: str) -> LayerwiseEncoder:
    model = encoder_of(make_model(name))
    return LayerwiseEncoder(model, normalize=normalizes(model.config)).eval()


def prepared(name: str, waveform: Tensor) -> dict[str, Tensor]:
    """Prepare a waveform with the feature extractor that transformers has for the family."""
    extractor: Any = Wav2Vec2FeatureExtractor(do_normalize=name != "sew")
    if name.startswith("w2v-bert"):
        extractor = SeamlessM4TFeatureExtractor(feature_size=80, padding_value=1)
    if name == "whisper":
        extractor = WhisperFeatureExtractor(chunk_length=1)

    found = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    return {name: value for name, value in found.items() if name != "attention_mask"} | (
        {"attention_mask": found["attention_mask"]} if name.startswith("w2v-bert") else {}
    )


def constant_prefix(_: int, hidden: Tensor, mask: Tensor) -> LayerInput:
    prefix = torch.full((len(hidden), 2, hidden.shape[2]), 0.3)
    taken = mask[:, :1].expand(-1, 2)
    return LayerInput(torch.cat([prefix, hidden], 1), torch.cat([taken, mask], 1), 2)


@pytest.mark.parametrize("length", [2400, 2417, 16_000])
@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_seam_it_is_the_model_itself(name: str, length: int) -> None:
    """Frames and pooled features are those of the model behind its own feature extractor."""
    encoder, untouched = make_encoder(name), encoder_of(make_model(name))
    inputs, lengths = sounds((length,))

    with torch.inference_mode():
        found, mask = encoder(inputs, lengths)
        given = prepared(name, inputs[0])
        theirs = untouched(**given).last_hidden_state

    if name.startswith("w2v-bert"):  # its extractor fills an odd frame up and masks it
        theirs = theirs[:, : int(given["attention_mask"].sum())]
    torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-4)
    own = -(-length // 320) if name == "whisper" else found.shape[1]
    assert int(mask.sum()) == own


@pytest.mark.parametrize("seam", [None, constant_prefix], ids=["plain", "prefix"])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_utterance_does_not_depend_on_its_batchmates(
    name: str, seam: BeforeLayer | None
) -> None:
    """Its pooled features are the same alone and beside longer ones."""
    encoder, (inputs, lengths) = make_encoder(name), sounds(LENGTHS)
    with torch.inference_mode():
        together = masked_mean(*encoder(inputs, lengths, seam))
        alone = [
            masked_mean(*encoder(inputs[row : row + 1, :length], lengths[row : row + 1], seam))
            for row, length in enumerate(LENGTHS)
        ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-3, atol=2e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_stands_in_the_padding_is_not_heard(name: str) -> None:
    """Noise behind an utterance's end changes nothing."""
    encoder, (inputs, lengths) = make_encoder(name), sounds(LENGTHS)
    noisy = inputs.clone()
    noisy[1, LENGTHS[1] :] = 1.0
    with torch.inference_mode():
        found, expected = (masked_mean(*encoder(one, lengths)) for one in (noisy, inputs))
    torch.testing.assert_close(found, expected)


def positions_by_hand(name: str, model: Any, length: int, num_before: int) -> Tensor | None:
    """Positions as transformers computes them, for the layers of a conformer."""
    config = model.config
    if name == "conformer-relative":
        found: Tensor = make_model(name).encoder.embed_positions(torch.zeros(1, length, 32))
        return found
    if not name.endswith("rotary"):
        return None

    frames = make_model(name).encoder.embed_positions(torch.zeros(1, length - num_before, 32))
    head = config.hidden_size // config.num_attention_heads
    before = torch.stack(
        [
            torch.tensor([place / 10_000 ** (2 * (k % (head // 2)) / head) for k in range(head)])
            for place in range(-num_before, 0)
        ]
    )[:, None, None, :]
    return torch.cat([torch.stack([before.cos(), before.sin()]), frames], dim=1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prefix_is_what_layers_called_by_hand_give(name: str) -> None:
    """The frames equal those of the layers, one after another, on [t_l; x] (Eq. 6)."""
    encoder, (inputs, lengths) = make_encoder(name), sounds((2400, 2400))
    torch.manual_seed(3)
    prefixes, seen = torch.randn(3, 2, 4, 32), []

    def prefixed(layer: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        seen.append(hidden)
        taken = torch.ones(2, 4, dtype=torch.bool)
        return LayerInput(torch.cat([prefixes[layer], hidden], 1), torch.cat([taken, mask], 1), 4)

    model = encoder_of(make_model(name))
    with torch.inference_mode():
        found, mask = encoder(inputs, lengths, prefixed)

        hidden = seen[0]
        layers = model.layers if name == "whisper" else model.encoder.layers
        for layer, module in enumerate(layers):
            joined = torch.cat([prefixes[layer], hidden], dim=1)
            named: dict[str, Any] = {}
            if "conformer" in name or "bert" in name:
                named = {
                    "relative_position_embeddings": positions_by_hand(
                        name, model, joined.shape[1], 4
                    )
                }
            hidden = module(joined, None, **named)[:, 4:]

        if name == "sew":
            final = model.encoder.upsample(hidden)
        elif name == "whisper":
            final = model.layer_norm(hidden)
        else:
            final = hidden if "bert" in name else model.encoder.layer_norm(hidden)

    torch.testing.assert_close(found[:, : final.shape[1]], final, rtol=1e-4, atol=1e-5)
    assert mask.shape == found.shape[:2]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_learns_after_a_validation_and_twice_the_same(name: str) -> None:
    """Training can follow inference of the same length, and the layers may be computed again."""
    batch, gradients = sounds((2400, 1800)), []
    for checkpoints in (False, True):
        encoder = make_encoder(name)
        if checkpoints:
            encoder.checkpoint_gradients()
        with torch.inference_mode():
            encoder(*batch, constant_prefix)

        torch.manual_seed(7)
        masked_mean(*encoder.eval()(*batch, constant_prefix)).square().sum().backward()
        gradients.append(
            {name: p.grad for name, p in encoder.layers.named_parameters() if p.grad is not None}
        )

    plain, again = gradients
    # Some get none, such as position embeddings of distances that do not occur.
    assert len(plain) > 0.9 * len(list(encoder.layers.parameters()))
    for parameter, gradient in plain.items():
        torch.testing.assert_close(again[parameter], gradient, msg=parameter)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_depends_on_the_seed_alone(name: str) -> None:
    """Two passes in training mode are equal by the same seed, and move no statistics."""
    encoder, batch = make_encoder(name).train(), sounds((900, 600))
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        found.append(encoder(*batch)[0])
    assert torch.equal(*found)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_gives_the_same_features_roughly(name: str) -> None:
    """A module cast as a whole, as DeepSpeed does, is as exact as its digits allow."""
    encoder, batch = make_encoder(name), sounds(LENGTHS)
    with torch.inference_mode():
        exact = masked_mean(*encoder(*batch))
        rough = masked_mean(*encoder.bfloat16()(*batch)).float()
    assert (exact - rough).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_folder_is_loaded(name: str, tmp_path: Path) -> None:
    """What transformers saved gives the same frames; Whisper's decoder is left out."""
    make_model(name).save_pretrained(tmp_path)
    loaded, batch = load_encoder(str(tmp_path)).eval(), sounds(LENGTHS)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(*batch)[0], make_encoder(name)(*batch)[0])
    assert not any("decoder" in key for key in loaded.state_dict())


@pytest.mark.parametrize("name", FAMILIES)
def test_very_short_utterances_are_heard(name: str) -> None:
    """Five samples give finite features that do not depend on batchmates."""
    encoder, (inputs, lengths) = make_encoder(name), sounds((2400, 5))
    with torch.inference_mode():
        together = masked_mean(*encoder(inputs, lengths))
        alone = masked_mean(*encoder(inputs[1:, :5], lengths[1:]))
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_hidden_states_have_the_frame_rate_of_the_output(name: str) -> None:
    """They are transformers' own; those of SEW, which see two frames as one, are repeated."""
    encoder, (inputs, lengths) = make_encoder(name), sounds((2400,))
    with torch.inference_mode():
        states, mask = encoder.hidden_states(inputs, lengths)
        theirs = encoder_of(make_model(name))(
            **prepared(name, inputs[0]), output_hidden_states=True
        ).hidden_states

    assert {state.shape[:2] for state in states} == {mask.shape}
    assert len(states) == 4
    for state, expected in zip(states[:-1], theirs[:-1], strict=True):
        if name == "sew":
            pairs = min(state.shape[1] // 2, expected.shape[1])
            state, expected = state[:, : 2 * pairs : 2], expected[:, :pairs]
        torch.testing.assert_close(state, expected[:, : state.shape[1]], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("use", "name", "reason"),
    [
        (lambda encoder: encoder.learn_mask(), "whisper", "works with finetune, setpeer"),
        (lambda encoder: encoder.hop_samples, "w2v-bert", "works with finetune, setpeer"),
    ],
)
def test_what_a_family_lacks_is_an_error_that_names_the_recipes(
    use: Callable[[LayerwiseEncoder], Any], name: str, reason: str
) -> None:
    """Masked prediction is refused for encoders without frames to hide."""
    with pytest.raises(ConfigError, match=reason):
        use(make_encoder(name))


def test_sew_refuses_a_prefix_that_stays() -> None:
    """A position that no layer cuts off could not be told from frames afterwards."""

    def staying(number: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        if number:
            return LayerInput(hidden, mask)
        longer = constant_prefix(number, hidden, mask)
        return LayerInput(longer.hidden_NTD, longer.mask_NT)

    with pytest.raises(ConfigError, match=r"papt by model\.fusion=last or first"):
        make_encoder("sew")(*sounds(LENGTHS), staying)

    for name in ("conformer-relative", "conformer-rotary", "w2v-bert", "whisper"):
        frames, mask = make_encoder(name)(*sounds(LENGTHS), staying)
        assert frames.shape[:2] == mask.shape


def test_a_half_padded_frame_of_sew_is_not_heard() -> None:
    """Five frames beside three give two squeezed frames beside one, and a half that is masked."""
    encoder, (inputs, lengths) = make_encoder("sew"), sounds((60, 40))
    with torch.inference_mode():
        together = masked_mean(*encoder(inputs, lengths))[1:]
        alone = masked_mean(*encoder(inputs[1:, :40], lengths[1:]))
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


def test_whisper_says_how_much_it_hears() -> None:
    """A second of sound is heard, and a sample more is refused."""
    encoder = make_encoder("whisper")
    assert encoder.max_samples == 16_000
    with pytest.raises(ConfigError, match=r"hears 1 s at most.*--window"):
        encoder(*sounds((16_001,)))


@pytest.mark.parametrize("name", ["wav2vec2", "conformer-relative", "w2v-bert"])
def test_an_adapter_behind_the_layers_is_refused(name: str, tmp_path: Path) -> None:
    """The error says how to load the encoder without it, and that works."""
    config_class, model_class, options = FAMILIES.get(
        name, (Wav2Vec2Config, Wav2Vec2Model, CONVOLUTIONS)
    )
    model_class(config_class(**SMALL, **options, add_adapter=True)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="set add_adapter to false"):
        load_encoder(str(tmp_path))

    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"add_adapter": true', '"add_adapter": false'))
    frames, mask = load_encoder(str(tmp_path))(*sounds(LENGTHS))
    assert frames.shape[:2] == mask.shape


def test_w2v_berts_input_is_that_of_its_extractor() -> None:
    """The energies of a batch equal those of the extractor, utterance by utterance."""
    inputs, lengths = sounds(LENGTHS)
    found = KaldiLogMel(80)(0.05 * inputs, lengths)

    for row, length in enumerate(LENGTHS):
        expected = prepared("w2v-bert", 0.05 * inputs[row, :length])["input_features"][0]
        energies = expected.unflatten(1, (2, 80)).flatten(0, 1)
        num_frames = (length - 400) // 160 + 1
        torch.testing.assert_close(
            found[row, :num_frames], energies[:num_frames], rtol=1e-3, atol=1e-3
        )
        assert not found[row, num_frames:].any()


def test_whispers_input_is_that_of_its_extractor() -> None:
    """The energies of padded sound equal those of the extractor."""
    inputs, _ = sounds((16_000, 9000))
    expected = WhisperFeatureExtractor(chunk_length=1)(
        list(inputs.numpy()), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    torch.testing.assert_close(WhisperLogMel(80)(inputs), expected, rtol=1e-3, atol=1e-4)
