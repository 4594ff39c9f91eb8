"""What any recipe loads, and what is to be predicted; without torch."""

from dataclasses import dataclass
from typing import Literal

from shards.config import option, require_at_least, require_positive
from shards.loading.batch_plan import SpeakerSetView, UtteranceView
from shards.loading.targets import TargetConfig
from shards.media.face_config import FaceBoxConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is loaded, in which batches, and what is to be predicted."""

    modality: Literal["audio", "face", "video"] = option(
        help="sound, face.npy features, or pictures of the video", default="audio"
    )
    faces: FaceBoxConfig = option(
        help="how faces are cut from video; without a detector, whole pictures are seen",
        default_factory=FaceBoxConfig,
    )
    target: TargetConfig = option(help="what is to be predicted", default_factory=TargetConfig)
    utterances: UtteranceView = option(
        help="batches of the vanilla recipe", default_factory=UtteranceView
    )
    sets: SpeakerSetView = option(
        help="batches of the personalized recipe", default_factory=SpeakerSetView
    )
    num_speakers: int | None = option(
        help="train on so many speakers only; a smaller number's are among a larger's", default=None
    )
    known_seconds: float = option(
        help="train on so many seconds of each speaker of known_split too, in place of as many "
        "training speakers: the speaker-dependent side of the personalization gap; evaluate with "
        "the same --known-seconds",
        default=0.0,
    )
    known_split: str = option(help="whose speakers known_seconds is of", default="test")
    num_workers: int = option(
        help="processes that decode; 0: a thread beside the training", default=0
    )
    cache_mib: int = option(
        help="decoded training utterances kept in memory, in each process that decodes",
        default=1024,
    )

    @property
    def cache_bytes(self) -> int:
        """What `cache_mib` says, in bytes."""
        return self.cache_mib * 2**20

    def __post_init__(self) -> None:
        require_at_least(self, 0, "cache_mib", "num_workers", "known_seconds")
        require_positive(self, "num_speakers")
