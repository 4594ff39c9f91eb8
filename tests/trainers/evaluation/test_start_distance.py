"""The distance from the start is that of embeddings which transformers alone gives."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cosine
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from shards.config import ConfigError
from shards.loading.index import CorpusIndex, read_index
from shards.media.sound_format import SAMPLE_RATE_HZ
from tests.trainers.models.encoders.test_layerwise import CONVOLUTIONS, SMALL
from tests.trainers.models.test_recognizer import make as recognizer
from tests.worlds.training import PER_SPEAKER, make_utterance, write_training_world
from trainers.evaluation import start_distance
from trainers.evaluation.config import EvaluateConfig
from trainers.evaluation.start_distance import (
    describe_distances,
    distances_from_start,
    load_start,
)
from trainers.models.encoders.statistics import StatisticsEncoderConfig
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.recognizer_config import RecognizerConfig

NUM_SPEAKERS = 2


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> CorpusIndex:
    """Return the utterances of two speakers, which differ in their lengths."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("packed")
    write_training_world(folder)
    index = read_index(f"{folder}/test-*.tar")
    return index.take(np.arange(NUM_SPEAKERS * PER_SPEAKER))


def write_hubert(folder: Path, seed: int, **changes: Any) -> HubertModel:
    torch.manual_seed(seed)
    model = HubertModel(HubertConfig(**(SMALL | CONVOLUTIONS | changes))).eval()
    model.save_pretrained(folder)
    return model


def recognizer_on(model: HubertModel, **options: Any) -> EmotionRecognizer:
    """Return a recognizer whose encoder has the weights of `model`."""
    normalize = model.config.feat_extract_norm == "layer"
    made = EmotionRecognizer(
        RecognizerConfig(
            encoder=model.config.to_dict(),
            names=["anger", "neutral"],
            normalise=normalize,
            **options,
        )
    )
    made.encoder.model.load_state_dict(model.state_dict())
    return made.eval()


def options(start: object, **changes: Any) -> EvaluateConfig:
    given = {"checkpoint": ("best",), "shards": "*.tar", "out": "out", "start": str(start)}
    return EvaluateConfig(**(given | changes))


def measured(model: EmotionRecognizer, start: Path, index: CorpusIndex) -> NDArray[np.float64]:
    encoder = load_start(options(start), model)
    assert encoder is not None
    return distances_from_start(model, encoder, index)


def by_hand(models: list[HubertModel], index: CorpusIndex) -> list[float]:
    """Return the distances by transformers, one utterance at a time, and by scipy."""
    normalize = models[0].config.feat_extract_norm == "layer"
    prepare = Wav2Vec2FeatureExtractor(do_normalize=normalize)

    distances = []
    for number in range(len(index)):
        speaker, place = divmod(number, PER_SPEAKER)
        sample = make_utterance("test", speaker, place)
        assert sample.key == index.keys(np.asarray([number]))[0]
        assert sample.audio is not None
        sound, rate = soundfile.read(io.BytesIO(sample.audio), dtype="float32")
        heard = prepare(sound, sampling_rate=rate, return_tensors="pt").input_values
        with torch.no_grad():
            mine, theirs = (model(heard).last_hidden_state[0].mean(dim=0) for model in models)
        distances.append(float(cosine(mine.numpy(), theirs.numpy())))

    assert rate == SAMPLE_RATE_HZ
    return distances


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_distance_is_that_of_transformers(
    index: CorpusIndex, tmp_path: Path, norm: str
) -> None:
    """Two encoders are as far apart as their mean frames; utterances of a batch do not matter."""
    start = write_hubert(tmp_path / "start", 1, feat_extract_norm=norm)
    mine = write_hubert(tmp_path / "mine", 2, feat_extract_norm=norm)

    found = measured(recognizer_on(mine), tmp_path / "start", index)
    assert min(found) > 0.01
    assert found == pytest.approx(by_hand([mine, start], index), abs=2e-5)


def test_an_encoder_is_not_away_from_itself(index: CorpusIndex, tmp_path: Path) -> None:
    """The distance is 0 to the same weights, also when a prefix changes how they are used."""
    model = write_hubert(tmp_path / "start", 1)
    assert measured(recognizer_on(model), tmp_path / "start", index).max() < 1e-12

    small = {"code_width": 8, "num_prefixes": 2, "num_codes": 12}
    personal = recognizer_on(model, fusion="prefix", extractor=small)
    assert measured(personal, tmp_path / "start", index).max() < 1e-12


def test_batchmates_change_nothing(
    index: CorpusIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An utterance is as far from the start by itself as among others, with their padding."""
    write_hubert(tmp_path / "start", 1)
    model = recognizer_on(write_hubert(tmp_path / "mine", 2))
    together = measured(model, tmp_path / "start", index)

    monkeypatch.setattr(start_distance, "BATCH_SIZE", 1)
    assert measured(model, tmp_path / "start", index) == pytest.approx(together, abs=1e-5)


def test_a_recognizer_can_be_the_start(index: CorpusIndex, tmp_path: Path) -> None:
    """What a run exported is a start like an encoder alone: its own encoder is compared."""
    model = recognizer("none")
    model.save_pretrained(tmp_path)
    assert measured(model.eval(), tmp_path, index).max() < 1e-12


def test_the_mean_has_an_interval_over_speakers() -> None:
    """One speaker gives no interval; the interval of equal speakers is a point."""
    speakers = np.asarray(["a", "a", "b", "b"], dtype=object)
    found = describe_distances(options("start"), np.asarray([0.1, 0.3, 0.0, 0.4]), speakers)
    assert found["cosine_distance"] == pytest.approx(0.2)
    assert found["interval"] == pytest.approx([0.2, 0.2])
    assert (found["encoder"], found["number"]) == ("start", 4)

    apart = describe_distances(options("start"), np.asarray([0.1, 0.1, 0.3, 0.3]), speakers)
    assert apart["interval"] == pytest.approx([0.1, 0.3])
    alone = describe_distances(options("start"), np.asarray([0.1, 0.3]), speakers[:2])
    assert alone["interval"] == [None, None]


def test_what_the_model_cannot_have_started_from_is_refused(tmp_path: Path) -> None:
    """Another width, another number of layers and another family are refused, with both named."""
    model = recognizer_on(write_hubert(tmp_path / "mine", 1))
    write_hubert(tmp_path / "wide", 1, hidden_size=64)
    wide = "got hubert with 3 layers of width 64, expected hubert with 3 layers of width 32"
    with pytest.raises(ConfigError, match=wide):
        load_start(options(tmp_path / "wide"), model)
    with pytest.raises(
        ConfigError, match=r"got hubert .* expected emostream_sequence with 2 layers"
    ):
        load_start(options(tmp_path / "mine"), recognizer("none"))

    with pytest.raises(ConfigError, match=r"--start nowhere: no such folder.* --start-revision"):
        load_start(options("nowhere"), model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modality": "face"}, "the evaluated model is one of face, expected one of audio"),
        (
            {"encoder": {"model_type": StatisticsEncoderConfig.model_type}},
            "classifies statistics and has no encoder",
        ),
    ],
)
def test_models_without_a_trained_encoder_of_sound_are_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    """Faces, video and statistics have nothing to compare, which the error says."""
    with pytest.raises(ConfigError, match=message):
        load_start(options(tmp_path), recognizer("none", **values))
