"""What a layout of pickled weights is, and what is made of a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Converted:
    """A checkpoint as transformers reads it.

    `weights` are those of model.safetensors, and `files` the content of every other file, by its
    name; config.json is among them.
    """

    model_type: str
    weights: Mapping[str, Tensor]
    files: Mapping[str, bytes]


class Layout(Protocol):
    """One way to lay out a checkpoint; `name` is what people call it."""

    name: str

    def recognizes(self, content: Any) -> bool:
        """Whether what was unpickled is laid out in this way."""

    def convert(self, content: Any, folder: Path) -> Converted:
        """Convert `content`, which was in a file of `folder`.

        Raises ConfigError when something is missing.
        """
