"""Which encoder makes speaker vectors, and its fingerprint; without torch, so that the driver can
name it.

Vectors are comparable when the very same encoder made them, in the same way. The fingerprint is
that of the weights (or of the weightless statistics), with a version of how features become a
vector.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from actors.inference.checkpoints import CheckpointConfig, locate, weight_digest
from shards.config import option
from shards.storage.urls import local_path

SPECTRAL = "spectral"
SPECTRAL_FINGERPRINT = "spectral:1"
POOLING_VERSION = 1
ORIGINAL_NAME = "original"  # below a personalized encoder's folder
FINGERPRINT_DIGITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderConfig:
    """An encoder: `spectral`, a folder, or a hub name with its commit."""

    encoder: str = option(
        help="`spectral` (no weights), a HuBERT, wav2vec 2.0, WavLM or data2vec audio by hub name "
        "or folder, or what `emostream train` exported (RUN/best)",
    )
    revision: str | None = option(default=None, help="full commit of a hub checkpoint")

    @property
    def is_spectral(self) -> bool:
        """Whether it needs no weights."""
        return self.encoder == SPECTRAL

    def anywhere(self) -> "EmbedderConfig":
        """The same in workers, which start in folders of their own."""
        if self.is_spectral or not self.checkpoint().is_local:
            return self
        return replace(self, encoder=local_path(self.encoder))

    def checkpoint(self) -> CheckpointConfig:
        """Where the weights come from. Raises ConfigError for what is neither a folder nor a pinned
        hub name.
        """
        return CheckpointConfig(checkpoint=self.encoder, revision=self.revision)


def fingerprint(config: EmbedderConfig) -> str:
    """What only the very same encoder has. Downloads a hub checkpoint that is not there yet."""
    if config.is_spectral:
        return SPECTRAL_FINGERPRINT
    folder = locate(config.checkpoint())
    parts = [f"pooling {POOLING_VERSION}", weight_digest(folder)]
    if (folder / ORIGINAL_NAME).is_dir():
        parts.append(weight_digest(folder / ORIGINAL_NAME))
    return "encoder:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def folder_of(config: EmbedderConfig) -> Path:
    """Where the weights lie on this machine."""
    return locate(config.checkpoint())
