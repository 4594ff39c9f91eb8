"""Exported recognizers open with transformers alone where it can express them, and answer alike."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForAudioClassification,
    Data2VecAudioConfig,
    HubertConfig,
    SEWConfig,
    UniSpeechSatConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    WavLMConfig,
    pipeline,
)

from actors.inference.config import BatchingConfig
from actors.inference.runtime import Runtime
from actors.labeling.labelers.audio import AudioLabeler
from actors.labeling.labelers.config import LabelerConfig
from actors.predicting.recognizers import PieceRecognizer
from shards.emotions import EMOTIONS
from tests import ROOT
from tests.trainers.models.test_recognizer import make
from tests.worlds.encoders import SIZES as OWN_SIZES
from trainers.models.audio_classification import export_recognizer, register_recognizers
from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.recognizer import EmotionRecognizer, Recognition, is_recognizer
from trainers.models.trained import load_trained

NAMES = ["neutral", "anger", "boredom"]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
FAMILIES = {
    "hubert-base": HubertConfig(**SIZES, feat_extract_norm="group"),
    "hubert-large": HubertConfig(**SIZES, feat_extract_norm="layer", do_stable_layer_norm=True),
    "wav2vec2-base": Wav2Vec2Config(**SIZES, feat_extract_norm="group"),
    "wav2vec2-large": Wav2Vec2Config(**SIZES, feat_extract_norm="layer"),
    "wavlm-base": WavLMConfig(**SIZES, feat_extract_norm="group", num_buckets=16),
    "wavlm-large": WavLMConfig(
        **SIZES, feat_extract_norm="layer", do_stable_layer_norm=True, num_buckets=16
    ),
    "unispeech-sat-large": UniSpeechSatConfig(**SIZES, feat_extract_norm="layer"),
    "conformer-large": Wav2Vec2ConformerConfig(**SIZES, feat_extract_norm="layer"),
    "sew-base": SEWConfig(
        **SIZES,
        feat_extract_norm="group",
        conv_kernel=(10, 3, 3, 3, 3, 2, 2),
        conv_stride=(5, 2, 2, 2, 2, 2, 2),
        num_feat_extract_layers=7,
    ),
    "w2v-bert-base": Wav2Vec2BertConfig(
        **{name: value for name, value in SIZES.items() if "conv" not in name}
    ),
    "data2vec": Data2VecAudioConfig(
        **{**SIZES, "num_conv_pos_embeddings": 5}, conv_pos_kernel_size=7
    ),
    "own-data2vec2": Data2VecConfig(**OWN_SIZES),
}


def recognizer(family: str, **options: Any) -> EmotionRecognizer:
    """Make a recognizer whose head tells `waveforms` apart, so that its answers differ."""
    model = make(
        "none",
        encoder=FAMILIES[family].to_dict(),
        normalise=not family.endswith("base"),
        **({"names": NAMES} | options),
    )
    model.eval()
    pooled_ND = torch.cat([answer(model, waveform).pooled_ND for waveform in waveforms()])

    classifier = model.classifier
    torch.nn.init.normal_(classifier.weight, std=0.5 / float(pooled_ND.std(dim=0).max()))
    classifier.bias.data = -classifier.weight.data @ pooled_ND.mean(dim=0)
    return model


@torch.inference_mode()
def answer(model: EmotionRecognizer, waveform: NDArray[np.float32]) -> Recognition:
    samples_NS = torch.from_numpy(waveform)[None]
    found: Recognition = model(samples_NS, torch.tensor([len(waveform)]), torch.zeros(1).long())
    return found


def waveforms() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [
        (0.1 * level * rng.standard_normal(length)).astype(np.float32)
        for level, length in ((1, 4800), (0.1, 16_000), (3, 9001))
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_of_transformers_answers_as_predict_does(family: str, tmp_path: Path) -> None:
    """The encoder's own classifier gives the classes and probabilities of `predict`, to 1e-5."""
    model = recognizer(family)
    export_recognizer(model, tmp_path)
    assert is_recognizer(str(tmp_path))

    ours = PieceRecognizer(str(tmp_path))
    ours.setup(1)
    expected = ours.recognize(waveforms()).scores
    assert np.ptp(expected, axis=0).max() > 1e-3

    classify = pipeline("audio-classification", model=str(tmp_path), device="cpu")
    for waveform, row in zip(waveforms(), expected, strict=True):
        found = {one["label"]: one["score"] for one in classify(waveform, top_k=None)}
        np.testing.assert_allclose([found[name] for name in NAMES], row, atol=1e-5)

        own = answer(model, waveform).scores_NC.softmax(dim=1)
        np.testing.assert_allclose(own[0], row, atol=1e-5)


def test_values_are_a_regression(tmp_path: Path) -> None:
    """A pipeline gives values as they are."""
    model = recognizer("wavlm-large", names=["arousal", "valence"], is_values=True)
    export_recognizer(model, tmp_path)

    (waveform, *_) = waveforms()
    classify = pipeline("audio-classification", model=str(tmp_path), device="cpu")
    found = {one["label"]: one["score"] for one in classify(waveform, top_k=None)}

    own = answer(model, waveform).scores_NC[0].tolist()
    expected = dict(zip(["arousal", "valence"], own, strict=True))
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["hubert-large", "own-data2vec2"])
def test_an_export_is_a_labeler_of_a_panel(family: str, tmp_path: Path) -> None:
    """A panel's audio labeler opens it, and gives the same probabilities."""
    export_recognizer(recognizer(family, names=list(EMOTIONS)), tmp_path)
    labeler = AudioLabeler(LabelerConfig(checkpoint=str(tmp_path)), window_seconds=30.0)
    labeler.setup(tmp_path, Runtime.of("float32", 0.01, BatchingConfig()))
    assert not labeler._equal_lengths

    ours = PieceRecognizer(str(tmp_path))
    ours.setup(1)
    np.testing.assert_allclose(
        np.stack(labeler.label(waveforms())), ours.recognize(waveforms()).scores, atol=1e-5
    )


def test_an_export_keeps_what_only_the_project_needs(tmp_path: Path) -> None:
    """What a run learned from is read again, and another run can start from it."""
    trained_on = {"num_speakers": 3, "target": {"kind": "label"}}
    model = recognizer("wav2vec2-base", trained_on=trained_on)
    export_recognizer(model, tmp_path)

    loaded = load_trained(tmp_path).model
    assert loaded.config.to_dict()["trained_on"] == trained_on
    assert loaded.config.names == NAMES
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fusion": "prefix"},
        {"head": "interpreter"},
        {"head": "two_layer", "head_width": 24},
        {"normalise": True},
    ],
    ids=["small encoder", "sets", "interpreter", "two layers", "normalizing"],
)
def test_other_models_open_once_they_are_registered(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """A batch of one speaker gives the logits that the recognizer gives to this set."""
    options = {"fusion": "none"} | options
    encoder = {} if "normalise" not in options else {"encoder": FAMILIES["wavlm-base"].to_dict()}
    head = {} if not encoder else {"head": "interpreter"}
    model = make(**options, **encoder, **head).eval()
    export_recognizer(model, tmp_path)

    register_recognizers()
    opened = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()
    assert list(opened.config.id2label.values()) == model.config.names

    samples, lengths = torch.randn(3, 4800), torch.tensor([4800, 3000, 4000])
    mask = (torch.arange(4800) < lengths[:, None]).long()
    with torch.inference_mode():
        found = opened(input_values=samples, attention_mask=mask).logits
        torch.testing.assert_close(found, model(samples, lengths, torch.zeros(3).long()).scores_NC)


def test_transformers_alone_opens_an_export(tmp_path: Path) -> None:
    """A process without this project opens the folder, with every weight in its place."""
    export_recognizer(recognizer("wavlm-large"), tmp_path)
    code = (
        "import sys; from transformers import AutoModelForAudioClassification as Auto;"
        f"model, found = Auto.from_pretrained({str(tmp_path)!r}, output_loading_info=True);"
        "assert not any(found.values()), found;"
        "assert 'trainers' not in sys.modules; print(type(model).__name__)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert answer.stdout.strip() == "WavLMForSequenceClassification"
    assert str(ROOT) not in (tmp_path / "config.json").read_text(encoding="utf-8")
