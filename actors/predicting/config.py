"""Options of `emostream predict`. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, option, require_at_least, require_positive

KINDS = (".parquet", ".csv", ".jsonl")
SPEAKER_IS_FOLDER = "folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """Options of `emostream predict`."""

    checkpoint: str = option(help="Exported recognizer of sound: RUN/best or RUN/last.")
    audio: tuple[str, ...] = option(
        default=(),
        is_paths=True,
        help="Sound files or videos, and folders that are searched for them.",
    )
    table: str | None = option(
        default=None,
        help="Table of recordings, with the columns that `emostream import` reads: `key` or "
        "`clip`, `audio` or `video`, and perhaps `speaker`, `start` and `end`.",
    )
    root: str | None = option(
        default=None, help="Folder that the paths in --table are relative to."
    )
    shards: str | None = option(
        default=None, help="Tar shards, labeled or not: a glob, a folder or a file."
    )
    out: str = option(help="File for the predictions, which ends in .parquet, .csv or .jsonl.")
    window: float | None = option(
        default=None,
        help="Seconds of a window: each window of a recording gets a prediction of its own. "
        "Without it, a recording is recognized as a whole, and may last 10 minutes.",
    )
    hop: float | None = option(
        default=None,
        help="Seconds from the start of a window to the start of the next; without it, --window.",
    )
    speaker: str | None = option(
        default=None,
        help="Who speaks in the files of --audio: one name for all of them, or `folder` where each "
        "file lies in a folder that has the name of its speaker.",
    )
    set_size: int = option(
        default=8,
        help="Maximum number of utterances of a speaker that a personalized model hears together; "
        "0: all.",
    )
    speakers: str | None = option(
        default=None,
        help="Speaker table for --pldc, which `emostream embed --encoder CHECKPOINT` wrote with "
        "the same checkpoint and with --labels.",
    )
    pldc: Literal["mu", "sigma", "both"] | None = option(
        default=None,
        help="Calibration of predictions by the labels of similar speakers of --speakers. mu: by "
        "their mean; sigma: by their spread; both: by both. Without it, nothing is calibrated.",
    )
    neighbors: int = option(default=5, help="Number of similar speakers that --pldc averages over.")
    seed: int = option(default=0, help="Seed that decides which utterances make a set.")

    def __post_init__(self) -> None:
        require_positive(self, "--window", "--hop", "--neighbors")
        require_at_least(self, 0, "--set-size")
        self._check_input()
        if not self.out.endswith(KINDS):
            raise ConfigError(f"--out: got {self.out}, expected a file {', '.join(KINDS)}")
        if self.hop is not None and (self.window is None or self.hop > self.window):
            raise ConfigError(
                f"--hop: got {self.hop:g} with a window of {self.window}, expected at most "
                "--window, so that no sound is left out"
            )
        if (self.pldc is None) != (self.speakers is None):
            raise ConfigError("--pldc and --speakers: got one of the two, expected both or neither")

    def _check_input(self) -> None:
        """Raise ConfigError unless exactly one kind of input is named."""
        given = [name for name in ("audio", "table", "shards") if getattr(self, name)]
        if len(given) != 1:
            got = " and ".join(f"--{name}" for name in given) or "none"
            raise ConfigError(f"got {got}, expected one of --audio, --table and --shards")

        if (self.table is None) != (self.root is None):
            raise ConfigError("--table and --root: got one of the two, expected both or neither")
        if self.speaker is not None and not self.audio:
            raise ConfigError(
                "--speaker: got it without --audio; tables and shards name their speakers"
            )
