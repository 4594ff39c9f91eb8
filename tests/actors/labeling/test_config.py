import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.inference.checkpoints import CheckpointConfig
from actors.inference.config import BatchingConfig
from actors.labeling.config import ObjectivesConfig, PanelConfig
from actors.labeling.identity import panel_identity
from actors.labeling.labelers.config import (
    AcousticsConfig,
    LabelerConfig,
    SpeechRecognitionConfig,
    TextLabelerConfig,
)
from actors.reading.config import MediaConfig
from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.media.face_config import FaceConfig
from tests.actors.inference.tiny_checkpoints import write_face_sequence, write_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FORMER_DIGEST = "ec5a35318ca09832a63beba48c85b1de4813902d45bbb05a2995be035dbc5545"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints `face` and `text`, and room for a panel file."""
    write_face_sequence(tmp_path / "face")
    write_text(tmp_path / "text")
    return tmp_path


@pytest.fixture
def config(folder: Path) -> PanelConfig:
    return PanelConfig(
        vision=LabelerConfig(checkpoint=str(folder / "face")),
        text=TextLabelerConfig(checkpoint=str(folder / "text")),
        objectives=ObjectivesConfig(sentiment=CheckpointConfig(checkpoint=str(folder / "text"))),
    )


def write_panel(folder: Path, values: Any) -> str:
    path = folder / "panel.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_checkpoints_beside_the_panel_file_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative names mean folders beside the panel file, wherever the command is run."""
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")

    values = {"vision": {"checkpoint": "face"}, "objectives": {"sentiment": {"checkpoint": "text"}}}
    loaded = PanelConfig.load(write_panel(folder, values))
    assert {name: Path(one.checkpoint) for name, one in loaded.checkpoints().items()} == {
        "vision": folder / "face",
        "sentiment": folder / "text",
    }


@pytest.mark.parametrize("part", ["audio", "vision", "text", "speech_recognition"])
@pytest.mark.parametrize("revision", [None, "main", COMMIT[:10]])
def test_a_hub_name_without_its_commit_is_refused(
    folder: Path, part: str, revision: str | None
) -> None:
    """A branch is refused wherever a panel names a model, as it may change labels halfway."""

    values = {"text": {"checkpoint": "text"}} | {
        part: {"checkpoint": "owner/model", "revision": revision}
    }
    with pytest.raises(ConfigError, match="expected the full commit"):
        PanelConfig.load(write_panel(folder, values))


def test_a_hub_name_with_its_commit_is_identified_by_it(folder: Path) -> None:
    """Nothing is downloaded, and another commit makes another panel."""
    digests = set()
    for revision in (COMMIT, COMMIT[::-1]):
        values = {"audio": {"checkpoint": "owner/model", "revision": revision}}
        identity = panel_identity(PanelConfig.load(write_panel(folder, values)))
        assert identity.labelers["audio"] == {"checkpoint": "owner/model", "revision": revision}
        digests.add(identity.digest)

    assert len(digests) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "got list, expected options"),
        ("audio: {", "not readable as YAML"),
        ("{}", "the panel has no labeler"),
        ("{text: {checkpoint: text}, window_seconds: 500}", "window_seconds: got 500"),
        ("{text: {checkpoint: text}, max_drift: 1.5}", "max_drift: got 1.5"),
        ("{text: {checkpoint: text}, precision: float16}", "precision"),
        ("{text: {checkpoint: text}, batching: {text_tokens: 0}}", "text_tokens: got 0"),
        ("{text: {checkpoint: text}, media: {max_audio_seconds: -1}}", "max_audio_seconds: got -1"),
        (
            "{text: {checkpoint: text, label_names: {calm: quiet}}}",
            "label_names: got 'quiet' for 'calm'",
        ),
        ("{text: {checkpoint: text}, color: red}", "color"),
    ],
)
def test_a_panel_file_that_cannot_be_meant_is_refused(
    folder: Path, content: str, message: str
) -> None:
    """Every error names the option, or what the file holds instead of options."""
    (folder / "panel.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        PanelConfig.load(str(folder / "panel.yaml"))


def test_a_panel_file_that_is_not_there(tmp_path: Path) -> None:
    """The error names the file that is missing."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: not found"):
        PanelConfig.load(str(tmp_path / "nowhere.yaml"))


def test_what_changes_no_label_leaves_the_panel_the_same(folder: Path, config: PanelConfig) -> None:
    """Batch sizes may be tuned and checkpoint folders moved without labeling anything again."""
    digest = panel_identity(config).digest

    tuned = dataclasses.replace(
        config, batching=BatchingConfig(audio_seconds=9, text_tokens=9, face_frames=9)
    )
    assert panel_identity(tuned).digest == digest

    moved = (folder / "face").rename(folder / "moved")
    elsewhere = dataclasses.replace(config, vision=LabelerConfig(checkpoint=str(moved)))
    assert panel_identity(elsewhere).digest == digest


def test_whatever_can_change_a_label_makes_another_panel(folder: Path, config: PanelConfig) -> None:
    """Every other setting and the contents of every file give the panel another digest."""
    text = str(folder / "text")
    detector = folder / "detector.onnx"
    detector.write_bytes(b"one")

    changed = [
        config,
        dataclasses.replace(config, precision="float32"),
        dataclasses.replace(config, max_drift=0.01),
        dataclasses.replace(config, window_seconds=20.0),
        dataclasses.replace(config, vision=None),
        dataclasses.replace(
            config, text=TextLabelerConfig(checkpoint=text, drop_labels=("surprise",))
        ),
        dataclasses.replace(
            config, text=TextLabelerConfig(checkpoint=text, label_names={"surprise": "fear"})
        ),
        dataclasses.replace(config, objectives=ObjectivesConfig(acoustics=AcousticsConfig())),
        dataclasses.replace(
            config, objectives=ObjectivesConfig(acoustics=AcousticsConfig(frames="all"))
        ),
        dataclasses.replace(config, objectives=ObjectivesConfig(face_features=20)),
        dataclasses.replace(config, speech_recognition=SpeechRecognitionConfig(checkpoint=text)),
        dataclasses.replace(
            config, speech_recognition=SpeechRecognitionConfig(checkpoint=text, language="de")
        ),
        dataclasses.replace(config, media=MediaConfig(max_audio_seconds=60)),
        dataclasses.replace(config, media=MediaConfig(faces=FaceConfig(frames_per_second=1.0))),
        dataclasses.replace(config, media=MediaConfig(faces=FaceConfig(detector=str(detector)))),
    ]

    digests = [panel_identity(one).digest for one in changed]

    detector.write_bytes(b"two")
    digests.append(panel_identity(changed[-1]).digest)

    (folder / "face" / "config.json").write_bytes(
        (folder / "face" / "config.json").read_bytes() + b"\n"
    )
    digests.append(panel_identity(config).digest)

    assert len(set(digests)) == len(digests)


def test_a_panel_without_later_objectives_keeps_its_digest() -> None:
    """Options that came later change no digest where they are not used, and so no table.

    The digest was computed by the release before these options.
    """
    values = {"objectives": {"sentiment": {"checkpoint": "org/text", "revision": "0" * 40}}}
    config = from_mapping(PanelConfig, values)

    assert panel_identity(config).digest == FORMER_DIGEST


def test_the_former_egemaps_option_names_its_successor(tmp_path: Path) -> None:
    """What counted unvoiced frames is not taken for what does not."""
    (tmp_path / "panel.yaml").write_text("objectives: {egemaps: true}\n")

    with pytest.raises(ConfigError, match=r"acoustics: \{features: egemaps, frames: all\}"):
        PanelConfig.load(str(tmp_path / "panel.yaml"))


def test_one_column_has_one_maker(tmp_path: Path) -> None:
    """Crops and features of faces would both become the face embedding."""
    with pytest.raises(ConfigError, match="expected one of the two"):
        ObjectivesConfig(
            face_embedding=CheckpointConfig(checkpoint=str(tmp_path)), face_features=20
        )
