"""Which encoder makes speaker vectors, and the fingerprint by which it is known.

Vectors are comparable only when one encoder made them, in one way. The fingerprint is the digest of
the weights (or the version of the statistics that need none), together with a version of how
features become a vector. Imports no torch, so that the driver can name an encoder.
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
# A personalized encoder's folder holds the encoder it was made from under this name.
ORIGINAL_NAME = "original"
FINGERPRINT_DIGITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderConfig:
    """An encoder: `spectral`, a folder, or a hub name with its commit."""

    encoder: str = option(
        help="`spectral` (no weights), a speech encoder such as HuBERT or WavLM by hub name or "
        "folder, or what `emostream train` exported (RUN/best)",
    )
    revision: str | None = option(default=None, help="full commit of a hub checkpoint")

    @property
    def is_spectral(self) -> bool:
        """Whether the embedder needs no weights."""
        return self.encoder == SPECTRAL

    def anywhere(self) -> "EmbedderConfig":
        """The same encoder by an absolute path, as workers start in folders of their own."""
        if self.is_spectral or not self.checkpoint().is_local:
            return self

        return replace(self, encoder=local_path(self.encoder))

    def checkpoint(self) -> CheckpointConfig:
        """Where the weights come from.

        Raises ConfigError when `encoder` is neither a folder nor a hub name with a commit.
        """
        return CheckpointConfig(checkpoint=self.encoder, revision=self.revision)


def fingerprint(config: EmbedderConfig) -> str:
    """The text that names this encoder and no other; downloads a hub checkpoint if need be."""
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
