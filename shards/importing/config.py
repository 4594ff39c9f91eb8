"""Options of `emostream import`."""

import os
from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, option, require_positive

MIB = 2**20
Check = Literal["none", "header", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """Options of `emostream import`."""

    table: str = option(
        positional=True, help="CSV or Parquet table with one row for each utterance."
    )
    root: str = option(help="Folder that the paths in the table are relative to.")
    out: str = option(help="Folder for the shards, local or remote.")
    shard_size_mb: int = option(default=256, help="Target size of a shard, in MiB.")
    num_workers: int = option(default=4, help="Number of shards that are written at the same time.")
    check: Check = option(
        default="header",
        help="How sound and video files are checked. header: a file opens, has a track of a known "
        "codec, and is as long as it states; decode: sound files are also decoded completely; "
        "none: no check.",
    )

    audio_track: int | None = option(
        default=None,
        help="Which sound track of a file with several is imported, counted from 1. By default a "
        "file keeps all of them, and the one that it marks as its default is heard.",
    )

    def __post_init__(self) -> None:
        require_positive(self, "--shard-size-mb", "--num-workers")
        if self.audio_track is not None and self.audio_track < 1:
            raise ConfigError(f"--audio-track: got {self.audio_track}, expected 1 or more")
        if not os.path.isdir(self.root):
            raise ConfigError(f"--root: got {self.root!r}, expected an existing folder")
