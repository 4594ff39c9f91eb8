"""The built wheel is what people install: it must hold every package and start."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

from tests import ROOT


def listed_packages() -> list[str]:
    """Return the packages that pyproject's patterns find."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]["find"]["include"]
    return sorted(find_packages(str(ROOT), include=patterns))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a clean copy, with the installed setuptools.

    In the checkout itself, the wheel would contain what an earlier build has left in `build/`.
    """
    out, copy = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("clean")

    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for package in (name for name in listed_packages() if "." not in name):
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )

    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(copy),
    ]
    subprocess.run(build, check=True, capture_output=True, text=True, timeout=240)

    (built,) = out.glob("*.whl")
    return built


def test_wheel_contains_every_package_and_nothing_else(wheel: Path) -> None:
    """The wheel holds every package that pyproject lists, with modules and data, but no tests."""
    on_disk = {
        f"{package.replace('.', '/')}/{path.name}"
        for package in listed_packages()
        for path in (ROOT / package.replace(".", "/")).iterdir()
        if path.suffix in {".py", ".j2", ".proto", ".pyi"}
    }
    configs = {str(path.relative_to(ROOT)) for path in ROOT.glob("trainers/recipes/*/configs/*")}
    assert "trainers/recipes/papt/configs/table2.yaml" in configs
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == on_disk | configs


def test_every_folder_with_code_is_a_package() -> None:
    """A folder without `__init__.py` is missing from the wheel and breaks spawned processes."""
    tops = {name for name in listed_packages() if "." not in name} | {"tests"}
    folders = {path.parent for top in tops for path in (ROOT / top).rglob("*.py")}
    assert {
        str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()
    } == set()
    assert tops == {"shards", "trainers", "actors", "cluster", "protos", "tests"}


def test_installed_wheel_shows_its_help(wheel: Path, tmp_path: Path) -> None:
    """The unpacked wheel alone, away from the checkout, lists every command in its help."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys, cluster.cli; print(cluster.cli.__file__); "
        "sys.exit(cluster.cli.main(['--help']))"
    )

    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )

    assert answer.returncode == 0, answer.stderr
    assert str(tmp_path) in answer.stdout.splitlines()[0]
    for command in ("import", "label", "select", "pack", "report", "demo", "doctor"):
        assert f"    {command} " in answer.stdout
