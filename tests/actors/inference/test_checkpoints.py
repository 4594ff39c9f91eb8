import shutil
from pathlib import Path

import pytest
import torch

from actors.inference.checkpoints import (
    CheckpointConfig,
    identify,
    locate,
    model_type,
    weight_digest,
)
from shards.config import ConfigError
from tests.actors.inference.tiny_checkpoints import write_face_sequence

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_face_sequence(tmp_path / "face")


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12], COMMIT.upper()])
def test_a_hub_checkpoint_needs_a_full_commit(revision: str | None) -> None:
    """Branches, tags and abbreviations are refused; the error says where to find the commit."""
    with pytest.raises(ConfigError, match=r"40 hexadecimal .*huggingface.co/owner/model/commits"):
        CheckpointConfig(checkpoint="owner/model", revision=revision)


def test_a_pinned_hub_checkpoint_is_identified_without_a_download() -> None:
    """A name and a commit identify a hub checkpoint; nothing is fetched for this."""
    config = CheckpointConfig(checkpoint="owner/model", revision=COMMIT)
    assert identify(config) == {"checkpoint": "owner/model", "revision": COMMIT}


@pytest.mark.parametrize(
    "checkpoint", ["", "no-such-folder", "/no/such/folder", "a/b/c", "https://x/y"]
)
def test_what_is_neither_folder_nor_hub_name_is_refused(checkpoint: str) -> None:
    """A mistyped path is not looked up on the hub."""
    with pytest.raises(ConfigError, match="neither a folder here nor an owner/model name"):
        CheckpointConfig(checkpoint=checkpoint, revision=COMMIT)


def test_a_folder_is_known_by_its_contents(folder: Path, tmp_path: Path) -> None:
    """The digest changes with a weight or the configuration, not with a move or with notes."""
    digest = weight_digest(folder)

    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    (moved / "README.md").write_text("trained on a Tuesday")
    assert weight_digest(moved) == digest

    (moved / "config.json").write_text((moved / "config.json").read_text().replace("anger", "ire"))
    assert weight_digest(moved) != digest

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert weight_digest(folder) != digest

    assert locate(CheckpointConfig(checkpoint=str(folder))) == folder


def test_pickled_weights_are_refused(folder: Path) -> None:
    """A checkpoint that only has a .bin is refused, and the file is never opened."""
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="Pickled weights are never opened"):
        weight_digest(folder)


def test_model_type_comes_from_config_json(folder: Path) -> None:
    """The architecture is read from config.json alone; the error says what the file lacks."""
    assert model_type(folder) == "emostream_face_sequence"

    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        model_type(folder)

    (folder / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="no model_type"):
        model_type(folder)

    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        model_type(folder)
