"""Configurations are found by path or name, and may extend each other."""

from pathlib import Path

import pytest

from shards.config import ConfigError
from shards.config_files import read_config


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_extends_says_only_what_it_changes(tmp_path: Path) -> None:
    """Groups are merged option by option; a list is replaced as a whole."""
    base = write(tmp_path, "base", "a: 1\ngroup: {x: 1, y: {z: 2, w: [1, 2]}}\n")
    top = write(tmp_path, "top", "extends: some/base\nb: 2\ngroup: {y: {w: [3]}}\n")
    assert read_config(str(top), {"some/base": base}) == {
        "a": 1,
        "b": 2,
        "group": {"x": 1, "y": {"z": 2, "w": [3]}},
    }


def test_a_group_and_a_value_replace_each_other(tmp_path: Path) -> None:
    """What is no group on one side is not merged."""
    base = write(tmp_path, "base", "a: 1\nb: {x: 1}\n")
    top = write(tmp_path, "top", f"extends: {base}\na: {{y: 2}}\nb: null\n")
    assert read_config(str(top), {}) == {"a": {"y": 2}, "b": None}


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of that path is meant, even if a configuration is called so."""
    monkeypatch.chdir(tmp_path)
    named = write(tmp_path, "named", "a: 1\n")
    assert read_config("mine", {"mine": named}) == {"a": 1}
    (tmp_path / "mine").write_text("a: 2\n")
    assert read_config("mine", {"mine": named}) == {"a": 2}


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """The message lists the names there are, or says what is wrong with the file."""
    one = write(tmp_path, "one", "extends: b\n")
    two = write(tmp_path, "two", "extends: a\n")
    listed = write(tmp_path, "list", "[1]\n")
    named = {"a": one, "b": two}

    for given, message in (
        ("c", "--config c: no such file and no configuration of that name; names: a, b"),
        ("a", "--config a: a extends b extends a; leave one of these `extends` out"),
        (str(listed), "got list, expected a mapping of options"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_config(given, named)
    with pytest.raises(ConfigError, match="--config c: no such file; check the path"):
        read_config("c", {})
