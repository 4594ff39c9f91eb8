"""Configurations are strict, and converted alike from YAML and from a command line."""

from dataclasses import dataclass
from typing import Literal

import pytest
import yaml

from shards.config import ConfigError, inlined, option
from shards.config_values import by_present_names, explain, from_mapping, to_mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rate: float = option(default=0.5, help="A rate.")
    share: float = option(default=0.5, help="A share.")

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ConfigError(f"share: got {self.share}, expected at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str = option(help="A name.")
    count: int | None = option(default=None, help="A count.")
    kind: Literal["kl", "js"] = option(default="kl", help="A kind.")
    items: tuple[str, ...] = option(default=(), help="Items.")
    rates: dict[str, float] = option(default_factory=dict, help="Rates.")
    inner: Inner = option(default_factory=Inner, help="Nested.")
    enabled: bool = option(default=False, help="A switch.")


def test_text_and_plain_values_are_the_same() -> None:
    """Text from a command line equals values from YAML."""
    text = {"name": "x", "count": "3", "items": "a,b", "rates": "a=0.5,b=1", "enabled": "true"}
    plain = {
        "name": "x",
        "count": 3,
        "items": ["a", "b"],
        "rates": {"a": 0.5, "b": 1},
        "enabled": True,
    }
    assert from_mapping(Outer, text) == from_mapping(Outer, plain)


def test_resolved_configuration_reads_back() -> None:
    """to_mapping is the inverse of from_mapping."""
    config = from_mapping(Outer, {"name": "x", "inner": {"rate": 0.25}, "kind": "js"})
    assert from_mapping(Outer, to_mapping(config)) == config


def test_an_explained_configuration_reads_back() -> None:
    """The explained YAML reads back; it has each option's help and the choices of a closed list."""
    config = from_mapping(
        Outer, {"name": "x: #1", "inner": {"rate": 0.25}, "rates": {"a": 0.5}, "items": "a,b"}
    )
    text = explain(config)
    assert from_mapping(Outer, yaml.safe_load(text)) == config
    assert "  rate: 0.25  # A rate.\n" in text
    assert "kind: kl  # [kl | js] A kind.\n" in text


def test_a_mistake_is_told_by_the_name_that_set_takes() -> None:
    """The message of a mistake names what to type instead, with its group."""
    for values, meant in (
        ({"nmae": 1}, "name"),
        ({"rate": 1}, "inner.rate"),
        ({"inner.rat": 1}, "inner.rate"),
    ):
        with pytest.raises(ConfigError, match=rf"did you mean {meant}\? known"):
            from_mapping(Outer, values)

    with pytest.raises(ConfigError, match=r"unknown option quite_else; known"):
        from_mapping(Outer, {"quite_else": 1})

    with pytest.raises(ConfigError, match=r"^inner\.share: got 2.0, expected at most 1"):
        from_mapping(Outer, {"name": "x", "inner": {"share": 2}}, where="options")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "name must be given"),
        ({"name": "x", "nmae": 1}, "unknown option nmae"),
        ({"name": "x", "count": "three"}, "expected int"),
        ({"name": "x", "count": 1.5}, "expected int"),
        ({"name": "x", "kind": "l2"}, "expected one of kl, js"),
        ({"name": "x", "inner": {"rate": "fast"}}, r"inner\.rate: got 'fast', expected float"),
        ({"name": "x", "rates": "a"}, "expected name=value"),
        ({"name": "x", "enabled": "perhaps"}, "expected bool"),
        ({"name": 3}, "expected str"),
    ],
)
def test_wrong_values_say_what_was_expected(values: dict[str, object], message: str) -> None:
    """An error names the option, what was got and what was expected."""
    with pytest.raises(ConfigError, match=message):
        from_mapping(Outer, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    labeled: int = option(default=1, help="A count.", former=("labelled",))
    inner: Inner = inlined(Inner)


def test_an_inlined_group_is_given_without_its_name() -> None:
    """An inlined group's options stand among the others: in YAML, errors and printed text."""
    config = from_mapping(Renamed, {"rate": 0.25, "labeled": 2})
    assert config == Renamed(labeled=2, inner=Inner(rate=0.25))
    assert to_mapping(config) == {"labeled": 2, "rate": 0.25, "share": 0.5}
    assert from_mapping(Renamed, yaml.safe_load(explain(config))) == config

    with pytest.raises(ConfigError, match=r"configuration\.rate: got 'x', expected float"):
        from_mapping(Renamed, {"rate": "x"})
    with pytest.raises(ConfigError, match=r"share: got 2\.0, expected at most 1"):
        from_mapping(Renamed, {"share": 2})
    with pytest.raises(ConfigError, match="unknown option inner"):
        from_mapping(Renamed, {"inner": {"rate": 0.25}})


def test_a_former_name_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A former name alone is taken as the option, with a warning.

    Beside the present name it is refused, as nobody could know which is meant.
    """
    assert from_mapping(Renamed, {"labelled": 3}).labeled == 3
    assert "configuration.labelled is now called labeled" in caplog.text
    assert by_present_names(Renamed, {"labelled": 3, "other": 1}) == {"labeled": 3, "other": 1}
    with pytest.raises(ConfigError, match="got labeled and its former name labelled"):
        from_mapping(Renamed, {"labelled": 3, "labeled": 3})
