"""Frames are those of the encoder, whatever the batch, and rejects have reasons."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import HubertConfig, HubertModel

from actors.embedding.config import EmbedderConfig
from actors.features import extractors
from actors.features.config import LayerChoice, features_fingerprint
from actors.features.extractors import EncoderExtractor, Extractor, Found, make_extractor
from actors.inference.outcomes import Missing
from shards.config import ConfigError
from shards.media.sound_format import Waveform
from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.encoders.data2vec.encoder import Data2VecEncoder
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


def frames_of(found: Sequence[Found]) -> list[NDArray[np.float16]]:
    """The frames of utterances that all have some."""
    extracted = [one for one in found if not isinstance(one, Missing)]
    assert len(extracted) == len(found)
    return [one.frames_TLD for one in extracted]


def frames(extractor: Extractor, waveforms: Sequence[Waveform]) -> list[NDArray[np.float16]]:
    return frames_of(extractor.extract(waveforms))


def test_frames_are_the_hidden_states_of_transformers(encoder: EmbedderConfig) -> None:
    """Layers 0, 2 and 3 equal those that transformers reports, to the precision of float16."""
    extractor = make_extractor(encoder, LayerChoice(text="0,2,3"))
    extractor.setup(1)
    (sound,) = sounds(16_000)
    found = frames(extractor, [sound])[0]

    # Encoders of this kind hear sound of mean 0 and variance 1.
    heard = torch.from_numpy((sound - sound.mean()) / sound.std())[None]
    model = HubertModel.from_pretrained(encoder.encoder).eval()
    with torch.inference_mode():
        states = model(heard, output_hidden_states=True).hidden_states
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
    (alone,) = frames(extractor, [short])
    *heard, missing = extractor.extract([long, short, sounds(100)[0]])
    np.testing.assert_array_equal(frames_of(heard)[1], alone)
    assert isinstance(missing, Missing)
    assert missing.reason.startswith("audio_too_short: ")

    halves = frames(extractor, [long[:16_000], long[16_000:]])
    monkeypatch.setattr(extractors, "WINDOW_SECONDS", 1.0)
    (windowed,) = frames(extractor, [long])
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
    (found,) = extractor.extract(sounds(4_000))
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


@pytest.fixture
def with_tokens(tmp_path: Path) -> EmbedderConfig:
    """A data2vec 2.0 with three extra tokens and random weights."""
    torch.manual_seed(0)
    config = Data2VecConfig(
        front_end="log_mel",
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_extra_tokens=3,
    )
    Data2VecEncoder(config).save_pretrained(tmp_path / "tokens")
    return EmbedderConfig(encoder=str(tmp_path / "tokens"))


def tokens(extractor: Extractor, waveforms: Sequence[Waveform]) -> list[NDArray[np.float16]]:
    found = [one for one in extractor.extract(waveforms) if not isinstance(one, Missing)]
    assert all(one.tokens_XD is not None for one in found)
    return [one.tokens_XD for one in found if one.tokens_XD is not None]


def test_tokens_are_those_of_the_body_in_any_company(
    with_tokens: EmbedderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three vectors behind the last layer; a long recording has the mean of its windows'."""
    extractor = EncoderExtractor(with_tokens, LayerChoice(text="all", tokens=True))
    extractor.setup(1)
    short, long = sounds(8_000, 32_000)
    (alone,) = tokens(extractor, [short])
    assert (extractor.num_tokens, alone.shape) == (3, (3, 16))

    model = Data2VecEncoder.from_pretrained(with_tokens.encoder).eval()
    with torch.inference_mode():
        heard = model.front_end(torch.from_numpy(short)[None], torch.tensor([8_000]))
        found = model.body(heard, torch.ones(heard.shape[:2], dtype=torch.bool))
    np.testing.assert_allclose(alone, found.tokens_NXD[0], rtol=2e-3, atol=2e-3)
    (frames_TLD,) = frames(extractor, [short])
    np.testing.assert_allclose(frames_TLD[:, -1], found.frames_NTD[0], rtol=2e-3, atol=2e-3)

    np.testing.assert_array_equal(tokens(extractor, [long, short])[1], alone)
    halves = tokens(extractor, [long[:16_000], long[16_000:]])
    monkeypatch.setattr(extractors, "WINDOW_SECONDS", 1.0)
    (windowed,) = tokens(extractor, [long])
    np.testing.assert_allclose(windowed, np.mean(halves, axis=0, dtype=np.float64), atol=2e-3)


def test_tokens_are_kept_only_where_they_are_wanted(with_tokens: EmbedderConfig) -> None:
    """Without them frames are the same, and the features have another fingerprint."""
    plain, both = (LayerChoice(text="last", tokens=wanted) for wanted in (False, True))
    found = []
    for choice in (plain, both):
        extractor = make_extractor(with_tokens, choice)
        extractor.setup(1)
        (one,) = extractor.extract(sounds(8_000))
        assert not isinstance(one, Missing)
        found.append(one)

    np.testing.assert_array_equal(found[0].frames_TLD, found[1].frames_TLD)
    assert found[0].tokens_XD is None
    assert features_fingerprint(with_tokens, plain) != features_fingerprint(with_tokens, both)


def test_an_encoder_without_tokens_is_refused(encoder: EmbedderConfig) -> None:
    """By name, with what has some; spectral features too."""
    for one in (encoder, EmbedderConfig(encoder="spectral")):
        extractor = make_extractor(one, LayerChoice(text="last", tokens=True))
        with pytest.raises(ConfigError, match=r"--tokens: .* ha(s|ve) none; only encoders of"):
            extractor.setup(1)
