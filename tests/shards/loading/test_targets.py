"""Classes of any vocabulary: learned from the corpus, named, merged, counted, refused by name."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.emotions import EMOTIONS, class_name, in_order
from shards.loading.index import CorpusIndex, read_index
from shards.loading.targets import (
    TargetConfig,
    labels_outside,
    read_targets,
    require_known_labels,
    resolve_classes,
)
from shards.samples.sample import Sample
from tests.worlds.small import write_shard

EMODB = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "boredom")


def corpus(folder: Path, stated: dict[str, list[object]]) -> CorpusIndex:
    """An index of utterances whose json holds the given fields, a column each."""
    rows = [dict(zip(stated, values, strict=True)) for values in zip(*stated.values(), strict=True)]
    samples = [
        Sample(key=f"u{number:03d}", transcript="a", metadata={"speaker": "s", **row})
        for number, row in enumerate(rows)
    ]
    write_shard(folder / "a.tar", samples)
    return read_index(f"{folder}/a.tar")


@pytest.mark.parametrize("field", ["label", "emotion"])
def test_the_corpus_gives_the_classes(tmp_path: Path, field: str) -> None:
    """All labels that occur are classes, in either field, the seven emotions first."""
    index = corpus(tmp_path, {field: ["boredom", "Anger", "happy", " Calm ", "anger", None]})
    config = TargetConfig(kind=field)  # type: ignore[arg-type]
    names = resolve_classes(index, config)
    assert names == ("anger", "happiness", "boredom", "calm")

    targets = read_targets(index, config, names)
    assert targets.labels.tolist() == [2, 0, 1, 3, 0, -1]
    assert labels_outside(index, config, names) == {}


def test_the_vocabularies_of_known_corpora(tmp_path: Path) -> None:
    """EmoDB's seven classes, three of sentiment, and classes that are numbers are learned."""
    for number, stated in enumerate([EMODB, ("negative", "neutral", "positive"), (0, 1, 2)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        names = resolve_classes(corpus(folder, {"label": list(stated)}), TargetConfig())
        assert set(names) == {str(name) for name in stated}


def test_labels_are_merged(tmp_path: Path) -> None:
    """A merged label counts as its class, under any spelling; the others stay."""
    index = corpus(tmp_path, {"emotion": ["excitement", "Excitement", "joy", "sad"]})
    config = TargetConfig(kind="emotion", merge={"EXCITEMENT": "happy"})
    names = resolve_classes(index, config)
    assert names == ("happiness", "sadness")
    assert read_targets(index, config, names).labels.tolist() == [0, 0, 0, 1]


def test_a_label_outside_the_classes_is_an_error_or_dropped(tmp_path: Path) -> None:
    """The error names the labels, their numbers and the remedies; dropped rows are counted."""
    index = corpus(tmp_path, {"label": ["anger", "fear", "boredom", "calm", "boredom", None]})
    config = TargetConfig(classes=("Anger", "fear"))
    names = resolve_classes(index, config)
    assert names == ("anger", "fear")

    with pytest.raises(ConfigError, match=r"3 of 6 .* train .*: boredom 2, calm 1; .*=drop"):
        require_known_labels(index, config, names, "train")
    dropping = TargetConfig(classes=("anger", "fear"), unknown="drop")
    require_known_labels(index, dropping, names, "train")
    assert labels_outside(index, dropping, names) == {"boredom": 2, "calm": 1}
    assert read_targets(index, dropping, names).labels.tolist() == [0, 1, -1, -1, -1, -1]


def test_classes_that_nobody_has_are_refused(tmp_path: Path) -> None:
    """A class without a training utterance, and fewer than two classes, are errors."""
    index = corpus(tmp_path, {"label": ["anger", "boredom"]})
    with pytest.raises(ConfigError, match=r"no training utterance is calm; .* anger, boredom"):
        resolve_classes(index, TargetConfig(classes=("anger", "calm")))
    with pytest.raises(ConfigError, match="1 classes, expected at least 2"):
        resolve_classes(index, TargetConfig(merge={"boredom": "anger"}))


def test_a_label_that_is_no_name_is_refused(tmp_path: Path) -> None:
    """A label that is a list, or a truth value, is data that cannot be used: no damage."""
    for number, label in enumerate([["anger"], True, 1.5]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ConfigError, match="expected the name of a class"):
            corpus(folder, {"label": [label]})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"merge": {"a": "b", "b": "c"}}, "both merged and merged into"),
        ({"classes": ("a", "b"), "merge": {"a": "b"}}, "merge counts as another class"),
        ({"classes": ("anger", " ")}, "expected the name of a class"),
        ({"kind": "label_probs", "classes": ("anger", "calm")}, "got calm, but the stored"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, object], said: str) -> None:
    """Options that leave open what a label means are refused before any shard is read."""
    with pytest.raises(ConfigError, match=said):
        TargetConfig(**options)  # type: ignore[arg-type]


def test_weak_distributions_are_unchanged_and_merge_by_adding(tmp_path: Path) -> None:
    """A packed distribution is learned as it is stored; merged emotions add up."""
    stored = [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    index = corpus(tmp_path, {"label": ["neutral"], "label_probs": [stored]})

    whole = read_targets(index, TargetConfig(kind="label_probs"), EMOTIONS)
    np.testing.assert_allclose(whole.array[0], stored, rtol=1e-6)

    config = TargetConfig(
        kind="label_probs", classes=("neutral", "anger"), merge={"disgust": "anger"}
    )
    found = read_targets(index, config, resolve_classes(index, config))
    np.testing.assert_allclose(found.array[0], [4 / 6, 2 / 6], rtol=1e-6)


@given(st.text(max_size=20))
def test_naming_a_class_twice_changes_nothing(text: str) -> None:
    """A class's name is the name of itself, and case and outer spaces do not matter."""
    name = class_name(text)
    if name is not None:
        assert class_name(name) == name
        assert class_name(f"  {text} ") == name


@given(st.lists(st.sampled_from([*EMOTIONS, "calm", "boredom"])))
def test_the_order_of_classes_depends_on_nothing_else(names: list[str]) -> None:
    """Each class stands once, in an order that the order of the rows does not change."""
    assert in_order(names) == in_order(reversed(names))
    assert sorted(in_order(names)) == sorted(set(names))
