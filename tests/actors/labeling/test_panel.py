"""The whole panel with tiny real labelers: what becomes a row, whatever its neighbors are."""

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.inference import runtime as precision
from actors.labeling.config import PanelConfig
from actors.labeling.identity import panel_identity
from actors.labeling.labelers.audio import AudioLabeler
from actors.labeling.labelers.config import (
    LabelerConfig,
    SpeechRecognitionConfig,
    TextLabelerConfig,
)
from actors.labeling.labelers.speech_recognition import SpeechRecognizer
from actors.labeling.labelers.text import TextLabeler
from actors.labeling.labelers.vision import VisionLabeler
from actors.labeling.panel import Panel
from actors.reading.utterance import Utterance
from shards.config import ConfigError
from shards.emotions import EMOTIONS
from shards.tables.predictions import Prediction
from tests import ROOT
from tests.actors.inference.runtimes import cpu_runtime
from tests.actors.inference.tiny_checkpoints import (
    WORDS,
    write_audio,
    write_image,
    write_text,
    write_whisper,
)

OBJECTIVE_WIDTHS = {"sentiment": 3, "face_embedding": 32, "speaker_vector": 32}
ONE_AT_A_TIME = {"text_tokens": 1, "face_frames": 1}
LARGE_BATCHES = {"audio_seconds": 60, "text_tokens": 4_096, "face_frames": 512}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of every kind and `panel.yaml`, which uses them all."""
    folder = tmp_path_factory.mktemp("panel")
    write_audio(folder / "audio", "hubert")
    write_image(folder / "image")
    write_text(folder / "text")
    write_text(folder / "sentiment", {0: "negative", 1: "neutral", 2: "positive"})
    write_whisper(folder / "whisper")

    values = {
        "audio": {"checkpoint": "audio"},
        "vision": {"checkpoint": "image"},
        "text": {"checkpoint": "text"},
        "speech_recognition": {"checkpoint": "whisper"},
        "objectives": {
            "sentiment": {"checkpoint": "sentiment"},
            "face_embedding": {"checkpoint": "image"},
            "speaker_vector": {"checkpoint": "audio"},
        },
        "precision": "float32",
    }

    (folder / "panel.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="module")
def panel(folder: Path) -> Panel:
    return load(folder)


@pytest.fixture(scope="module")
def batching_panel(folder: Path) -> Panel:
    """The same panel with batches as large as a GPU's."""
    return load(folder, batching=LARGE_BATCHES)


@pytest.fixture(scope="module")
def rows_alone(folder: Path) -> list[Prediction]:
    """The rows of a panel that takes single items, for each utterance by itself."""
    single = load(folder, batching=ONE_AT_A_TIME)
    return [single.label([item])[0] for item in WINDOW]


def load(folder: Path, **changes: Any) -> Panel:
    values = yaml.safe_load((folder / "panel.yaml").read_text()) | changes
    path = folder / f"panel-{hashlib.sha256(repr(changes).encode()).hexdigest()[:8]}.yaml"
    path.write_text(yaml.safe_dump(values))

    panel = Panel(PanelConfig.load(str(path)))
    panel.setup(num_threads=1)
    return panel


def utterance(number: int) -> Utterance:
    """Sound, faces and words that follow from `number`, as does which of them are there."""
    generator = np.random.default_rng(number)
    has_audio, has_faces, has_words = number % 5 != 1, number % 3 != 2, number % 4 < 2
    length = int(generator.integers(2_000, 12_000))

    return Utterance(
        index=number,
        key=f"utterance-{number}",
        offset=512 * number,
        size=1_000 + number,
        speaker=f"speaker-{number % 3}",
        emotion="anger",
        duration_seconds=length / 16_000,
        audio=(0.1 * generator.normal(size=length)).astype(np.float32) if has_audio else None,
        faces=generator.integers(0, 256, (1 + number % 4, 32, 32, 3), dtype=np.uint8)
        if has_faces
        else None,
        transcript=" ".join(generator.choice(WORDS, size=1 + number % 9)) if has_words else None,
    )


WINDOW = [utterance(number) for number in range(14)]


def fingerprint(predictions: list[Prediction]) -> str:
    """A digest of every bit of every row."""
    digest = hashlib.sha256()
    for row in predictions:
        columns = (
            row.audio,
            row.vision,
            row.text,
            *(row.objectives.get(name) for name in sorted(OBJECTIVE_WIDTHS)),
        )

        digest.update(
            repr(
                (
                    row.key,
                    row.transcript,
                    row.error,
                    [c if c is None else c.tobytes() for c in columns],
                )
            ).encode()
        )

    return digest.hexdigest()


def label_in_this_process(folder: str) -> str:
    return fingerprint(load(Path(folder)).label(WINDOW))


def assert_same_labels(found: list[Prediction], expected: list[Prediction]) -> None:
    """Check that rows are equal to float32 rounding, and never name another emotion."""
    for left, right in zip(found, expected, strict=True):
        assert (left.key, left.transcript, left.error) == (right.key, right.transcript, right.error)

        for name in ("audio", "vision", "text"):
            one, other = getattr(left, name), getattr(right, name)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one, other, atol=1e-5)
                assert one.argmax() == other.argmax()

        assert left.objectives.keys() == right.objectives.keys()
        for name, values in left.objectives.items():
            np.testing.assert_allclose(values, right.objectives[name], atol=1e-5)


def test_rows_come_in_order_and_keep_what_the_reader_knew(panel: Panel) -> None:
    """Each utterance has one row, with what the reader knew of it; the caller names the shard."""
    rows = panel.label(WINDOW)
    assert len(rows) == len(WINDOW)

    for row, item in zip(rows, WINDOW, strict=True):
        assert (row.key, row.offset, row.size, row.speaker) == (
            item.key,
            item.offset,
            item.size,
            item.speaker,
        )
        assert (row.duration_seconds, row.emotion, row.shard) == (
            item.duration_seconds,
            "anger",
            "",
        )

    assert panel.label([]) == []


def test_missing_modalities_are_empty_and_no_error(panel: Panel) -> None:
    """A column is filled exactly where the utterance has the modality, or words could be heard."""
    for row, item in zip(panel.label(WINDOW), WINDOW, strict=True):
        assert (row.audio is not None) == (item.audio is not None)
        assert (row.vision is not None) == (item.faces is not None)
        assert (row.text is not None) == (item.transcript is not None or item.audio is not None)

        expected = {
            "sentiment": row.text,
            "face_embedding": item.faces,
            "speaker_vector": item.audio,
        }
        assert {name: len(values) for name, values in row.objectives.items()} == {
            name: OBJECTIVE_WIDTHS[name] for name, given_ in expected.items() if given_ is not None
        }

        for labels in filter(lambda labels: labels is not None, (row.audio, row.vision, row.text)):
            assert labels.dtype == np.float32
            assert labels.sum() == pytest.approx(1, abs=1e-5)

        has_anything = (
            item.audio is not None or item.faces is not None or item.transcript is not None
        )
        assert (row.error is None) == has_anything


def test_each_column_is_its_labelers_own(panel: Panel, folder: Path) -> None:
    """A complete utterance gets what each labeler says when it is asked directly."""
    item = utterance(0)
    runtime = cpu_runtime()

    audio = AudioLabeler(LabelerConfig(checkpoint=str(folder / "audio")), window_seconds=30.0)
    vision = VisionLabeler(LabelerConfig(checkpoint=str(folder / "image")))
    text = TextLabeler(LabelerConfig(checkpoint=str(folder / "text")))

    for labeler, name in ((audio, "audio"), (vision, "image"), (text, "text")):
        labeler.setup(folder / name, runtime)

    (row,) = panel.label([item])
    np.testing.assert_array_equal(row.audio, audio.label([item.audio])[0])
    np.testing.assert_array_equal(row.vision, vision.label([item.faces])[0])
    np.testing.assert_array_equal(row.text, text.label([item.transcript])[0])


def test_transcripts_are_made_where_missing_and_only_there(panel: Panel, folder: Path) -> None:
    """Transcripts of the corpus stay, missing ones are heard, and the text labeler reads both."""
    recognizer = SpeechRecognizer(SpeechRecognitionConfig(checkpoint=str(folder / "whisper")))
    recognizer.setup(folder / "whisper", cpu_runtime())
    text = TextLabeler(LabelerConfig(checkpoint=str(folder / "text")))
    text.setup(folder / "text", cpu_runtime())

    num_heard = 0
    for row, item in zip(panel.label(WINDOW), WINDOW, strict=True):
        if item.transcript is not None or item.audio is None:
            assert row.transcript == item.transcript
            continue

        num_heard += 1
        assert row.transcript == recognizer.transcribe([item.audio])[0]
        np.testing.assert_allclose(row.text, text.label([row.transcript])[0], atol=1e-5)

    assert num_heard > 3


def test_an_utterance_with_an_error_passes_through(panel: Panel) -> None:
    """Nothing looks at such an utterance, and its neighbors are labeled as without it."""
    broken = utterance(0)
    broken.error = "corrupt_audio: cut short"

    rows = panel.label([WINDOW[3], broken, WINDOW[4]])

    assert rows[1].error == "corrupt_audio: cut short"
    assert (rows[1].audio, rows[1].vision, rows[1].text, dict(rows[1].objectives)) == (
        None,
        None,
        None,
        {},
    )
    assert_same_labels([rows[0], rows[2]], panel.label([WINDOW[3], WINDOW[4]]))


def test_an_utterance_with_nothing_in_it_says_so(panel: Panel) -> None:
    """An empty row's reason is the reader's remark, or else that there is nothing to label."""
    empty = Utterance(index=0, key="empty", offset=0, size=1)
    remarked = Utterance(
        index=1, key="faceless", offset=1, size=1, remark="no_face: in 12 pictures"
    )

    reasons = [row.error for row in panel.label([empty, remarked])]

    assert reasons[0] is not None
    assert reasons[0].startswith("nothing_to_label: ")
    assert reasons[1] == "no_face: in 12 pictures"


def test_what_fails_in_one_modality_leaves_the_others(panel: Panel) -> None:
    """A modality that fails gives its reason once, beside the other modalities' predictions."""
    short, broken, blank = utterance(0), utterance(0), utterance(0)
    short.audio = np.zeros(100, np.float32)
    broken.audio = np.full(5_000, np.nan, np.float32)
    blank.transcript = " "

    rows = panel.label([short, broken, blank])

    assert [row.audio is None for row in rows] == [True, True, False]
    assert [row.text is None for row in rows] == [False, False, True]
    assert all(row.vision is not None for row in rows)

    codes = [[reason.split(":")[0] for reason in str(row.error).split("; ")] for row in rows]
    assert codes == [["audio_too_short"], ["non_finite_prediction"], ["empty_transcript"]]


def test_the_same_window_gives_the_same_bits(panel: Panel, batching_panel: Panel) -> None:
    """A window gets the same bits each time it is labeled, and is not changed by it."""
    before = [None if item.audio is None else item.audio.copy() for item in WINDOW]

    for one in (panel, batching_panel):
        assert fingerprint(one.label(WINDOW)) == fingerprint(one.label(WINDOW))

    for audio, item in zip(before, WINDOW, strict=True):
        np.testing.assert_array_equal(audio, item.audio)


def test_two_processes_give_the_same_bits(folder: Path) -> None:
    """Another process makes the same bytes of a shard."""
    code = (
        "import sys; from tests.actors.labeling.test_panel import label_in_this_process as f; "
        "sys.stdout.write(f(sys.argv[1]))"
    )

    other = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert other.stdout == label_in_this_process(str(folder))


@given(st.permutations(range(len(WINDOW))), st.sets(st.integers(1, len(WINDOW) - 1), max_size=4))
@settings(max_examples=8, deadline=None)
def test_a_label_does_not_depend_on_its_window(
    batching_panel: Panel, rows_alone: list[Prediction], order: list[int], cuts: set[int]
) -> None:
    """In any order, windows and batches, every utterance gets the row that it gets alone."""
    found: list[Prediction] = []
    edges = [0, *sorted(cuts), len(order)]
    for start, end in itertools.pairwise(edges):
        found += batching_panel.label([WINDOW[index] for index in order[start:end]])

    assert_same_labels(found, [rows_alone[index] for index in order])


def test_what_made_a_label_is_on_record(panel: Panel, folder: Path) -> None:
    """Each model's checkpoint, digest and precision are recorded, and each stage's seconds."""
    identity = panel_identity(PanelConfig.load(str(folder / "panel.yaml")))
    assert set(panel.labelers) == {
        "audio",
        "vision",
        "text",
        "speech_recognition",
        *OBJECTIVE_WIDTHS,
    }

    for name, labeler in panel.labelers.items():
        emotions = {"emotions": ",".join(EMOTIONS)} if name in ("audio", "vision", "text") else {}
        assert labeler == {**identity.labelers[name], "precision": "float32"} | emotions
        assert labeler["weights"].startswith("sha256:")

    before = dict(panel.seconds)
    panel.label(WINDOW)

    assert set(before) == set(panel.labelers)
    assert all(panel.seconds[name] > before[name] for name in before)


@pytest.mark.parametrize(("max_drift", "expected"), [(1e-9, "float32"), (0.99, "bfloat16")])
def test_auto_precision_follows_the_measured_drift(
    folder: Path, monkeypatch: pytest.MonkeyPatch, max_drift: float, expected: str
) -> None:
    """Beyond the bound every model uses float32, and within it bfloat16, to the bit."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)

    automatic = load(folder, precision="auto", max_drift=max_drift)
    assert {labeler["precision"] for labeler in automatic.labelers.values()} == {expected}

    forced = load(folder, precision=expected)
    assert fingerprint(automatic.label(WINDOW)) == fingerprint(forced.label(WINDOW))


def test_bfloat16_moves_probabilities_by_little(folder: Path, panel: Panel) -> None:
    """Every distribution stays within a tenth of float32's, although the toy heads spread wide."""
    pairs = zip(load(folder, precision="bfloat16").label(WINDOW), panel.label(WINDOW), strict=True)

    for half, full in pairs:
        for name in ("audio", "vision"):
            if getattr(full, name) is not None:
                np.testing.assert_allclose(getattr(half, name), getattr(full, name), atol=0.1)


def test_another_nodes_checkpoints_are_refused(folder: Path, tmp_path: Path) -> None:
    """A worker is refused whose checkpoint folder differs from the driver's."""
    checkpoint = write_text(tmp_path / "text")
    config = PanelConfig(text=TextLabelerConfig(checkpoint=str(checkpoint)), precision="float32")
    identity = panel_identity(config)

    (checkpoint / "config.json").write_bytes((checkpoint / "config.json").read_bytes() + b"\n")
    with pytest.raises(ConfigError, match="every node must see the same"):
        Panel(config, identity).setup(num_threads=1)


def test_setup_takes_its_share_of_the_processor(folder: Path) -> None:
    """torch computes with as many threads as the worker was given."""
    config = PanelConfig(text=TextLabelerConfig(checkpoint=str(folder / "text")))

    try:
        Panel(config).setup(num_threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
