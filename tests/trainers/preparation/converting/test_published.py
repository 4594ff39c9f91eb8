"""`convert` makes encoders and labelers of the files that are published for fairseq and FunASR."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from shards.config import ConfigError
from tests.trainers.models.encoders.data2vec.test_published import published
from trainers.models.encoders.loading import load_encoder
from trainers.preparation.converting.config import ConvertConfig
from trainers.preparation.converting.converting import ConvertReport, convert


def run(content: Any, folder: Path) -> ConvertReport:
    torch.save(content, folder / "published.pt")
    given = ConvertConfig(file_or_folder=str(folder / "published.pt"), out=str(folder / "out"))
    return convert(given)


def test_a_file_of_fairseq_becomes_an_encoder(tmp_path: Path) -> None:
    """Beside the weights lie the training's options and its teacher, of which nothing is kept."""
    model, _, weights = published()
    teacher = {"_ema": {"blocks.0.norm1.weight": torch.zeros(1)}}
    options = argparse.Namespace(lr=[7.5e-5])
    report = run({"args": options, "cfg": None, "model": weights | teacher}, tmp_path)

    assert "fairseq" in report.layout
    sounds, lengths = torch.randn(2, 4000), torch.tensor([4000, 2500])
    with torch.inference_mode():
        expected = model(sounds, lengths)[0]
        assert torch.equal(load_encoder(str(tmp_path / "out")).model(sounds, lengths)[0], expected)


def test_a_file_of_funasr_becomes_a_labeler_with_its_classes(tmp_path: Path) -> None:
    """Its tokens name the classes, in two languages; a class that is not used is left out."""
    _, _, weights = published()
    head = {"proj.weight": torch.randn(4, 32), "proj.bias": torch.randn(4)}
    tokens = "\u751f\u6c14/angry\n\u4e2d\u7acb/neutral\nunuse_0\n<unk>\n"
    (tmp_path / "tokens.txt").write_text(tokens, encoding="utf-8")

    run({f"d2v_model.{name}": value for name, value in weights.items()} | head, tmp_path)

    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert list(config.id2label.values()) == ["angry", "neutral", "unknown"]
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


def test_a_file_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """The error names what is missing, and no folder appears."""
    _, _, weights = published()
    del weights["modality_encoders.AUDIO.context_encoder.norm.weight"]

    with pytest.raises(ConfigError, match=r"no whole model|norm"):
        run({"model": weights}, tmp_path)
    assert not (tmp_path / "out").exists()
