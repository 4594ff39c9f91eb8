"""What a family of recipes tells the rest of the project; it needs no torch.

A family is one folder: `config.py` holds its options and the mapping `RECIPES`, from the name of
each recipe to a `Recipe`. The recipe's own `check` refuses an option that does not fit the rest of
the run, so nothing outside the folder has to know which recipe it is dealing with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar, Protocol

from trainers.settings.data import DataConfig
from trainers.settings.encoder import EncoderConfig
from trainers.settings.engine import EngineConfig

if TYPE_CHECKING:
    from shards.loading.index import CorpusIndex
    from trainers.task import FittedTask, Task  # with torch, which options do not need


class Run(Protocol):
    """The options that every recipe shares, as `emostream train` has them."""

    @property
    def recipe(self) -> str:
        """The recipe's name."""

    @property
    def shards(self) -> str:
        """The pattern of the shards."""

    @property
    def targets(self) -> str | None:
        """The folder of prediction tables, for recipes that read targets from them."""

    @property
    def out(self) -> str:
        """The run's folder."""

    @property
    def allow_partial_start(self) -> bool:
        """Whether a start may lose some of what its checkpoint has learned."""

    @property
    def encoder(self) -> EncoderConfig:
        """The encoder."""

    @property
    def data(self) -> DataConfig:
        """The data."""

    @property
    def engine(self) -> EngineConfig:
        """The optimization."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeConfig:
    """The options of one recipe.

    `against_class_balance` is the reason why the recipe cannot draw training utterances by their
    classes; None for a recipe that does. `uses_labels` says whether it learns from labels,
    `reads_targets` whether `--targets` means something to it, and `needs_speakers` whether every
    utterance must name its speaker.
    """

    against_class_balance: ClassVar[str | None] = "its batches do not follow classes"
    uses_labels: ClassVar[bool] = True
    reads_targets: ClassVar[bool] = False
    needs_speakers: ClassVar[bool] = True

    def check(self, run: Run) -> None:
        """Raise ConfigError when the rest of the run does not fit these options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to train.

    `summary` says what it is for, `config` is the class of its options, and `task` names the class
    of its task as `module:Class`, which only training loads.
    """

    summary: str
    config: type[RecipeConfig]
    task: str

    def make_task(
        self, run: Run, options: RecipeConfig, corpus: "CorpusIndex"
    ) -> "Task | FittedTask":
        """Make the task of a run; `options` are of this recipe's class."""
        make: Callable[[Run, RecipeConfig, CorpusIndex], Task | FittedTask] = resolve_name(
            self.task
        )

        return make(run, options, corpus)
