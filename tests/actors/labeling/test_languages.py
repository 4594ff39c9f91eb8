"""A text labeler is not asked about a language that it does not know."""

from pathlib import Path

import pytest

from actors.labeling.config import PanelConfig
from actors.labeling.identity import panel_identity
from actors.labeling.panel import Panel
from actors.reading.utterance import Utterance
from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.emotions import EMOTIONS
from tests.actors.inference.tiny_checkpoints import write_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


def configure(folder: Path, **options: object) -> PanelConfig:
    text = {"checkpoint": str(folder), **options}
    return from_mapping(PanelConfig, {"text": text, "precision": "float32"})


def words(language: str | None) -> Utterance:
    return Utterance(
        index=0, key="k", offset=0, size=1, transcript="the door is open", language=language
    )


def test_words_in_another_language_get_a_reason_and_no_label(folder: Path) -> None:
    """A region does not matter, and an utterance that states no language is asked about."""
    panel = Panel(configure(folder, languages=["en", "de"]))
    panel.setup(num_threads=1)

    rows = panel.label([words("en"), words("EN-us"), words(None), words("zh"), words("de_AT")])

    assert [row.text is None for row in rows] == [False, False, False, True, False]
    assert rows[3].error == (
        "unknown_language: the words are in 'zh', the text labeler knows en, de"
    )
    assert [row.error for row in rows if row is not rows[3]] == [None] * 4


def test_without_languages_everything_is_asked_and_the_panel_stays_the_same(folder: Path) -> None:
    """A panel of an earlier release keeps its digest, and with it its tables."""
    plain = configure(folder)
    panel = Panel(plain)
    panel.setup(num_threads=1)

    assert panel.label([words("zh")])[0].text is not None
    assert panel_identity(plain).digest != panel_identity(configure(folder, languages="en")).digest
    # The digest that the release before `languages` computed for this panel.
    pinned = {"checkpoint": "j-hartmann/emotion-english-roberta-large", "revision": "0" * 40}
    assert panel_identity(
        from_mapping(PanelConfig, {"text": pinned, "precision": "float32"})
    ).digest == ("dad82058b2f375ef15b1e649c4c98a9b2983fefc42907536a2f3956d74df1124")


def test_the_table_says_which_emotions_a_labeler_knows(tmp_path: Path) -> None:
    """Of a four-class checkpoint the four, of a seven-class one all, in the project's order."""
    four = {0: "sad", 1: "neutral", 2: "happy", 3: "angry"}
    for name, labels in {"four": four, "seven": dict(enumerate(EMOTIONS))}.items():
        panel = Panel(configure(write_text(tmp_path / name, labels)))
        panel.setup(num_threads=1)
        expected = "neutral,anger,happiness,sadness" if name == "four" else ",".join(EMOTIONS)
        assert panel.labelers["text"]["emotions"] == expected


@pytest.mark.parametrize("language", ["en-US", "EN", "e1", ""])
def test_codes_with_regions_are_refused(folder: Path, language: str) -> None:
    """The option names languages, not places where they are spoken."""
    with pytest.raises(ConfigError, match=r"languages: got .*expected codes without a region"):
        configure(folder, languages=[language])
