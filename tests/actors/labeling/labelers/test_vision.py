from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoImageProcessor, ViTForImageClassification

from actors.inference.frames import FrameInputs
from actors.inference.outcomes import Missing
from actors.labeling.labelers.config import LabelerConfig
from actors.labeling.labelers.vision import VisionLabeler
from actors.reading.utterance import Utterance
from shards.config import ConfigError
from tests.actors.inference.runtimes import cpu_runtime
from tests.actors.inference.tiny_checkpoints import write_face_sequence, write_image
from trainers.models.classifiers.face_sequence import FaceSequenceClassifier

CPU = torch.device("cpu")
counts = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def feature_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_face_sequence(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def over_crops(image_folder: Path) -> VisionLabeler:
    return make(image_folder, frames=5)


@pytest.fixture(scope="module")
def over_features(feature_folder: Path) -> VisionLabeler:
    return make(feature_folder, frames=5)


def make(folder: Path, *, frames: int) -> VisionLabeler:
    labeler = VisionLabeler(LabelerConfig(checkpoint=str(folder)))
    labeler.setup(folder, cpu_runtime(face_frames=frames))
    return labeler


def crops(num_frames: int, size: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 255, (num_frames, 4, 4, 3)) * generator.uniform(0.2, 1)
    return np.repeat(np.repeat(coarse, size // 4, axis=1), size // 4, axis=2).astype(np.uint8)


@given(counts)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_crop_label_does_not_depend_on_its_batchmates(
    over_crops: VisionLabeler, sizes: list[int]
) -> None:
    """Frames of several utterances share batches, and each utterance keeps its label."""
    faces = [crops(size, seed=index) for index, size in enumerate(sizes)]
    expected = np.stack([over_crops.label([one])[0] for one in faces])
    np.testing.assert_allclose(np.stack(over_crops.label(faces)), expected, atol=1e-5)


@given(counts)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_feature_label_does_not_depend_on_its_batchmates(
    over_features: VisionLabeler, sizes: list[int]
) -> None:
    """Sequences padded side by side keep the label they have alone."""
    generator = np.random.default_rng(0)
    sequences = [generator.normal(size=(size, 6)).astype(np.float32) for size in sizes]
    expected = np.stack([over_features.label([one])[0] for one in sequences])

    # The untrained model is so sure (logits of 70) that rounding moves a probability by 1e-5. A
    # leak from the padding moves it by 1e-3 and more.
    np.testing.assert_allclose(np.stack(over_features.label(sequences)), expected, atol=5e-5)


def test_frame_logits_are_averaged_before_the_softmax(
    image_folder: Path, over_crops: VisionLabeler
) -> None:
    """The label equals a direct forward pass whose logits are averaged before the softmax."""
    faces = crops(7)
    processor = AutoImageProcessor.from_pretrained(image_folder, backend="pil")
    model = ViTForImageClassification.from_pretrained(image_folder).eval()

    with torch.inference_mode():
        logits = model(**processor(list(faces), return_tensors="pt")).logits

    expected = torch.softmax(logits.mean(dim=0), dim=-1)
    np.testing.assert_allclose(over_crops.label([faces])[0], expected, atol=1e-5)

    # The order of the two steps matters here.
    assert (expected - torch.softmax(logits, dim=-1).mean(dim=0)).abs().max() > 1e-3


def test_features_against_a_direct_forward_pass(
    feature_folder: Path, over_features: VisionLabeler
) -> None:
    """A labeled sequence gets the same distribution as from the model itself."""
    model = FaceSequenceClassifier.from_pretrained(feature_folder).eval()
    features = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)
    with torch.inference_mode():
        expected = torch.softmax(model(torch.from_numpy(features)[None]).logits[0], dim=-1)
    np.testing.assert_allclose(over_features.label([features])[0], expected, atol=1e-5)


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("size", [24, 32, 80, 224])
def test_pixels_equal_the_processors_own(tmp_path: Path, size: int, resample: int) -> None:
    """Pixels are off PIL's by at most one gray level in 255, and not at all without a resize."""
    settings_ = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "resample": resample,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
    }

    write_image(tmp_path, settings_)
    frames = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    expected = processor(list(frames), return_tensors="pt")["pixel_values"]

    tolerance = 1e-5 if size == 32 else 1.01 / 255 / 0.2
    torch.testing.assert_close(FrameInputs(tmp_path)(frames, CPU), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "settings_",
    [
        {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": 32},
            "crop_pct": 0.875,
        },
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 40},
            "crop_size": 32,
        },
        {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 32, "width": 32}},
    ],
)
def test_unusual_processors_are_left_to_themselves(
    tmp_path: Path, settings_: dict[str, Any]
) -> None:
    """Crops and offsets that only some processors have come out exactly as transformers' own."""
    write_image(tmp_path, settings_)
    frames = crops(3, size=48)
    expected = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(
        list(frames), return_tensors="pt"
    )
    torch.testing.assert_close(FrameInputs(tmp_path)(frames, CPU), expected["pixel_values"])


def test_crops_of_two_sizes_share_a_window(over_crops: VisionLabeler) -> None:
    """Crops of each size are batched apart and resized on their own."""
    faces = [crops(2, size=32), crops(3, size=64, seed=1), crops(1, size=32, seed=2)]
    expected = np.stack([over_crops.label([one])[0] for one in faces])
    np.testing.assert_allclose(np.stack(over_crops.label(faces)), expected, atol=1e-5)


def test_no_face_is_missing(over_crops: VisionLabeler) -> None:
    """A video without a face is missing with a reason, and its neighbor has a label."""
    none, one = over_crops.label([crops(0), crops(1)])
    assert isinstance(none, Missing)
    assert none.reason.startswith("no_face: ")
    assert isinstance(one, np.ndarray)


def test_features_of_another_width_are_missing(over_features: VisionLabeler) -> None:
    """A face.npy of another width is refused with both widths, and so is an empty one."""
    wrong, empty, good = over_features.label(
        [np.zeros((3, 5), "f4"), np.zeros((0, 6), "f4"), np.zeros((3, 6), "f4")]
    )

    assert isinstance(wrong, Missing)
    assert "got 3 frames of 5 values, expected at least 1 of 6" in wrong.reason
    assert isinstance(empty, Missing)
    assert isinstance(good, np.ndarray)


def test_the_checkpoint_decides_what_is_looked_at(
    over_crops: VisionLabeler, over_features: VisionLabeler
) -> None:
    """An image classifier looks at crops only, a sequence classifier at features only."""
    features = np.zeros((2, 6), np.float32)
    utterance = Utterance(index=0, key="a", offset=0, size=0, face_features=features)

    assert over_crops.input_of(utterance) is None
    assert over_features.input_of(utterance) is features


def test_an_unknown_processor_is_refused(tmp_path: Path) -> None:
    """A checkpoint with an unknown processor is refused."""
    write_image(tmp_path, {"image_processor_type": "NoSuchImageProcessor"})
    with pytest.raises(ConfigError, match="no usable preprocessor_config"):
        make(tmp_path, frames=1)
