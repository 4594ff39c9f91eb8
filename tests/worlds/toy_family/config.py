"""Options of the toy family."""

from dataclasses import dataclass

from shards.config import ConfigError, option, require_share
from trainers.recipes.recipe import Recipe, RecipeConfig, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothedConfig(RecipeConfig):
    """Options of `smoothed`."""

    smoothing: float = option(
        default=0.1, help="Share of every target that is spread over all classes."
    )

    def __post_init__(self) -> None:
        require_share(self, "smoothing")

    def check(self, run: Run) -> None:
        """Refuse a target without classes."""
        if run.data.target.target_kind != "classes":
            raise ConfigError("recipe smoothed: got data.target.kind values, expected classes")


RECIPES = {
    "smoothed": Recipe(
        summary="recognition with smoothed targets",
        config=SmoothedConfig,
        task="tests.worlds.toy_family.task:SmoothedTask",
    )
}
