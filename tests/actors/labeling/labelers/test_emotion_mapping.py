import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.labeling.labelers.emotion_mapping import EmotionMapping
from shards.config import ConfigError
from shards.emotions import EMOTIONS

ODYSSEY = dict(
    enumerate(("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral"))
)
DEFAULT_DROPS = ("contempt", "other", "no_agreement")


def mapping(id2label: dict[int, str], **options: object) -> EmotionMapping:
    settings = {"drop_labels": DEFAULT_DROPS, "label_names": {}, "checkpoint": "a/b", **options}
    return EmotionMapping.of(id2label, **settings)  # type: ignore[arg-type]


def test_contempt_is_dropped_and_the_rest_renormalized() -> None:
    """The Odyssey labeler's eight classes become seven in the project's order, as in EmoCeleb."""
    probabilities = np.array([0.1, 0.05, 0.2, 0.05, 0.1, 0.05, 0.2, 0.25])
    expected = np.array([0.25, 0.1, 0.05, 0.1, 0.2, 0.05, 0.05]) / 0.8
    np.testing.assert_allclose(mapping(ODYSSEY).apply(probabilities), expected, rtol=1e-6)


def test_text_labeler_order_of_the_paper() -> None:
    """The order of the paper's text labeler is put into the project's order."""
    order = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
    probabilities = np.arange(1, 8) / 28
    mapped = mapping(dict(enumerate(order))).apply(probabilities)
    np.testing.assert_allclose(mapped, np.array([5, 1, 2, 3, 4, 6, 7]) / 28, rtol=1e-6)


def test_unknown_classes_are_refused_by_name() -> None:
    """A class that is none of the seven is refused by an error with its name and two remedies."""
    with pytest.raises(ConfigError, match=r"cannot map calm, bored .*label_names.*drop_labels"):
        mapping({0: "neutral", 1: "calm", 2: "happy", 3: "bored"})


def test_unnamed_classes_are_refused() -> None:
    """LABEL_0 and the like are refused until the panel says what they mean."""
    with pytest.raises(ConfigError, match="LABEL_0, LABEL_1"):
        mapping({0: "LABEL_0", 1: "LABEL_1"})


def test_panel_names_classes_that_speak_otherwise() -> None:
    """A class that label_names maps adds to an emotion that has a class of its own."""
    found = mapping({0: "neutral", 1: "calm", 2: "happy"}, label_names={"calm": "neutral"})
    np.testing.assert_allclose(found.apply(np.array([0.2, 0.3, 0.5]))[[0, 4]], [0.5, 0.5])


def test_a_class_with_a_meaning_is_not_dropped() -> None:
    """label_names wins over drop_labels, and a name in it that is no class is refused."""
    classes = {0: "neutral", 1: "anger", 2: "contempt"}
    found = mapping(classes, label_names={"Contempt": "anger"})
    np.testing.assert_allclose(found.apply(np.array([0.2, 0.1, 0.7]))[:2], [0.2, 0.8])
    with pytest.raises(
        ConfigError,
        match="label_names speaks of scorn, but its classes are neutral, anger, contempt",
    ):
        mapping(classes, label_names={"scorn": "anger"})


def test_a_known_class_can_be_dropped() -> None:
    """drop_labels wins over a name that could be mapped."""
    found = mapping({0: "neutral", 1: "anger", 2: "surprise"}, drop_labels=("surprise",))
    np.testing.assert_allclose(found.apply(np.array([0.3, 0.3, 0.4]))[:2], [0.5, 0.5])


def test_four_classes_leave_zeros_elsewhere() -> None:
    """A checkpoint of four emotions is allowed; those it does not know have probability 0."""
    found = mapping(dict(enumerate(("neu", "hap", "ang", "sad"))))
    assert found.known_emotions == ("neutral", "anger", "happiness", "sadness")
    np.testing.assert_allclose(found.apply(np.full(4, 0.25)), [0.25, 0.25, 0, 0, 0.25, 0.25, 0])


def test_one_emotion_is_too_few() -> None:
    """A checkpoint that knows only one emotion is refused."""
    with pytest.raises(ConfigError, match="at least 2"):
        mapping({0: "neutral", 1: "other"})


def test_all_mass_on_a_dropped_class_gives_no_prediction() -> None:
    """Probability that is all on contempt gives no prediction, as it says nothing of the seven."""
    assert mapping(ODYSSEY).apply(np.eye(8)[6]) is None


@given(st.lists(st.floats(1e-3, 1), min_size=8, max_size=8))
def test_what_comes_out_is_a_distribution(weights: list[float]) -> None:
    """Seven float32 probabilities that sum to 1 and keep the ratios of the classes kept."""
    probabilities = np.array(weights) / sum(weights)
    mapped = mapping(ODYSSEY).apply(probabilities)

    assert mapped is not None
    assert mapped.dtype == np.float32
    assert mapped.shape == (len(EMOTIONS),)
    assert mapped.sum() == pytest.approx(1, abs=1e-6)
    assert mapped[1] / mapped[0] == pytest.approx(weights[0] / weights[7], rel=1e-5)
