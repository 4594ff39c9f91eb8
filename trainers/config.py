"""Every option of `emostream train`, without torch: the help text and the driver need no more.

Groups: `encoder` (what hears or sees), `data` (what is loaded and predicted), `engine` (how it is
optimized) and `model` (the recipe's own). `--set engine.learning_rate=1e-4` sets one;
`--print-config` shows all.
"""

from dataclasses import dataclass
from typing import Any

from shards.config import ConfigError, option, require_positive
from shards.config_values import from_mapping
from trainers.recipes.recipe import RecipeConfig
from trainers.recipes.registry import recipe_called, recipes
from trainers.settings.data import DataConfig
from trainers.settings.encoder import EncoderConfig
from trainers.settings.engine import EngineConfig


def _recipes_explained() -> str:
    return (
        "What to train. "
        f"{'; '.join(f'{name}: {recipe.summary}' for name, recipe in recipes().items())}."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Options of `emostream train`."""

    recipe: str = option(help=_recipes_explained, positional=True)
    shards: str = option(
        help="Packed shards with the splits train and validation: a glob, folder or file."
    )
    out: str = option(
        help="Folder for checkpoints, the best model and the metrics; for several nodes on shared "
        "storage."
    )
    resume: bool = option(default=False, help="Go on from the newest checkpoint in --out.")
    num_workers: int = option(default=1, help="Training processes; more than one run on Ray.")
    address: str | None = option(
        default=None, help="Ray cluster to train on; default: this machine."
    )
    encoder: EncoderConfig = option(default_factory=EncoderConfig, help="The encoder.")
    data: DataConfig = option(default_factory=DataConfig, help="The data.")
    engine: EngineConfig = option(default_factory=EngineConfig, help="The optimization.")
    model: dict[str, Any] = option(
        default_factory=dict, help="The recipe's own options.", is_group=True
    )

    def __post_init__(self) -> None:
        require_positive(self, "--num-workers")
        self.recipe_config().check(self)
        self.check_workers(self.num_workers)

    def check_workers(self, num_workers: int) -> None:
        """Raise ConfigError for what so many processes cannot do; torchrun tells their number only
        when it runs.
        """
        if self.engine.batches_per_step % num_workers:
            raise ConfigError(
                f"engine.batches_per_step: got {self.engine.batches_per_step} for {num_workers} "
                "workers, expected a multiple of them, so that every worker does the same"
            )

    def expanded(self) -> dict[str, RecipeConfig]:
        """What `model` stands for, with the defaults."""
        return {"model": self.recipe_config()}

    def recipe_config(self) -> RecipeConfig:
        """The recipe's own options, checked."""
        return from_mapping(recipe_called(self.recipe).config, self.model, where="options.model")
