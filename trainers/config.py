"""Every option of `emostream train`, without torch: the help text and the driver need no more.

Groups: `encoder` (what hears or sees), `data` (what is loaded and predicted), `engine` (how it is optimised) and
`model` (the recipe's own). `--set engine.learning_rate=1e-4` sets one; `--print-config` shows all.
"""

from dataclasses import dataclass
from typing import Any

from shards.config import ConfigError, from_mapping, option, require_positive
from trainers.recipes.papt.config import PaptConfig, PretrainConfig
from trainers.recipes.recognition.config import FinetuneConfig, WeightingConfig
from trainers.recipes.registry import RECIPES, RecipeConfig
from trainers.settings.data import DataConfig
from trainers.settings.encoder import EncoderConfig
from trainers.settings.engine import EngineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Options of `emostream train`."""

    recipe: str = option(help=f"What to train: {', '.join(RECIPES)}.", positional=True)
    shards: str = option(help="Packed shards with the splits train and validation: a glob, folder or file.")
    out: str = option(
        help="Folder for checkpoints, the best model and the metrics; for several nodes on shared storage."
    )
    resume: bool = option(default=False, help="Go on from the newest checkpoint in --out.")
    num_workers: int = option(default=1, help="Training processes; more than one run on Ray.")
    address: str | None = option(default=None, help="Ray cluster to train on; default: this machine.")
    encoder: EncoderConfig = option(default_factory=EncoderConfig, help="The encoder.")
    data: DataConfig = option(default_factory=DataConfig, help="The data.")
    engine: EngineConfig = option(default_factory=EngineConfig, help="The optimisation.")
    model: dict[str, Any] = option(default_factory=dict, help="The recipe's own options.")

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ConfigError(f"recipe: got {self.recipe!r}, expected one of {', '.join(RECIPES)}")
        require_positive(self, "--num-workers")
        options = self.recipe_config()
        if (
            isinstance(options, FinetuneConfig)
            and options.class_weights != "none"
            and self.data.target.kind == "values"
        ):
            raise ConfigError(
                f"model.class_weights: got {options.class_weights} for data.target.kind values, which has no classes; "
                "expected none"
            )
        if isinstance(options, PretrainConfig) and self.data.modality != "audio":
            raise ConfigError(
                f"data.modality: got {self.data.modality} for {self.recipe}, expected audio: masked prediction is of "
                "speech"
            )
        if isinstance(options, PretrainConfig) and (self.data.num_speakers is not None or self.data.known_seconds):
            raise ConfigError(
                f"data.num_speakers, data.known_seconds: got one of them for {self.recipe}, which uses no labels and "
                "hears all speakers of model.splits; leave them out"
            )
        if isinstance(options, WeightingConfig) and self.data.modality == "video":
            raise ConfigError("data.modality: got video for weighting, expected audio or face, that speakers differ by")
        if isinstance(options, PaptConfig) and self.encoder.checkpoint is None:
            raise ConfigError(
                "encoder.checkpoint: must be given for papt; it is the original encoder, which also finds the proxies "
                "of unseen speakers (`emostream train tapt` makes a small one from nothing)"
            )
        self.check_workers(self.num_workers)

    def check_workers(self, num_workers: int) -> None:
        """Raise ConfigError for what so many processes cannot do; torchrun tells their number only when it runs."""
        if self.engine.batches_per_step % num_workers:
            raise ConfigError(
                f"engine.batches_per_step: got {self.engine.batches_per_step} for {num_workers} workers, expected a "
                "multiple of them, so that every worker does the same"
            )

    @property
    def freezes_front_end(self) -> bool:
        """Whether the convolutions of a pretrained encoder stay as they are."""
        if self.encoder.checkpoint is None:
            return False
        if self.encoder.freeze_front_end is None:
            return not isinstance(self.recipe_config(), PretrainConfig)
        return self.encoder.freeze_front_end

    def expanded(self) -> dict[str, RecipeConfig]:
        """What `model` stands for, with the defaults."""
        return {"model": self.recipe_config()}

    def recipe_config(self) -> RecipeConfig:
        """The recipe's own options, checked."""
        return from_mapping(RECIPES[self.recipe], self.model, where="options.model")
