from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    HubertModel,
    ResNetConfig,
    ResNetModel,
    ViTForImageClassification,
    pipeline,
)

from actors.inference.checkpoints import CheckpointConfig
from actors.inference.outcomes import Missing
from actors.inference.runtime import Runtime
from actors.labeling.labelers.objectives import (
    FaceEmbedding,
    FaceFeatures,
    Sentiment,
    SpeakerVector,
)
from shards.config import ConfigError
from tests.actors.inference.runtimes import cpu_runtime
from tests.actors.inference.tiny_checkpoints import write_audio, write_image, write_text

SENTIMENT_CLASSES = {0: "positive", 1: "negative", 2: "neutral"}
LINES = ["the door is open", "rain", "wonderful rain , nobody cares !", "awful awful awful"]


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"), SENTIMENT_CLASSES)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audio(tmp_path_factory.mktemp("audio"), "hubert")


def sentiment(folder: Path, runtime: Runtime | None = None) -> Sentiment:
    made = Sentiment(CheckpointConfig(checkpoint=str(folder)))
    made.setup(folder, runtime or cpu_runtime(text_tokens=120))
    return made


def face_embedding(folder: Path, *, frames: int) -> FaceEmbedding:
    made = FaceEmbedding()
    made.setup(folder, cpu_runtime(face_frames=frames))
    return made


def speaker_vector(
    folder: Path, *, batch_seconds: float = 0.0, window_seconds: float = 30.0
) -> SpeakerVector:
    made = SpeakerVector(window_seconds=window_seconds)
    made.setup(folder, cpu_runtime(batch_seconds=batch_seconds))
    return made


def crops(*counts: int) -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in counts]


def noises(*lengths: int) -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(1)
    return [
        (0.05 + 0.1 * index * generator.normal(size=n)).astype(np.float32)
        for index, n in enumerate(lengths, 1)
    ]


def test_sentiment_against_the_checkpoints_own_pipeline(text_folder: Path) -> None:
    """Sentiments equal the pipeline's, in the fixed order, alone as in a padded batch."""
    classify = pipeline("text-classification", model=str(text_folder), device="cpu", top_k=None)
    batched, single = sentiment(text_folder), sentiment(text_folder, cpu_runtime(text_tokens=1))

    for line, outcome in zip(LINES, batched.compute(LINES), strict=True):
        scores = {row["label"]: row["score"] for row in classify([line])[0]}
        np.testing.assert_allclose(
            outcome, [scores[name] for name in ("negative", "neutral", "positive")], atol=1e-5
        )
        np.testing.assert_allclose(outcome, single.compute([line])[0], atol=1e-5)


def test_blank_texts_have_no_sentiment(text_folder: Path) -> None:
    """A text without words has no sentiment, as silence is not neutral."""
    blank, spoken = sentiment(text_folder).compute([" ", "rain"])
    assert isinstance(blank, Missing)
    assert isinstance(spoken, np.ndarray)


def test_short_sentiment_names_are_understood(tmp_path: Path, text_folder: Path) -> None:
    """NEG, NEU and POS, as BERTweet's checkpoints spell them, are the same three classes."""
    write_text(tmp_path, {0: "POS", 1: "NEG", 2: "NEU"})
    np.testing.assert_array_equal(
        sentiment(tmp_path).compute(LINES), sentiment(text_folder).compute(LINES)
    )


@pytest.mark.parametrize(
    "classes",
    [
        ("LABEL_0", "LABEL_1", "LABEL_2"),
        ("negative", "positive"),
        ("neg", "negative", "neutral", "positive"),
    ],
)
def test_other_sentiments_are_refused(tmp_path: Path, classes: tuple[str, ...]) -> None:
    """Stars, two classes or unnamed classes are refused and not guessed at."""
    write_text(tmp_path, dict(enumerate(classes)))
    with pytest.raises(
        ConfigError, match=r"got the classes .* expected negative, neutral, positive"
    ):
        sentiment(tmp_path)


def test_face_embedding_is_the_mean_of_patches_and_frames(image_folder: Path) -> None:
    """The embedding equals a direct forward pass of the classifier's backbone, averaged."""
    (faces,) = crops(5)
    processor = AutoImageProcessor.from_pretrained(image_folder, backend="pil")
    backbone = ViTForImageClassification.from_pretrained(image_folder).vit.eval()
    with torch.inference_mode():
        hidden = backbone(**processor(list(faces), return_tensors="pt")).last_hidden_state
    expected = hidden.mean(dim=(0, 1))
    np.testing.assert_allclose(
        face_embedding(image_folder, frames=8).compute([faces])[0], expected, atol=1e-5
    )


def test_face_embedding_does_not_depend_on_its_batchmates(image_folder: Path) -> None:
    """Each utterance gets the embedding it has alone, and one without a face gets none."""
    faces = crops(4, 1, 0, 7)
    together = face_embedding(image_folder, frames=3).compute(faces)

    for one, outcome in zip(faces, together, strict=True):
        if len(one):
            alone = face_embedding(image_folder, frames=64).compute([one])[0]
            np.testing.assert_allclose(outcome, alone, atol=1e-5)

    assert isinstance(together[2], Missing)
    assert together[2].reason.startswith("no_face: ")


def test_a_convolutional_backbone_gives_its_pooled_features(tmp_path: Path) -> None:
    """A ResNet's pooled map [F, D, 1, 1] becomes a vector of D."""
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    model = ResNetModel(config).eval()
    model.save_pretrained(tmp_path)

    preprocessor = tmp_path / "preprocessor_config.json"
    preprocessor.write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}'
    )

    (faces,) = crops(3)
    pixels = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(
        list(faces), return_tensors="pt"
    )
    with torch.inference_mode():
        expected = model(**pixels).last_hidden_state.mean(dim=(0, 2, 3))

    np.testing.assert_allclose(
        face_embedding(tmp_path, frames=2).compute([faces])[0], expected, atol=1e-4
    )


def test_speaker_vector_is_the_mean_over_time(audio_folder: Path) -> None:
    """The vector equals a direct forward pass of the classifier's backbone, averaged over time."""
    (waveform,) = noises(9_000)
    values = AutoFeatureExtractor.from_pretrained(audio_folder)(
        waveform, sampling_rate=16_000, return_tensors="pt"
    )

    backbone = HubertModel.from_pretrained(audio_folder).eval()
    with torch.inference_mode():
        expected = backbone(input_values=values.input_values).last_hidden_state[0].mean(dim=0)

    np.testing.assert_allclose(
        speaker_vector(audio_folder).compute([waveform])[0], expected, atol=1e-4
    )


def test_speaker_vector_does_not_depend_on_its_batchmates(audio_folder: Path) -> None:
    """Every vector is the one the recording has alone, in batches of equal lengths too."""
    waveforms = noises(4_000, 9_000, 4_000, 100, 9_000)
    together = speaker_vector(audio_folder, batch_seconds=10.0).compute(waveforms)
    alone = [speaker_vector(audio_folder).compute([waveform])[0] for waveform in waveforms]

    assert isinstance(together[3], Missing)
    for index in (0, 1, 2, 4):
        np.testing.assert_allclose(together[index], alone[index], atol=1e-5)


def test_speaker_vector_of_a_long_recording(audio_folder: Path) -> None:
    """The vector of 2 s in windows of 1 s is the mean of the two halves' vectors."""
    (waveform,) = noises(32_000)
    halves = speaker_vector(audio_folder).compute([waveform[:16_000], waveform[16_000:]])
    whole = speaker_vector(audio_folder, window_seconds=1.0).compute([waveform])[0]
    np.testing.assert_allclose(whole, np.mean(np.stack(halves), axis=0), atol=1e-5)


def test_bfloat16_drift_of_an_embedding_is_measured_at_unit_length(
    audio_folder: Path, image_folder: Path
) -> None:
    """An embedding drifts on the scale of probabilities, and bfloat16 models still work."""
    runtime = cpu_runtime(precision="bfloat16", max_drift=0.9)
    speaker, face = SpeakerVector(window_seconds=30.0), FaceEmbedding()
    for settled in (speaker.setup(audio_folder, runtime), face.setup(image_folder, runtime)):
        assert settled.precision == "bfloat16"
        assert settled.drift is not None
        assert 0 < settled.drift < 0.9

    assert isinstance(speaker.compute(noises(4_000))[0], np.ndarray)
    assert isinstance(face.compute(crops(2))[0], np.ndarray)


def test_face_features_are_averaged_over_frames() -> None:
    """The mean of each value over time; features of another width are named, and lose nothing."""
    features = np.array([[1.0, 4.0], [3.0, 0.0]], dtype=np.float32)
    mean, narrow, empty = FaceFeatures(2).compute([features, features[:, :1], features[:0]])

    np.testing.assert_array_equal(mean, np.array([2.0, 2.0], dtype=np.float32))
    for outcome, got in ((narrow, "2 frames of 1 values"), (empty, "0 frames of 2 values")):
        assert isinstance(outcome, Missing)
        assert outcome.reason.startswith(f"face_features_shape: got {got}")
