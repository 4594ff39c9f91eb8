"""Options of `emostream convert`. Nothing here imports torch."""

from dataclasses import dataclass

from shards.config import option
from shards.storage.urls import require_local


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig:
    """Options of `emostream convert`."""

    file_or_folder: str = option(
        help="Checkpoint with pickled weights: a file such as pytorch_model.bin, or the folder "
        "that holds it.",
        positional=True,
    )
    out: str = option(help="New folder for the converted checkpoint.")

    def __post_init__(self) -> None:
        require_local(self, "--out")
