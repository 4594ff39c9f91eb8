"""Options of `emostream predict`. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, option, require_at_least, require_positive
from shards.storage.urls import absolute
from shards.tables.row_files import KINDS

SPEAKER_IS_FOLDER = "folder"
MAX_SECONDS = 600.0  # of a recording that is recognized as a whole
MAX_WINDOWED_SECONDS = 4 * 3600.0  # 0.9 GB as float32


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """Options of `emostream predict`."""

    checkpoint: str = option(
        help="Exported recognizer, of sound, video or faces: RUN/best or RUN/last."
    )
    audio: tuple[str, ...] = option(
        default=(),
        is_paths=True,
        help="Files, and folders that are searched for them: sound or films for a recognizer of "
        "sound, films for one of video.",
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
    out: str = option(
        help="File for the predictions, which ends in .parquet, .csv or .jsonl. With --shards also "
        "a folder, for one table a shard."
    )
    window: float | None = option(
        default=None,
        help="Seconds of a window: each window of a recording gets a prediction of its own. "
        "Without it, a recording is recognized as a whole, and may last 10 minutes. Only "
        "for sound.",
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
    num_workers: int | None = option(
        default=None,
        help="Workers on Ray for --shards, each with the model; without it, one a GPU or one a "
        "CPU.",
    )
    address: str | None = option(
        default=None,
        help="Ray cluster to use for --shards; without it, the cluster submitted to, or else a "
        "local Ray.",
    )
    num_readers: int = option(
        default=2, help="Reader processes beside each worker; each decodes one shard ahead."
    )
    max_attempts: int = option(
        default=5, help="How often one run tries a shard before it gives the shard up."
    )

    def __post_init__(self) -> None:
        require_positive(self, "--window", "--hop", "--neighbors")
        require_positive(self, "--num-workers", "--num-readers", "--max-attempts")
        require_at_least(self, 0, "--set-size")
        self._check_input()
        self._check_out()
        if self.hop is not None and (self.window is None or self.hop > self.window):
            raise ConfigError(
                f"--hop: got {self.hop:g} with a window of {self.window}, expected at most "
                "--window, so that no sound is left out"
            )
        if (self.pldc is None) != (self.speakers is None):
            raise ConfigError("--pldc and --speakers: got one of the two, expected both or neither")

    @property
    def max_seconds(self) -> float:
        """How long a recording may be."""
        return MAX_SECONDS if self.window is None else MAX_WINDOWED_SECONDS

    @property
    def out_is_folder(self) -> bool:
        """Whether --out names a folder for one table a shard."""
        return not self.out.endswith(KINDS)

    @property
    def folder(self) -> str:
        """The absolute path of the folder for the tables of the shards.

        It is --out, or beside the file --out: `answers-by-shard` for `answers.csv`.
        """
        if self.out_is_folder:
            return absolute(self.out)
        return absolute(f"{self.out[: self.out.rindex('.')]}-by-shard")

    def _check_out(self) -> None:
        """Raise ConfigError unless --out is a file of a known kind or, with --shards, a folder."""
        if not self.out_is_folder:
            return

        kinds = ", ".join(KINDS)
        if self.shards is None:
            raise ConfigError(f"--out: got {self.out}, expected a file {kinds}")
        # A name with an ending is more likely a file of another kind than a folder.
        if "." in self.out.rstrip("/").rpartition("/")[2] and not self.out.endswith("/"):
            raise ConfigError(
                f"--out: got {self.out}, expected a file {kinds}, or a folder; write a folder "
                "whose name has a dot with a / at its end"
            )
        if self.pldc is not None:
            raise ConfigError(
                f"--out: got the folder {self.out} with --pldc, expected a file {kinds}: a speaker "
                "is calibrated by all utterances, which may lie in several shards"
            )

    def _check_input(self) -> None:
        """Raise ConfigError unless exactly one kind of input is named."""
        given = [name for name in ("audio", "table", "shards") if getattr(self, name)]
        if len(given) != 1:
            got = " and ".join(f"--{name}" for name in given) or "none"
            raise ConfigError(f"got {got}, expected one of --audio, --table and --shards")

        if (self.table is None) != (self.root is None):
            raise ConfigError("--table and --root: got one of the two, expected both or neither")
        if self.shards is None and (self.address is not None or self.num_workers is not None):
            raise ConfigError(
                "--address and --num-workers: got them without --shards; files and tables are "
                "recognized in one process, on this machine"
            )
        if self.speaker is not None and not self.audio:
            raise ConfigError(
                "--speaker: got it without --audio; tables and shards name their speakers"
            )
