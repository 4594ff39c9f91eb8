"""Every option of `emostream train`. Nothing here imports torch, so that `--help` answers at once.

The groups of options are `encoder` (what hears or sees the utterances), `data` (which utterances
are loaded and what is predicted of them), `engine` (how the model is optimized) and `model` (the
options of the recipe itself). `--set engine.learning_rate=1e-4` sets one option, and
`--print-config` shows all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shards.config import ConfigError, option, require_positive
from shards.config_values import from_mapping
from shards.loading.folds import AS_STATED
from shards.storage.urls import require_local
from trainers.recipes.named_configs import named_configs
from trainers.recipes.recipe import RecipeConfig
from trainers.recipes.registry import recipe_called, recipes, stored_name
from trainers.settings.data import DataConfig
from trainers.settings.encoder import EncoderConfig
from trainers.settings.engine import EngineConfig

# What means something only to recipes that learn from labels.
_OPTIONS_OF_LABELS = {
    "data": ("num_speakers", "num_utterances", "known_seconds"),
    "encoder": ("lora_rank", "mask_time_probability", "mask_channel_probability"),
}


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
    targets: str | None = option(
        default=None,
        help="Folder of prediction tables with the targets of the recipe multimodal.",
    )
    resume: bool = option(default=False, help="Continue from the newest checkpoint in --out.")
    folds: Literal["all"] | None = option(
        default=None,
        help="all: train a model for each fold of data.folds, in OUT/fold-0, OUT/fold-1 and so on: "
        "on a Ray cluster as many at once as have room, otherwise one after the other. Without it, "
        "one model is trained, on data.fold.",
    )
    sweep: str | None = option(
        default=None,
        help="YAML file of options to try, each with its values, such as `options: "
        "{engine.learning_rate: {loguniform: [1e-5, 1e-3]}}`, and of `trials`, `scheduler` and "
        "`seed`. Ray Tune trains a model for each trial in OUT/trial-00000 and so on. The "
        "validation alone decides which trial is best; its options become OUT/best.yaml.",
    )
    num_workers: int = option(
        default=1, help="Number of training processes. More than one process runs on Ray."
    )
    address: str | None = option(
        default=None,
        help="Address of the Ray cluster to train on; local: a Ray of this machine. Without an "
        "address, this machine trains.",
    )
    allow_partial_start: bool = option(
        default=False,
        help="Start from encoder.checkpoint even where some of what it has learned has no place in "
        "the new model, such as its head when the classes are others. Without it, such a start is "
        "refused, and the tensors are named.",
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
        require_local(self, "--out")
        if self.folds is not None and self.sweep is not None:
            raise ConfigError("--folds and --sweep: give one of them; a sweep tries data.fold too")
        if self.folds is not None and self.data.folds == AS_STATED:
            raise ConfigError(
                f"--folds {self.folds}: data.folds is {AS_STATED}, which makes no folds; give "
                "--set data.folds=speaker:5 too, or another division"
            )
        self._check_recipe()
        self.check_workers(self.num_workers)

    def _check_recipe(self) -> None:
        options = self.recipe_config()
        if self.targets is not None and not options.reads_targets:
            raise ConfigError(
                f"--targets: got {self.targets} for {self.recipe}, which reads its targets from "
                "the shards; leave it out"
            )

        reason = options.against_class_balance
        if self.data.sampling == "class_balanced" and reason is not None:
            raise ConfigError(
                f"data.sampling: got class_balanced for {self.recipe}, expected shuffled: {reason}"
            )

        if not options.uses_labels:
            self._refuse_options_of_labels()
        options.check(self)

    def _refuse_options_of_labels(self) -> None:
        """Raise ConfigError for options that choose among labels, or make the most of few."""
        given = [
            f"{group}.{name}"
            for group, names in _OPTIONS_OF_LABELS.items()
            for name in names
            if getattr(getattr(self, group), name)
        ]
        if given:
            raise ConfigError(
                f"{', '.join(given)}: got a value for {self.recipe}, which uses no labels; leave "
                "it out, or give it to finetune, setpeer or weighting afterwards"
            )

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

    @staticmethod
    def named_configs() -> Mapping[str, Path]:
        """The configurations that `--config` knows by name."""
        return named_configs()

    def expanded(self) -> dict[str, RecipeConfig]:
        """The options of the group `model` with their defaults, for `--print-config`."""
        return {"model": self.recipe_config()}

    def recipe_config(self) -> RecipeConfig:
        """The options of the recipe itself. Raises ConfigError when one of them cannot be used."""
        return from_mapping(recipe_called(self.recipe).config, self.model, where="options.model")
