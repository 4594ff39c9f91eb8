"""Published files of data2vec 2.0 and emotion2vec (fairseq) and of emotion2vec+ (FunASR)."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from shards.config import ConfigError
from shards.storage.documents import read_json
from trainers.models.encoders.data2vec.published import EMOTION2VEC_PLUS_CLASSES, from_fairseq
from trainers.models.published_data2vec import save_published
from trainers.preparation.converting.layout import Converted

_MARK = "modality_encoders.AUDIO."
_WEIGHTS_NAME, _CONFIG_NAME = "model.safetensors", "config.json"
_TOKENS_NAME = "tokens.txt"  # FunASR's: the classes of the classifier, one a line


class PublishedData2VecLayout:
    """Weights by fairseq's names, alone or under `model` beside what the training needed."""

    name = "data2vec 2.0, emotion2vec (fairseq, FunASR)"

    def recognizes(self, content: Any) -> bool:
        """Whether a weight has the name of a part of a data2vec 2.0 model of sound."""
        return any(_MARK in str(name) for name in _weights_in(content))

    def convert(self, content: Any, folder: Path) -> Converted:
        """An encoder with its decoder, or an audio classifier where the file has a classifier.

        Raises ConfigError for a weight that is missing, or that no encoder here has.
        """
        model = from_fairseq(_weights_in(content), _classes_beside(folder))

        with tempfile.TemporaryDirectory() as name:
            try:
                save_published(model, Path(name))
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise ConfigError(f"{folder}: the weights make no whole model: {reason}") from error
            return _read_back(Path(name))


def _weights_in(content: Any) -> Mapping[str, Any]:
    found = content.get("model", content) if isinstance(content, Mapping) else {}
    return found if isinstance(found, Mapping) else {}


def _classes_beside(folder: Path) -> tuple[str, ...]:
    """The classes in FunASR's file of tokens, such as "angry" of a line that ends in "/angry"."""
    path = folder / _TOKENS_NAME
    if not path.is_file():
        return EMOTION2VEC_PLUS_CLASSES

    lines = path.read_text(encoding="utf-8").split()
    names = [line.rpartition("/")[2] for line in lines]
    return tuple("unknown" if name == "<unk>" else name for name in names)


def _read_back(folder: Path) -> Converted:
    weights: dict[str, Tensor] = load_file(folder / _WEIGHTS_NAME)
    files = {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name != _WEIGHTS_NAME
    }

    return Converted(read_json(folder / _CONFIG_NAME)["model_type"], weights, files)
