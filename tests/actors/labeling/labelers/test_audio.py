from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from actors.inference.outcomes import Missing
from actors.inference.waveforms import RawInputs
from actors.labeling.labelers.audio import AudioLabeler
from actors.labeling.labelers.config import LabelerConfig
from shards.config import ConfigError
from tests.actors.inference.runtimes import cpu_runtime
from tests.actors.inference.tiny_checkpoints import (
    AUDIO_FAMILIES,
    ODYSSEY_LABELS,
    SEVEN,
    write_audio,
)

Folders = dict[str, Path]
LENGTHS = (4_800, 1_600, 9_000, 4_800, 7_001, 2_345, 9_000)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("audio")
    return {family: write_audio(root / family, family) for family in AUDIO_FAMILIES}


def labeler(
    folder: Path, *, batch_seconds: float = 0.0, window_seconds: float = 30.0, **options: object
) -> AudioLabeler:
    made = AudioLabeler(
        LabelerConfig(checkpoint=str(folder), **options), window_seconds=window_seconds
    )  # type: ignore[arg-type]
    made.setup(folder, cpu_runtime(batch_seconds=batch_seconds))
    return made


def speech(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[NDArray[np.float32]]:
    """Noise of changing loudness, off center, so that normalization and padding both matter."""
    generator = np.random.default_rng(seed)
    loudness = [0.02, 0.3, 0.1, 0.05, 0.2, 0.01, 0.15]
    return [
        (0.05 + level * generator.normal(size=length)).astype(np.float32)
        for level, length in zip(loudness, lengths, strict=False)
    ]


@pytest.mark.parametrize("family", AUDIO_FAMILIES)
def test_a_label_does_not_depend_on_its_batchmates(folders: Folders, family: str) -> None:
    """An utterance gets the same distribution alone, in a padded batch and in another order."""
    waveforms = speech()
    together = labeler(folders[family], batch_seconds=10.0)
    expected = np.stack([labeler(folders[family]).label([waveform])[0] for waveform in waveforms])
    # The labels differ, so the comparison means something.
    assert np.ptp(expected, axis=0).max() > 0.01
    found = np.stack(together.label(waveforms))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()

    order = np.random.default_rng(1).permutation(len(waveforms))
    shuffled = together.label([waveforms[index] for index in order])
    np.testing.assert_allclose(np.stack(shuffled), expected[order], atol=1e-5)
    np.testing.assert_allclose(np.stack(together.label(waveforms[2:5])), expected[2:5], atol=1e-5)


@pytest.mark.parametrize(
    "family", [family for family in AUDIO_FAMILIES if family not in ("mel", "odyssey")]
)
def test_against_the_checkpoints_own_pipeline(folders: Folders, family: str) -> None:
    """The distribution equals that of transformers' audio-classification pipeline."""
    classify = pipeline("audio-classification", model=str(folders[family]), device="cpu")

    for waveform in speech((3_000, 8_000)):
        scores = {row["label"]: row["score"] for row in classify(waveform, top_k=7)}
        outcome = labeler(folders[family]).label([waveform])[0]
        np.testing.assert_allclose(outcome, [scores[SEVEN[index]] for index in range(7)], atol=1e-5)


def test_odyssey_drops_contempt(folders: Folders) -> None:
    """Eight classes become seven: the softmax without contempt, renormalized and reordered."""
    model = AutoModelForAudioClassification.from_pretrained(folders["odyssey"]).eval()
    (waveform,) = speech((6_000,))

    with torch.inference_mode():
        scores = torch.softmax(model(torch.tensor(waveform)[None]).logits[0], dim=-1).numpy()

    order = [
        ODYSSEY_LABELS.index(name)
        for name in ("Neutral", "Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise")
    ]

    expected = scores[order] / scores[order].sum()
    np.testing.assert_allclose(
        labeler(folders["odyssey"]).label([waveform])[0], expected, atol=1e-5
    )


@pytest.mark.parametrize(
    ("family", "padded"),
    [
        ("wav2vec2_group", False),
        ("hubert_group", False),
        ("wavlm_group", False),
        ("data2vec", False),
        ("hubert", True),
    ],
)
def test_what_padding_disturbs_is_never_padded(
    folders: Folders, family: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models that padding disturbs get batches of equal lengths, others get padded batches."""
    made = labeler(folders[family], batch_seconds=10.0)
    prepare, masked = RawInputs.__call__, []

    def recorded(
        inputs: RawInputs, waveforms: Any, device: torch.device
    ) -> dict[str, torch.Tensor]:
        batch = prepare(inputs, waveforms, device)
        masked.append("attention_mask" in batch)
        return batch

    monkeypatch.setattr(RawInputs, "__call__", recorded)
    made.label(speech())

    assert any(masked) == padded
    assert len(masked) < len(speech())  # equal lengths still share a batch


def test_padding_does_disturb_data2vec(folders: Folders) -> None:
    """With a correct mask, transformers' data2vec still answers differently when padded."""
    model = AutoModelForAudioClassification.from_pretrained(folders["data2vec"]).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folders["data2vec"])
    waveforms = speech((4_000, 12_000))

    with torch.inference_mode():
        alone = model(
            **extractor(waveforms[:1], sampling_rate=16_000, return_tensors="pt", padding=True)
        ).logits[0]
        beside = model(
            **extractor(waveforms, sampling_rate=16_000, return_tensors="pt", padding=True)
        ).logits[0]

    assert (alone - beside).abs().max() > 1e-3


def test_long_recordings_are_the_mean_of_their_windows(folders: Folders) -> None:
    """2.5 s in windows of at most 1 s are three equal windows, labeled one by one and averaged."""
    (waveform,) = speech((40_000,))
    parts = [waveform[:13_333], waveform[13_333:26_666], waveform[26_666:]]
    whole = labeler(folders["hubert"])
    expected = np.average(np.stack(whole.label(parts)), axis=0, weights=[13_333, 13_333, 13_334])

    for batch_seconds in (0.0, 5.0):
        windowed = labeler(folders["hubert"], batch_seconds=batch_seconds, window_seconds=1.0)
        np.testing.assert_allclose(windowed.label([waveform])[0], expected, atol=1e-5)


def test_silence_gets_a_finite_label(folders: Folders) -> None:
    """Silence, which has no variance to divide by, still gets a distribution."""
    for family in ("hubert", "mel", "odyssey"):
        outcome = labeler(folders[family]).label([np.zeros(5_000, np.float32)])[0]
        assert isinstance(outcome, np.ndarray)
        assert outcome.sum() == pytest.approx(1, abs=1e-5)


def test_bad_waveforms_do_not_disturb_the_others(folders: Folders) -> None:
    """Unusable recordings are missing with a reason, and the one between is labeled as if alone."""
    (good,) = speech((5_000,))
    bad = np.full(5_000, np.nan, np.float32)

    made = labeler(folders["hubert"], batch_seconds=10.0)
    short, empty, labeled, broken = made.label([good[:100], good[:0], good, bad])

    reasons = [
        outcome.reason.split(":")[0]
        for outcome in (short, empty, broken)
        if isinstance(outcome, Missing)
    ]
    assert reasons == ["audio_too_short", "audio_too_short", "non_finite_prediction"]

    np.testing.assert_allclose(labeled, labeler(folders["hubert"]).label([good])[0], atol=1e-5)


def test_no_waveforms_no_outcomes(folders: Folders) -> None:
    """A window of a shard without sound gives no outcomes, and no error."""
    assert labeler(folders["hubert"]).label([]) == []


def test_classes_are_named_by_the_panel(tmp_path: Path) -> None:
    """A checkpoint with LABEL_n is refused until label_names says what the classes mean."""
    folder = write_audio(tmp_path, "hubert", {0: "LABEL_0", 1: "LABEL_1"})
    with pytest.raises(ConfigError, match="cannot map LABEL_0, LABEL_1"):
        labeler(folder)

    made = labeler(folder, label_names={"LABEL_0": "anger", "LABEL_1": "neutral"})
    outcome = made.label(speech((5_000,)))[0]
    assert isinstance(outcome, np.ndarray)
    assert outcome[[0, 1]].sum() == pytest.approx(1, abs=1e-6)


def test_a_backbone_without_its_classifier_is_refused(folders: Folders, tmp_path: Path) -> None:
    """A checkpoint is refused whose classifier transformers would fill with random numbers."""
    AutoModelForAudioClassification.from_pretrained(folders["hubert"]).hubert.save_pretrained(
        tmp_path
    )
    AutoFeatureExtractor.from_pretrained(folders["hubert"]).save_pretrained(tmp_path)

    with pytest.raises(ConfigError, match=r"lacks .* weights .* would be random"):
        labeler(tmp_path)


def test_a_damaged_weight_file_is_a_configuration_error(folders: Folders, tmp_path: Path) -> None:
    """The error on half a safetensors file says which checkpoint is damaged."""
    for path in folders["mel"].iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(
            content[: len(content) // 2] if path.suffix == ".safetensors" else content
        )

    with pytest.raises(ConfigError, match="cannot be loaded"):
        labeler(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "no usable preprocessor_config"),
        (
            '{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 8000}',
            "8000 Hz",
        ),
        (
            '{"feature_extractor_type": "ClapFeatureExtractor", "sampling_rate": 16000}',
            "ClapFeatureExtractor",
        ),
    ],
)
def test_unusable_preprocessing_is_refused(
    folders: Folders, tmp_path: Path, settings: str | None, message: str
) -> None:
    """Preprocessing that is missing, unknown or for another sample rate is refused."""
    for path in folders["hubert"].iterdir():
        if path.name != "preprocessor_config.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())

    if settings is not None:
        (tmp_path / "preprocessor_config.json").write_text(settings)

    with pytest.raises(ConfigError, match=message):
        labeler(tmp_path)
