"""Pickled weights become safetensors, bit for bit; what would execute something is refused."""

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForMaskedLM, BertConfig, HubertConfig, HubertModel

from cluster.cli import main
from shards.config import ConfigError
from tests.trainers.models.encoders.test_layerwise import CONVOLUTIONS, SMALL, sounds
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.models.encoders.speech.waveform import normalizes
from trainers.preparation.converting.config import ConvertConfig
from trainers.preparation.converting.converting import convert


class Malicious:
    """What executes a command when an unrestricted reader opens it."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._trace}",)


def write_pickled(folder: Path) -> dict[str, Tensor]:
    """Write a HuBERT with its weights in pytorch_model.bin alone."""
    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**SMALL, **CONVOLUTIONS, feat_extract_norm="layer"))
    model.config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true}')
    (folder / "notes.py").write_text("never copied")
    weights = model.state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    return weights


def converted(source: Path, out: Path) -> dict[str, Tensor]:
    convert(ConvertConfig(file_or_folder=str(source), out=str(out)))
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("given", [".", "pytorch_model.bin"])
def test_the_refusal_names_the_command_and_the_command_helps(given: str, tmp_path: Path) -> None:
    """A folder that is refused opens after it was converted, with the same weights."""
    folder, out = tmp_path / "pickled", tmp_path / "new"
    weights = write_pickled(folder)
    with pytest.raises(ConfigError, match=r"emostream convert \S+pickled --out"):
        load_encoder(str(folder))

    assert main(["convert", str(folder / given), "--out", str(out)]) == 0
    found = load_file(out / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }

    model = HubertModel(HubertConfig.from_pretrained(folder))
    model.load_state_dict(weights)
    expected = LayerwiseEncoder(model, normalize=normalizes(model.config)).eval()
    loaded = load_encoder(str(out)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(*sounds())[0], expected(*sounds())[0])


def test_a_malicious_pickle_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It executes nothing, is named with what it asks for, and leaves no folder."""
    write_pickled(tmp_path / "bad")
    trace, path = tmp_path / "trace", tmp_path / "bad" / "pytorch_model.bin"
    out = tmp_path / "new"

    for save in (
        lambda content: torch.save(content, path),
        lambda content: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content: path.write_bytes(pickle.dumps(content, protocol=0)),
        lambda content: path.write_bytes(pickle.dumps(content, protocol=4)),
    ):
        save({"weight": torch.ones(2), "other": Malicious(trace)})
        assert main(["convert", str(tmp_path / "bad"), "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert "nothing of it was executed: it asks for" in said
        assert "posix.system" in said
        assert str(path) in said
        assert not trace.exists()
        assert not out.exists()


def test_tied_weights_keep_all_their_names(tmp_path: Path) -> None:
    """Weights that share memory are each written, and transformers opens the model."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=8, vocab_size=20)
    model = AutoModelForMaskedLM.from_config(config)
    model.config.save_pretrained(tmp_path / "tied")
    torch.save(model.state_dict(), tmp_path / "tied" / "pytorch_model.bin")

    report = convert(
        ConvertConfig(file_or_folder=str(tmp_path / "tied"), out=str(tmp_path / "new"))
    )
    assert report.num_tied >= 1
    found = load_file(tmp_path / "new" / "model.safetensors")
    assert found.keys() == model.state_dict().keys()

    opened, said = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "new", use_safetensors=True, output_loading_info=True
    )
    assert not said["missing_keys"]
    words = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(opened.eval()(words).logits, model.eval()(words).logits)


def test_a_checkpoint_in_parts_becomes_one(tmp_path: Path) -> None:
    """The parts that the index names are put together; one outside the folder is refused."""
    folder = tmp_path / "parts"
    weights = write_pickled(folder)
    (folder / "pytorch_model.bin").unlink()
    names, places = sorted(weights), {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)

    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    found = converted(folder, tmp_path / "new")
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())

    index.write_text(json.dumps({"weight_map": {"a": "../outside.bin"}}))
    with pytest.raises(ConfigError, match="in the same folder"):
        converted(folder, tmp_path / "other")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model": {"a": torch.ones(1)}, "args": argparse.Namespace(arch="x")}, "args, model"),
        ([torch.ones(1)], "got list"),
        ({}, "nothing in it"),
    ],
)
def test_an_unknown_layout_is_described(content: Any, reason: str, tmp_path: Path) -> None:
    """The error says what was in the file, and which layouts are known."""
    write_pickled(tmp_path / "odd")
    torch.save(content, tmp_path / "odd" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=rf"{reason}, expected weights in a layout of "):
        converted(tmp_path / "odd", tmp_path / "new")


def test_what_is_missing_or_damaged_is_said(tmp_path: Path) -> None:
    """A damaged file, a lost configuration and a used folder are each an error with a remedy."""
    folder = tmp_path / "pickled"
    write_pickled(folder)
    (tmp_path / "new").mkdir()
    converted(folder, tmp_path / "new")
    with pytest.raises(ConfigError, match="expected a new one"):
        converted(folder, tmp_path / "new")

    path = folder / "pytorch_model.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="get the file again"):
        converted(folder, tmp_path / "other")

    path.write_bytes(whole)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        converted(folder, tmp_path / "other")

    path.unlink()
    with pytest.raises(ConfigError, match="holds 0 files"):
        converted(folder, tmp_path / "other")
