"""The layouts in which checkpoints with pickled weights come, and what is made of them.

A layout is one class and one entry of `LAYOUTS`; the first that recognizes the content converts it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from shards.config import ConfigError
from shards.storage.documents import read_json
from trainers.preparation.converting.layout import Converted, Layout
from trainers.preparation.converting.published import PublishedData2VecLayout


class TransformersLayout:
    """Weights by name, as transformers saved them, with config.json beside them."""

    name = "transformers"
    # Beside the weights: the configurations, vocabularies and models of tokenizers.
    COPIED = ("*.json", "*.txt", "*.model")

    def recognizes(self, content: Any) -> bool:
        """Whether it is a mapping of names to tensors, and holds nothing else."""
        return (
            isinstance(content, dict)
            and bool(content)
            and all(
                isinstance(name, str) and isinstance(value, Tensor)
                for name, value in content.items()
            )
        )

    def convert(self, content: Any, folder: Path) -> Converted:
        """Keep all weights under their names, and the files beside them."""
        path = folder / "config.json"
        if not path.is_file():
            raise ConfigError(
                f"{folder}: holds no config.json, expected the whole folder that transformers "
                "saved; get it whole (`hf download NAME --revision COMMIT --local-dir FOLDER`)"
            )

        found = read_json(path)
        model_type = found.get("model_type") if isinstance(found, dict) else None
        if not isinstance(model_type, str):
            raise ConfigError(
                f"{path}: has no model_type, expected the config.json that transformers saved"
            )

        files = {
            file.name: file.read_bytes()
            for pattern in self.COPIED
            for file in sorted(folder.glob(pattern))
            if not file.name.endswith(".index.json")
        }
        return Converted(model_type, content, files)


# transformers' last: it recognizes any mapping of names to tensors.
LAYOUTS: Sequence[Layout] = (PublishedData2VecLayout(), TransformersLayout())


def layout_of(content: Any, where: Path) -> Layout:
    """The layout of what was unpickled from `where`; ConfigError when none recognizes it."""
    for layout in LAYOUTS:
        if layout.recognizes(content):
            return layout

    got = type(content).__name__
    if isinstance(content, dict):
        got = f"a mapping with {', '.join(sorted(map(str, content))[:6]) or 'nothing in it'}"
    raise ConfigError(
        f"{where}: got {got}, expected weights in a layout of "
        f"{', '.join(layout.name for layout in LAYOUTS)}"
    )
