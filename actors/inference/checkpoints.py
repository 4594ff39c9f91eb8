"""Where a model's weights come from, and exactly which weights they are, without loading a model.

A checkpoint is a local folder or a Hugging Face name with a pinned commit; either way it ends as a
folder of safetensors files with a digest. A branch or tag is refused, because it may move and
change labels halfway. Pickled weights are refused, because opening them runs code. Imports no
torch, so that a finished job is recognized in a second.
"""

import fnmatch
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from shards.config import ConfigError, option
from shards.storage.documents import read_json

# These files decide a label: the weights, the architecture, and how input is prepared. Reports and
# notes beside them do not.
LABELING_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "*processor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "normalizer.json",
    "vocab*",
    "merges.txt",
    "bpe.codes",
    "*.model",
)
_BLOCK_BYTES = 2**22
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """Where a model's weights come from."""

    checkpoint: str = option(
        help="local folder, or Hugging Face name (owner/model), holding safetensors weights"
    )
    revision: str | None = option(
        help="commit of a hub checkpoint, 40 hexadecimal digits", default=None
    )

    def __post_init__(self) -> None:
        if self.is_local:
            return

        if not _HUB_NAME.fullmatch(self.checkpoint):
            raise ConfigError(
                f"checkpoint: got {self.checkpoint!r}, which is neither a folder here nor an "
                "owner/model name"
            )

        if self.revision is None or not _COMMIT.fullmatch(self.revision):
            raise ConfigError(
                f"revision: got {self.revision!r} for {self.checkpoint!r}, expected the full "
                "commit (40 hexadecimal digits): a branch or tag may move and change labels "
                "halfway. If you meant a local folder: no folder has this name. Commits are listed "
                f"at https://huggingface.co/{self.checkpoint}/commits/main"
            )

    @property
    def is_local(self) -> bool:
        """Whether the checkpoint is a folder on this machine."""
        return bool(self.checkpoint) and Path(self.checkpoint).is_dir()


def locate(config: CheckpointConfig) -> Path:
    """The checkpoint's folder; a hub checkpoint is downloaded to the Hugging Face cache first."""
    if config.is_local:
        return Path(config.checkpoint)

    patterns = [pattern for pattern in LABELING_FILES if not pattern.startswith("*.safetensors")]
    # Only weights at the top that transformers reads: repositories hold other precisions too.
    patterns += ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]

    folder = huggingface_hub.snapshot_download(
        config.checkpoint,
        revision=config.revision,
        allow_patterns=patterns,
        ignore_patterns=["*/*"],
    )
    return Path(folder)


def identify(config: CheckpointConfig) -> dict[str, str]:
    """What tells this checkpoint from others: a hub commit, or the digest of a folder's files."""
    if config.is_local:
        return {"weights": weight_digest(Path(config.checkpoint))}
    return {"checkpoint": config.checkpoint, "revision": str(config.revision)}


def weight_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that decide a label.

    Raises ConfigError when the folder holds no safetensors, for example only pickled weights.
    """
    files = [
        path for path in sorted(folder.iterdir()) if path.is_file() and _decides_labels(path.name)
    ]
    if not any(path.suffix == ".safetensors" for path in files):
        raise ConfigError(
            f"checkpoint {folder}: holds no *.safetensors. Pickled weights are never opened, as "
            "that runs code. Pin the commit of the hub's safetensors conversion (see the "
            "repository's open pull requests), or convert them, which executes nothing: "
            f"`emostream convert {folder} --out {folder}-safetensors`"
        )

    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)

    return f"sha256:{digest.hexdigest()}"


def model_type(folder: Path) -> str:
    """The architecture's name in `config.json`. Raises ConfigError when there is none."""
    path = folder / "config.json"

    try:
        values = read_json(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"checkpoint {folder}: has no config.json; expected a transformers checkpoint"
        ) from error
    except ValueError as error:
        raise ConfigError(f"checkpoint {folder}: config.json is not JSON: {error}") from error

    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise ConfigError(
            f"checkpoint {folder}: config.json has no model_type; save it with transformers 4 or "
            "later"
        )

    return str(values["model_type"])


def _decides_labels(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LABELING_FILES)
