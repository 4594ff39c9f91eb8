"""Finds the recipes by name, without torch; a new family is a folder and a line here."""

from collections.abc import Mapping
from importlib import import_module

from shards.config import ConfigError
from trainers.recipes.recipe import Recipe

FAMILIES = [
    "trainers.recipes.recognition",
    "trainers.recipes.papt",
    "trainers.recipes.multimodal",
    "trainers.recipes.emotion2vec",
]


def recipes() -> Mapping[str, Recipe]:
    """Every recipe of every family, in the order of FAMILIES."""
    found: dict[str, Recipe] = {}
    for family in FAMILIES:
        found |= import_module(f"{family}.config").RECIPES

    return found


def recipe_called(name: str) -> Recipe:
    """Return the recipe of that name. Raises ConfigError when there is none."""
    known = recipes()
    if name not in known:
        raise ConfigError(f"recipe: got {name!r}, expected one of {', '.join(known)}")

    return known[name]
