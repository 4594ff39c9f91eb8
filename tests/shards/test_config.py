"""Configurations: strict, converted alike from YAML and from a command line."""

from dataclasses import dataclass
from typing import Literal

import pytest

from shards.config import ConfigError, from_mapping, option, to_mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rate: float = option(default=0.5, help="A rate.")


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
    """What a command line gives as text equals what YAML gives as values."""
    text = {"name": "x", "count": "3", "items": "a,b", "rates": "a=0.5,b=1", "enabled": "true"}
    plain = {"name": "x", "count": 3, "items": ["a", "b"], "rates": {"a": 0.5, "b": 1}, "enabled": True}
    assert from_mapping(Outer, text) == from_mapping(Outer, plain)


def test_resolved_configuration_reads_back() -> None:
    """to_mapping is the inverse of from_mapping."""
    config = from_mapping(Outer, {"name": "x", "inner": {"rate": 0.25}, "kind": "js"})
    assert from_mapping(Outer, to_mapping(config)) == config


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
