"""The page of a probe shows figures, stars and differences, and names cannot become markup."""

import copy
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.pages.embedding_map import place_embeddings
from cluster.pages.probe import FIGURES, probe_page
from shards.config import ConfigError
from tests.cluster.pages.browser import SCREENS, Browser, needs_browser
from tests.cluster.pages.test_report import HOSTILE, Elements

NAMES = ["neutral", "anger"]


def make_document(**changes: Any) -> dict[str, Any]:
    """Return what probe.json holds of two folds; changes are of the top level or of `config`."""
    ends = {"by_speaker": [0.2, 0.4], "by_utterance": [0.25, 0.35]}
    figure = {"value": 0.3123, "std": 0.0456, **ends}
    fold = dict.fromkeys(FIGURES, 0.5)
    model = {"num_train": 1000, "num_validation": 20, "num_test": 30, "layer_weights": []}

    document = {
        "name": "spectral",
        "encoder": "encoders/spectral",
        "input": "statistics",
        "corpus_digest": "0123",
        "truth": "emotion",
        "names": NAMES,
        "selected_on": "validation",
        "shares_speakers": False,
        "num_parameters": 22_280,
        "num_utterances": 1050,
        "num_speakers": 24,
        "num_without_label": 0,
        "rejected": {},
        "figures": {mean: dict.fromkeys(FIGURES, figure) for mean in ("folds", "pooled")},
        "confusion": [[10, 5], [7, 8]],
        "folds": [{"name": name, **fold} for name in ("Ses1", "Ses2")],
        "models": [{"fold": name, **model} for name in ("Ses1", "Ses2")],
        "config": {
            "folds": "session",
            "num_utterances": None,
            "subset_seed": [0],
            "layers": "last",
            "head": "emotion2vec",
            "map": "tsne",
        },
    }
    config = {name: changes.pop(name) for name in list(changes) if name in document["config"]}  # type: ignore[operator]
    made = copy.deepcopy(document | changes)
    made["config"] |= config  # type: ignore[operator]
    return made


def make_places() -> pa.Table:
    return pa.table(
        {
            "key": [f"u{number}" for number in range(20)],
            "x": np.linspace(0, 1, 20),
            "y": np.linspace(1, 0, 20),
            "truth": [NAMES[number % 2] for number in range(20)],
            "speaker": [HOSTILE if number == 3 else f"s{number % 4}" for number in range(20)],
        }
    )


def rendered(*documents: dict[str, Any]) -> str:
    """The page of the first document, with the others beside it."""
    difference = {
        mean: {
            name: {"value": -0.05, "by_speaker": [-0.09, -0.01], "by_utterance": [-0.08, -0.02]}
            for name in FIGURES
        }
        for mean in ("folds", "pooled")
    }
    differences = [difference if other["name"] == "paired" else None for other in documents[1:]]
    return probe_page(documents, differences, [make_places()] + [None] * len(documents[1:]))


def test_the_page_has_a_line_for_each_method() -> None:
    """Means over folds with spreads, pooled figures with both intervals, folds and confusion."""
    page = Elements(rendered(make_document(), make_document(name="paired")))
    for words in (
        "WA 31.23 %, the mean of 2 folds",
        "± 4.56",
        "20.0 to 40.0",
        "25.0 to 35.0",
        "22,280",
        "1,000 / 20 / 30",
        "-5.00",
        "-9.0 to -1.0",
        "1,050 utterances of 24 speakers, 2 classes; folds session",
    ):
        assert words in page.text
    assert len(page.named("circle")) == 2 * 20  # by emotion, and by speaker
    assert "chosen on the tested utterances" not in page.text
    assert "strangers" not in page.text


def test_other_protocols_have_tables_of_their_own() -> None:
    """Figures of other folds or of fewer labels do not stand below each other."""
    page = Elements(
        rendered(
            make_document(),
            make_document(name="random", folds="random:10", shares_speakers=True),
            make_document(name="few", num_utterances=100, subset_seed=[0, 1, 2]),
        )
    )
    # For each protocol two tables; then differences, folds and confusion.
    assert len(page.named("table")) == 2 * 3 + 3
    assert "training utterances: 100 (drawn 3 times)" in page.text
    assert "tested on other utterances or in other folds" in page.text
    assert "such figures say nothing about strangers" in page.text


def test_figures_chosen_on_the_test_fold_have_stars() -> None:
    """The name has a star wherever it stands, and the page says what it means."""
    text = Elements(rendered(make_document(), make_document(name="best", selected_on="test"))).text
    assert text.count("best*") == len(re.findall("best(?! epoch)", text))
    assert text.count("best*") == 3  # means, pooled figures, differences
    assert "spectral*" not in text
    assert "These figures are too good" in text


def test_learned_layer_weights_are_shown() -> None:
    """The mean over models, in percent."""
    document = make_document(layers="weighted")
    document["models"][0]["layer_weights"] = [0.2, 0.8]
    document["models"][1]["layer_weights"] = [0.4, 0.6]
    text = Elements(rendered(document)).text
    assert "30.00" in text
    assert "70.00" in text


def test_names_cannot_become_markup() -> None:
    """A name that is a script is shown and not run."""
    page = Elements(rendered(make_document(name=HOSTILE, encoder=HOSTILE, rejected={HOSTILE: 2})))
    assert not page.named("script")
    assert not page.named("img")
    assert "alert(1)" in page.text


def test_a_missing_map_is_explained() -> None:
    """Too few utterances give no map, and a missing package is named with the remedy."""
    page = probe_page([make_document()], [], [None])
    assert "too few tested utterances to place on a plane: at least 8" in Elements(page).text


def test_umap_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the error says what to install."""
    monkeypatch.setitem(sys.modules, "umap", None)
    vectors = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    groups = [np.asarray([row]) for row in range(20)]
    with pytest.raises(ConfigError, match=r"pip install 'emostream\[umap\]'"):
        place_embeddings(vectors, groups, 0, "umap")


@needs_browser
@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_fits_and_its_charts_are_readable(
    browser: Browser, tmp_path: Path, screen: str
) -> None:
    """In a real browser, the page fits three widths and no label lies over another."""
    page = tmp_path / "probe.html"
    documents = [make_document(name=f"method {number} " * 4) for number in range(4)]
    page.write_text(rendered(*documents), encoding="utf-8")
    assert browser.page_faults(page, screen) == []
    assert browser.chart_faults() == []
