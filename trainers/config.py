"""Every option of `emostream train`. Nothing here imports torch, so that `--help` answers at once.

The groups of options are `encoder` (what hears or sees the utterances), `data` (which utterances
are loaded and what is predicted of them), `engine` (how the model is optimized) and `model` (the
options of the recipe itself). `--set engine.learning_rate=1e-4` sets one option, and
`--print-config` shows all of them.
"""

from dataclasses import dataclass
from typing import Any, Literal

from shards.config import ConfigError, option, require_positive
from shards.config_values import from_mapping
from shards.loading.folds import AS_STATED
from trainers.recipes.recipe import RecipeConfig
from trainers.recipes.registry import recipe_called, recipes, stored_name
from trainers.settings.data import DataConfig
from trainers.settings.encoder import EncoderConfig
from trainers.settings.engine import EngineConfig


def _recipes_explained() -> str:
    return (
        "Recipe to train with. "
        f"{'; '.join(f'{name}: {recipe.summary}' for name, recipe in recipes().items())}."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Options of `emostream train`."""

    recipe: str = option(help=_recipes_explained, positional=True)
    shards: str = option(
        help="Packed shards with the splits train and validation: a glob, a folder or a file."
    )
    out: str = option(
        help="Folder for the checkpoints, the best model and the metrics. Several nodes need a "
        "folder on storage that they share."
    )
    resume: bool = option(default=False, help="Continue from the newest checkpoint in --out.")
    folds: Literal["all"] | None = option(
        default=None,
        help="all: train a model for each fold of data.folds, one after the other, in OUT/fold-0, "
        "OUT/fold-1 and so on. Without it, one model is trained, on data.fold.",
    )
    num_workers: int = option(
        default=1, help="Number of training processes. More than one process runs on Ray."
    )
    address: str | None = option(
        default=None,
        help="Address of the Ray cluster to train on. Without an address, this machine trains.",
    )
    encoder: EncoderConfig = option(
        default_factory=EncoderConfig,
        help="Pretrained encoder, or the sizes of a small encoder that is trained from nothing.",
    )
    data: DataConfig = option(
        default_factory=DataConfig, help="Utterances to load, and what is predicted of them."
    )
    engine: EngineConfig = option(
        default_factory=EngineConfig, help="Optimizer, precision, validation and checkpoints."
    )
    model: dict[str, Any] = option(
        default_factory=dict, help="Options of the recipe itself.", is_group=True
    )

    def __post_init__(self) -> None:
        # Two spellings of one recipe are one method, to `--resume` and to `compare`.
        object.__setattr__(self, "recipe", stored_name(self.recipe))
        require_positive(self, "--num-workers")
        if self.folds is not None and self.data.folds == AS_STATED:
            raise ConfigError(
                f"--folds {self.folds}: data.folds is {AS_STATED}, which makes no folds; give "
                "--set data.folds=speaker:5 too, or another division"
            )
        self.recipe_config().check(self)
        self.check_workers(self.num_workers)

    def check_workers(self, num_workers: int) -> None:
        """Raise ConfigError when `num_workers` processes cannot share a step's batches equally.

        Under torchrun the number of processes is known only while it runs, so training calls this
        again with the real number.
        """
        if self.engine.batches_per_step % num_workers:
            raise ConfigError(
                f"engine.batches_per_step: got {self.engine.batches_per_step} for {num_workers} "
                "workers, expected a multiple of the number of workers, so that each of them "
                "computes as many batches as any other; change one of the two"
            )

    def expanded(self) -> dict[str, RecipeConfig]:
        """The options of the group `model` with their defaults, for `--print-config`."""
        return {"model": self.recipe_config()}

    def recipe_config(self) -> RecipeConfig:
        """The options of the recipe itself. Raises ConfigError when one of them cannot be used."""
        return from_mapping(recipe_called(self.recipe).config, self.model, where="options.model")
