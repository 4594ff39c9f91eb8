"""The recipes by name; without torch."""

from collections.abc import Mapping

from trainers.recipes.papt.config import PaptConfig, PretrainConfig
from trainers.recipes.recognition.config import FinetuneConfig, SetPeerConfig, WeightingConfig

RecipeConfig = FinetuneConfig | PretrainConfig
RECIPES: Mapping[str, type[RecipeConfig]] = {
    "finetune": FinetuneConfig,
    "setpeer": SetPeerConfig,
    "weighting": WeightingConfig,
    "tapt": PretrainConfig,
    "papt": PaptConfig,
}
