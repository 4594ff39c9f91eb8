"""Makes a checkpoint of safetensors from one of pickled weights; nothing in it is executed."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from shards.config import ConfigError
from shards.storage.documents import read_json
from shards.storage.files import flush, flush_tree
from trainers.preparation.converting.config import ConvertConfig
from trainers.preparation.converting.layouts import layout_of
from trainers.preparation.converting.pickled import read_pickled

WEIGHTS_NAME, PICKLED_NAME = "model.safetensors", "pytorch_model.bin"
INDEX_NAME = f"{PICKLED_NAME}.index.json"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """What was converted: `num_tied` weights were the same tensor as another one."""

    layout: str
    model_type: str
    num_weights: int
    num_tied: int


def convert(config: ConvertConfig) -> ConvertReport:
    """Convert the checkpoint; the folder `config.out` appears when it is whole.

    Raises ConfigError for a file that cannot be converted, and for a folder that has files already.
    """
    source, out = Path(config.file_or_folder), Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: got a folder with files, expected a new one")

    content = _read(source)
    layout = layout_of(content, source)
    converted = layout.convert(content, source if source.is_dir() else source.parent)
    weights, num_tied = _own_memory(converted.weights)

    _write(out, weights, converted.files)
    return ConvertReport(
        layout=layout.name,
        model_type=converted.model_type,
        num_weights=len(weights),
        num_tied=num_tied,
    )


def _read(source: Path) -> Any:
    """What is in the pickled file, or in all parts of a checkpoint that is cut into several."""
    if not source.is_dir():
        return read_pickled(source)

    if (source / INDEX_NAME).is_file():
        parts = [read_pickled(path) for path in _parts(source)]
        return {name: weight for part in parts for name, weight in part.items()}

    files = list(pickled_files(source))
    named = source / PICKLED_NAME
    if named not in files and len(files) != 1:
        raise ConfigError(
            f"{source}: holds {len(files)} files of pickled weights "
            f"({', '.join(PICKLED_SUFFIXES)}), expected one; name the file itself"
        )
    return read_pickled(named if named in files else files[0])


def pickled_files(folder: Path) -> Iterator[Path]:
    """The files of `folder` that hold pickled weights, by their names."""
    yield from (path for path in sorted(folder.iterdir()) if path.suffix in PICKLED_SUFFIXES)


def _parts(folder: Path) -> list[Path]:
    """The files that the index of a cut checkpoint names, which lie beside it."""
    index = read_json(folder / INDEX_NAME)
    names = sorted(set(index["weight_map"].values())) if "weight_map" in index else []

    if not names or any(Path(name).name != name for name in names):
        raise ConfigError(
            f"{folder / INDEX_NAME}: got no names of files in the same folder, expected the index "
            "that transformers saved"
        )
    return [folder / name for name in names]


def _own_memory(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Weights that share no memory, as safetensors wants them, and how many were tied to others.

    A tied weight is written under each of its names: whether a model ties them again is its own
    matter. Writing only one of them lost, as a model that does not would miss the others.
    """
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    num_tied = 0

    for name, weight in weights.items():
        memory = weight.untyped_storage().data_ptr()
        is_tied = memory in seen and weight.numel() > 0
        seen.add(memory)
        num_tied += is_tied
        plain = weight.detach().contiguous()
        own[name] = plain.clone() if is_tied else plain

    return own, num_tied


def _write(out: Path, weights: dict[str, Tensor], files: Mapping[str, bytes]) -> None:
    """Write the folder under another name, and rename it when it is on the disk."""
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)

    for name, content in files.items():
        (temporary / name).write_bytes(content)
    save_file(weights, temporary / WEIGHTS_NAME, metadata={"format": "pt"})

    flush_tree(temporary)
    if out.exists():
        out.rmdir()
    temporary.rename(out)
    flush(out.parent)
