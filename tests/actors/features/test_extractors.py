"""Frames are those of the encoder, whatever the batch, and rejects have reasons."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel

from actors.embedding.config import EmbedderConfig
from actors.features import extractors
from actors.features.config import LayerChoice, features_fingerprint
from actors.features.extractors import EncoderExtractor, make_extractor
from actors.inference.outcomes import Missing
from shards.config import ConfigError
from shards.media.sound_format import Waveform
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig

HUBERT = HubertConfig(
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=16,
    conv_dim=(8,) * 7,
    feat_extract_norm="layer",
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)


@pytest.fixture
def encoder(tmp_path: Path) -> EmbedderConfig:
    """A HuBERT with random weights."""
    torch.manual_seed(0)
    HubertModel(HUBERT).save_pretrained(tmp_path / "hubert")
    return EmbedderConfig(encoder=str(tmp_path / "hubert"))


def sounds(*lengths: int) -> list[Waveform]:
    generator = np.random.default_rng(1)
    return [generator.standard_normal(length).astype(np.float32) for length in lengths]


def test_frames_are_the_hidden_states_of_transformers(encoder: EmbedderConfig) -> None:
    """Layers 0, 2 and 3 equal those that transformers reports, to the precision of float16."""
    extractor = make_extractor(encoder, LayerChoice(text="0,2,3"))
    extractor.setup(1)
    (sound,) = sounds(16_000)
    (found,) = extractor.frames([sound])

    # Encoders of this kind hear sound of mean 0 and variance 1.
    heard = torch.from_numpy((sound - sound.mean()) / sound.std())[None]
    model = HubertModel.from_pretrained(encoder.encoder).eval()
    with torch.inference_mode():
        states = model(heard, output_hidden_states=True).hidden_states
    assert not isinstance(found, Missing)
    assert found.dtype == np.float16
    wanted = np.stack([states[number][0].numpy() for number in (0, 2, 3)], axis=1)
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


def test_windows_and_batchmates_leave_frames_as_they_are(
    encoder: EmbedderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sound gives the same in any company, and a long one the frames of its windows."""
    extractor = EncoderExtractor(encoder, LayerChoice(text="last"))
    extractor.setup(1)
    short, long = sounds(4_000, 32_000)
    (alone,) = extractor.frames([short])
    together = extractor.frames([long, short, sounds(100)[0]])
    np.testing.assert_array_equal(together[1], alone)
    assert isinstance(together[2], Missing)
    assert together[2].reason.startswith("audio_too_short: ")

    halves = extractor.frames([long[:16_000], long[16_000:]])
    monkeypatch.setattr(extractors, "WINDOW_SECONDS", 1.0)
    (windowed,) = extractor.frames([long])
    np.testing.assert_array_equal(windowed, np.concatenate(halves))


def test_frames_that_float16_cannot_hold_are_rejected(
    encoder: EmbedderConfig, tmp_path: Path
) -> None:
    """Infinity is a reason and no feature."""
    model = HubertModel.from_pretrained(encoder.encoder)
    with torch.no_grad():
        model.encoder.layers[-1].final_layer_norm.weight.fill_(1e6)
    model.save_pretrained(tmp_path / "loud")

    extractor = make_extractor(
        EmbedderConfig(encoder=str(tmp_path / "loud")), LayerChoice(text="last")
    )
    extractor.setup(1)
    (found,) = extractor.frames(sounds(4_000))
    assert isinstance(found, Missing)
    assert found.reason.startswith("not_finite: ")


@pytest.mark.parametrize(
    ("text", "wanted"), [("last", (12,)), ("last4", (9, 10, 11, 12)), ("0,6,12", (0, 6, 12))]
)
def test_layers_are_chosen_by_word_or_number(text: str, wanted: tuple[int, ...]) -> None:
    """An encoder of twelve layers has thirteen states."""
    assert LayerChoice(text=text).numbers(13) == wanted
    assert LayerChoice(text="all").numbers(3) == (0, 1, 2)


@pytest.mark.parametrize("text", ["", "first", "1,,2", "-1", "2,2"])
def test_wrong_layers_are_refused(text: str) -> None:
    """What is neither a word nor numbers is refused by name."""
    with pytest.raises(ConfigError, match="--layers: got"):
        LayerChoice(text=text)


@pytest.mark.parametrize("text", ["last4", "0,3"])
def test_layers_that_the_encoder_lacks_are_refused(text: str) -> None:
    """The message says which states there are."""
    with pytest.raises(ConfigError, match="the encoder has the states 0 to 2"):
        LayerChoice(text=text).numbers(3)


def test_the_fingerprint_names_weights_and_layers(encoder: EmbedderConfig, tmp_path: Path) -> None:
    """Other weights or other layers have another name; a copy of the weights has the same."""
    torch.manual_seed(1)
    HubertModel(HUBERT).save_pretrained(tmp_path / "other")
    torch.manual_seed(0)
    HubertModel(HUBERT).save_pretrained(tmp_path / "copy")

    last = LayerChoice(text="last")
    names = {
        name: features_fingerprint(EmbedderConfig(encoder=str(tmp_path / name)), last)
        for name in ("hubert", "other", "copy")
    }
    assert names["hubert"] == names["copy"] != names["other"]
    assert features_fingerprint(encoder, LayerChoice(text="all")) != names["hubert"]


def test_an_encoder_of_faces_is_refused(tmp_path: Path) -> None:
    """Only sound is heard."""
    SequenceEncoder(SequenceEncoderConfig("face", feature_size=4)).save_pretrained(tmp_path)
    extractor = make_extractor(EmbedderConfig(encoder=str(tmp_path)), LayerChoice(text="last"))
    with pytest.raises(ConfigError, match="takes face; expected an encoder of sound"):
        extractor.setup(1)
