"""The configurations that come with the recipes, such as those of the papers' tables; no torch.

They are the files `configs/*.yaml` of each family and are named FAMILY/FILE: `papt/table2`, and
`two-stage/table1` of the family two_stage.
"""

from importlib.util import find_spec
from pathlib import Path

from trainers.recipes.registry import FAMILIES


def named_configs() -> dict[str, Path]:
    """The file of each configuration by its name, family by family."""
    return {
        f"{family.rpartition('.')[2].replace('_', '-')}/{path.stem}": path
        for family in FAMILIES
        for path in sorted((_folder(family) / "configs").glob("*.yaml"))
    }


def _folder(family: str) -> Path:
    spec = find_spec(family)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{family} is no package with files", name=family)

    return Path(spec.origin).parent
