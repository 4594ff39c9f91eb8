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
    "trainers.recipes.two_stage",
]


# Another spelling of a recipe's name, in options and files: the name that is stored instead.
ALSO_CALLED = {"speaker-normalised": "speaker-normalized"}


def recipes() -> Mapping[str, Recipe]:
    """Every recipe of every family, in the order of FAMILIES."""
    found: dict[str, Recipe] = {}
    for family in FAMILIES:
        found |= import_module(f"{family}.config").RECIPES

    return found


def recipe_called(name: str) -> Recipe:
    """Return the recipe of that name. Raises ConfigError when there is none."""
    known, name = recipes(), stored_name(name)
    if name not in known:
        raise ConfigError(f"recipe: got {name!r}, expected one of {', '.join(known)}")

    return known[name]


def stored_name(name: str) -> str:
    """The spelling of a recipe's name under which runs are kept."""
    return ALSO_CALLED.get(name, name)
