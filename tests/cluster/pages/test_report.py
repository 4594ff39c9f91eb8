"""The report shows what the selection's files hold, and nothing in them can turn into markup."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cli import main
from cluster.pages.charts import Bar, Caption, Row, log_ticks, nice_ticks, row_chart
from cluster.pages.page import percent
from cluster.pages.report import ReportConfig, find_selection, render, run_report, write_report
from cluster.pages.report_charts import PUBLISHED_COUNTS
from cluster.pages.report_sections import headline, ordered_losses
from shards.config import ConfigError
from shards.emotions import EMOTIONS
from shards.media.audio import encode_flac
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.sample import Sample
from tests import ROOT
from tests.cluster.pages.report_world import DIGEST, Selected, make_selected
from tests.worlds.small import make_sample, write_shard

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7 * 7 }}\u202egnp.exe'
MAX_PAGE_BYTES = 6_000_000


class Elements(HTMLParser):
    """The elements and words of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def write_corpus(folder: Path, samples: list[Sample]) -> Path:
    folder.mkdir(parents=True)
    for start in range(0, len(samples), 40):
        write_shard(folder / f"part-{start // 40:03d}.tar", samples[start : start + 40])
    return folder


def sample_with(
    number: int, *, seconds: float = 0.2, transcript: str | None = None, **metadata: object
) -> Sample:
    plain = make_sample(number, seconds=seconds)
    return Sample(
        key=plain.key,
        audio=plain.audio,
        audio_format="flac",
        transcript=plain.transcript if transcript is None else transcript,
        metadata={**plain.metadata, **metadata},
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 utterances of five speakers."""
    return write_corpus(
        tmp_path_factory.mktemp("corpus") / "shards", [sample_with(number) for number in range(120)]
    )


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Selected:
    """An ordinary selection from these shards."""
    return make_selected(tmp_path_factory.mktemp("run"), shards)


def page_of(selected: Selected, out: Path) -> str:
    return Path(write_report(ReportConfig(dir=str(selected.selection), out=str(out)))).read_text(
        encoding="utf-8"
    )


def summary_of(selected: Selected) -> dict[str, object]:
    return dict(json.loads((selected.selection / "summary.json").read_text(encoding="utf-8")))


def test_page_tells_the_story(selected: Selected, tmp_path: Path) -> None:
    """Heading, losses and splits are those of a recount of the selection's own tables."""
    text = Elements(page_of(selected, tmp_path / "page.html")).text
    kept = pq.read_table(selected.selection / "selection.parquet")
    reasons = pq.read_table(selected.selection / "rejected.parquet")["reason"].to_pylist()
    truth = {f"utterance-{number:05d}": EMOTIONS[number % 7] for number in range(120)}
    right = np.mean([truth[row["key"]] == row["label"] for row in kept.to_pylist()])

    assert f"{kept.num_rows + len(reasons)} utterances in, {kept.num_rows} kept" in text
    assert f"Labels are right {percent(float(right))} of the time where both teachers agree" in text
    assert f"teachers disagree \N{MINUS SIGN}{reasons.count('disagreement')} (" in text
    for split in ("train", "validation", "test"):
        assert f"{split} {kept['split'].to_pylist().count(split)}" in text


def test_digests_are_cut_to_what_tells_two_apart(selected: Selected, tmp_path: Path) -> None:
    """The page shows only the first twelve digits of a digest."""
    text = Elements(page_of(selected, tmp_path / "page.html")).text
    assert f"weights sha256:{DIGEST[:12]} " in text
    assert DIGEST[:13] not in text


def test_same_selection_gives_the_same_page(selected: Selected, tmp_path: Path) -> None:
    """Two reports on one selection are equal: examples are drawn by seed, and no clock is read."""
    assert page_of(selected, tmp_path / "a.html") == page_of(selected, tmp_path / "b.html")


def test_every_section_has_its_chart(selected: Selected, tmp_path: Path) -> None:
    """There are six charts, each an image whose title and description are on the page."""
    elements = Elements(page_of(selected, tmp_path / "page.html"))
    ids = {attributes.get("id") for _, attributes in elements.found}
    charts = [svg for svg in elements.named("svg") if svg["class"] == "chart"]
    assert len(charts) == 6
    for chart in charts:
        assert chart["role"] == "img"
        assert set(str(chart["aria-labelledby"]).split()) <= ids


def test_page_needs_nothing_from_outside(selected: Selected, tmp_path: Path) -> None:
    """The policy forbids all but inline style and sound, and no element asks for more."""
    elements = Elements(page_of(selected, tmp_path / "page.html"))

    policy = next(meta["content"] for meta in elements.named("meta") if meta.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not {"script", "img", "link", "iframe", "object", "embed", "form"} & {
        tag for tag, _ in elements.found
    }

    for _, attributes in elements.found:
        assert (attributes.get("src") or "data:audio/flac").startswith("data:audio/flac")
        assert (attributes.get("href") or "#").startswith("#")


def test_examples_can_be_heard(selected: Selected, tmp_path: Path) -> None:
    """Each example carries the sound of its own utterance."""
    elements = Elements(page_of(selected, tmp_path / "page.html"))
    sounds = elements.named("audio")
    assert len(sounds) >= 8

    for audio in sounds:
        data = base64.b64decode(str(audio["src"]).partition(",")[2])
        key = str(audio["aria-label"]).removeprefix("Utterance ")

        original = make_sample(int(key.rpartition("-")[2]), seconds=0.2).audio
        assert original is not None
        np.testing.assert_allclose(
            soundfile.read(io.BytesIO(data))[0], soundfile.read(io.BytesIO(original))[0], atol=1e-4
        )


def test_long_and_many_sounds_keep_the_page_small(tmp_path: Path) -> None:
    """Long sounds are cut to 15 s, and the page says where a sound was left out."""
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 30 * SAMPLE_RATE_HZ).astype(np.float32)
    sound = encode_flac(noise)

    samples = [
        Sample(
            key=f"n{n:03d}",
            audio=sound,
            audio_format="flac",
            metadata={"speaker": f"s{n % 3}", "emotion": "anger"},
        )
        for n in range(40)
    ]

    page = page_of(
        make_selected(tmp_path, write_corpus(tmp_path / "shards", samples)), tmp_path / "page.html"
    )

    sounds = Elements(page).named("audio")
    first = base64.b64decode(str(sounds[0]["src"]).partition(",")[2])
    assert soundfile.info(io.BytesIO(first)).duration == pytest.approx(15.0)

    assert "left out to keep the page small" in page
    assert len(page.encode()) < MAX_PAGE_BYTES


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Hostile names, words and errors are shown, never obeyed.

    They hold markup, template code and marks that turn the direction of text.
    """
    samples = [
        sample_with(number, transcript=HOSTILE, speaker="s" + HOSTILE.replace("\u202e", ""))
        for number in range(60)
    ]
    selected = make_selected(tmp_path, write_corpus(tmp_path / "shards", samples))

    summary = summary_of(selected)
    summary["shards"] = {
        "num": 1,
        "unfinished": HOSTILE,
        "unreadable": [{"shard": HOSTILE, "error": HOSTILE}],
    }
    summary["panel"] = {HOSTILE: {HOSTILE: HOSTILE}}
    summary["rejected"] = {HOSTILE: 1}
    (selected.selection / "summary.json").write_text(json.dumps(summary))

    page = page_of(selected, tmp_path / "page.html")
    elements = Elements(page)
    assert not elements.named("script")
    assert not elements.named("img")
    assert not [
        name for _, attributes in elements.found for name in attributes if name.startswith("on")
    ]
    assert "<script>alert(2)" in elements.text
    assert "{{ 7 * 7 }}" in elements.text
    assert "\u202e" not in page


@settings(max_examples=25, deadline=None)
@given(text=st.text(min_size=1, max_size=80))
def test_no_text_changes_the_structure(text: str) -> None:
    """Whatever keys, shards, reasons and paths hold, the page has the elements of a plain one."""
    plain, strange = (structure_with(word) for word in ("plain", text))
    assert [tag for tag, _ in strange.found] == [tag for tag, _ in plain.found]


def structure_with(text: str) -> Elements:
    text = text.encode("utf-8", "replace").decode()  # Arrow cannot hold lone surrogates
    counts = dict.fromkeys(EMOTIONS, 0)
    summary = {
        "config": {
            "predictions": f"/nowhere/{text}",
            "teachers": ["text", "vision"],
            "distance": "kl",
            "classes": ["neutral"],
            "min_per_speaker": 1,
            "seed": 0,
        },
        "num_utterances": 1,
        "num_kept": 0,
        "num_rejected": 1,
        "rejected": {text.partition(":")[0]: 1},
        "num_speakers_in": 1,
        "num_speakers_kept": 0,
        "shards": {"num": 1, "unfinished": text, "unreadable": [{"shard": text, "error": text}]},
        "panel": {"text": {"checkpoint": text}},
        "hours": {"in": 0.0, "kept": 0.0},
        "keep_rates": {},
        "classes": {"counts": {"neutral": 0}, "counts_before": counts},
        "splits": {},
        "utterances_per_speaker": None,
        "gini": None,
        "agreement": None,
        "pairs": {},
        "retention": [],
        "quality": None,
    }

    selection = pa.table({name: pa.array([], pa.string()) for name in ("key", "shard", "label")})
    rejected = pa.table({"key": [text], "shard": [text], "reason": [f"code: {text}"]})

    return Elements(render(summary, selection, rejected, [f"/nowhere/{text}".replace("\0", "")]))


@pytest.mark.parametrize(
    ("options", "with_truth", "expected"),
    [
        ({"teachers": ("text",)}, True, "There is one teacher (text)"),
        ({}, False, "the samples carry no ground truth"),
        ({"min_per_speaker": 10_000}, True, "Nothing passed the selection"),
        ({"min_per_speaker": 10_000}, False, "Nothing passed the selection"),
        (
            {"teachers": ("text", "vision", "audio"), "distance": "js", "threshold": 0.2},
            True,
            "all teachers agree",
        ),
        ({"classes": ("neutral",)}, True, "Gini coefficient over the 1 kept classes"),
    ],
)
def test_selections_that_lack_something(
    shards: Path, tmp_path: Path, options: dict[str, object], with_truth: bool, expected: str
) -> None:
    """The page says what a selection lacks, such as a teacher, and shows the other sections."""
    selected = make_selected(tmp_path, shards, with_truth=with_truth, **options)
    assert expected in Elements(page_of(selected, tmp_path / "page.html")).text


def test_missing_predictions_are_said(shards: Path, tmp_path: Path) -> None:
    """Without prediction tables, the page has all its numbers and says why it has no examples."""
    selected = make_selected(tmp_path, shards)
    selected.predictions.rename(tmp_path / "elsewhere")
    text = Elements(page_of(selected, tmp_path / "page.html")).text
    assert "the prediction tables cannot be read" in text
    assert "utterances in" in text


def test_missing_shards_are_said(tmp_path: Path) -> None:
    """Examples keep their words and predictions when their sound is out of reach."""
    shards = write_corpus(tmp_path / "shards", [sample_with(number) for number in range(60)])
    selected = make_selected(tmp_path, shards)
    shards.rename(tmp_path / "elsewhere")
    elements = Elements(page_of(selected, tmp_path / "page.html"))
    assert not elements.named("audio")
    assert "shard out of reach" in elements.text
    assert any(word in elements.text for word in ("door", "nobody", "wonderful"))


def test_moved_run_still_finds_its_predictions(shards: Path, tmp_path: Path) -> None:
    """When the whole folder of a run has moved, the tables beside the selection are found."""
    make_selected(tmp_path / "before", shards)
    (tmp_path / "before").rename(tmp_path / "after")
    page = Path(write_report(ReportConfig(dir=str(tmp_path / "after")))).read_text(encoding="utf-8")
    assert Elements(page).named("audio")


@pytest.mark.parametrize(("simulation", "expected"), [({"group": 1}, True), (None, False)])
def test_synthetic_corpora_are_called_so(
    tmp_path: Path, simulation: object, expected: bool
) -> None:
    """The page has the notice exactly when samples say that they were simulated."""
    metadata = {} if simulation is None else {"simulation": simulation}
    samples = [sample_with(number, **metadata) for number in range(60)]
    page = page_of(
        make_selected(tmp_path, write_corpus(tmp_path / "shards", samples)), tmp_path / "page.html"
    )
    assert ("This corpus is synthetic" in page) is expected


def test_command_writes_beside_the_selection(
    selected: Selected, capsys: pytest.CaptureFixture[str]
) -> None:
    """DIR may be the selection or the folder that holds it; the page goes into DIR."""
    assert find_selection(str(selected.selection.parent)) == str(selected.selection)
    assert run_report(ReportConfig(dir=str(selected.selection.parent))) == 0
    assert (selected.selection.parent / "report.html").exists()
    assert str(selected.selection.parent / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize("is_finished", [False, True])
def test_an_unfinished_labeling_is_said(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, is_finished: bool
) -> None:
    """When labeling gave up shards, `select` warns, and the page repeats the warning."""
    selected = make_selected(tmp_path, shards)
    failed = [] if is_finished else [{"name": "lost.tar"}]
    (selected.predictions / "label-summary.json").write_text(json.dumps({"failed": failed}))

    options = [
        "--out",
        str(selected.selection),
        "--teachers",
        "text,vision",
        "--min-per-speaker",
        "2",
    ]
    assert main(["select", "--predictions", str(selected.predictions), *options]) == 0

    warning = capsys.readouterr().err
    assert ("gave up 1 shards (lost.tar)" in warning) is not is_finished
    assert (
        "gave up 1 shards (lost.tar)" in page_of(selected, tmp_path / "page.html")
    ) is not is_finished


@pytest.mark.parametrize("broken", ["missing", "not json", "other version", "no table"])
def test_unusable_folders_are_refused(tmp_path: Path, broken: str) -> None:
    """A folder without a complete selection is an error that names the command to run."""
    content = {
        "missing": None,
        "not json": "{",
        "other version": '{"format_version": 99}',
        "no table": '{"format_version": 2}',
    }

    if content[broken] is not None:
        (tmp_path / "summary.json").write_text(str(content[broken]))

    with pytest.raises(ConfigError, match="emostream select"):
        write_report(ReportConfig(dir=str(tmp_path)))


def test_losses_add_up_in_the_order_of_the_rule() -> None:
    """Unusable samples come first, then the steps of the selection, and none is lost."""
    rejected = {
        "speaker_below_minimum": 5,
        "disagreement": 40,
        "corrupt_audio": 2,
        "class_excluded": 9,
    }
    losses = ordered_losses(rejected)

    assert [count for _, count in losses] == [2, 40, 9, 5]
    assert losses[0][0] == "corrupt audio"


def test_published_counts_are_the_papers_totals() -> None:
    """The published class counts sum to the published sizes of the corpora."""
    assert {name: sum(counts.values()) for name, counts in PUBLISHED_COUNTS.items()} == {
        "EmoCeleb-A": 74_100,
        "EmoCeleb-V": 75_110,
    }


def test_headline_compares_with_the_best_teacher() -> None:
    """The headline says how much was kept, and compares the labels with the best teacher."""
    score = {"value": 0.91, "low": 0.9, "high": 0.92}
    summary = {
        "num_utterances": 4320,
        "num_kept": 1903,
        "config": {"teachers": ["text", "vision"]},
        "quality": {
            "kept": {"accuracy": score},
            "teachers": {"vision": {"accuracy": {**score, "value": 0.74}}},
            "kept_vs_best_teacher": {"best_teacher": "vision"},
        },
    }

    assert headline(summary) == (
        "4,320 utterances in, 1,903 kept (44 %). Labels are right 91 % of the time where both "
        "teachers agree; the best single teacher (vision) alone, 74 %."
    )

    # As for a teacher that alone names none of the wanted classes.
    summary["quality"]["teachers"]["vision"]["accuracy"]["value"] = None
    assert headline(summary).endswith("right 91 % of the time where both teachers agree.")


def test_a_report_is_of_its_own_corpus_wherever_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions of the same name, where the command runs, are not mistaken for its own."""
    for name, words in (("mine", "mine and mine alone"), ("other", "somebody else's")):
        corpus = write_corpus(
            tmp_path / f"{name}-shards", [sample_with(n, transcript=words) for n in range(60)]
        )
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        make_selected(Path(), corpus)

    (tmp_path / "mine" / "selection").rename(tmp_path / "kept")
    page = Path(write_report(ReportConfig(dir=str(tmp_path / "kept")))).read_text(encoding="utf-8")

    assert "mine and mine alone" in page
    assert "somebody else" not in page


@given(limit=st.floats(1e-6, 1e12))
def test_ticks_cover_the_axis(limit: float) -> None:
    """There are two to twelve even ticks from 0, the last of them at or beyond the limit."""
    ticks = nice_ticks(limit)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 12
    assert ticks[-1] >= limit * (1 - 1e-6)
    np.testing.assert_allclose(np.diff(ticks), ticks[1], rtol=1e-6)


def test_logarithmic_ticks_lie_on_the_axis() -> None:
    """From 0.05 to 20, the ticks are 1 and 3 times the powers of ten."""
    assert log_ticks(np.log10(0.05), np.log10(20)) == pytest.approx([0.1, 0.3, 1, 3, 10])


def test_bars_are_as_long_as_their_shares() -> None:
    """A bar from a quarter to three quarters covers half of the 420 units."""
    bar = Bar(begin=0.25, end=0.75, kind="accepted")
    chart = Elements(
        row_chart(
            Caption(name="a", title="b", description="c"), [Row(label="x", value="y", bars=(bar,))]
        )
    )
    drawn = next(rect for rect in chart.named("rect") if rect["class"] == "accepted")

    assert (drawn["x"], drawn["width"]) == ("105.0", "210.0")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.44, "44 %"), (0.0213, "2.1 %"), (0.995, "99.5 %"), (1.0, "100 %")],
)
def test_percentages_are_as_exact_as_they_need(share: float, text: str) -> None:
    """A share has a decimal where a whole percent would look like none or all."""
    assert percent(share) == text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_colors_have_contrast(scheme: str) -> None:
    """Every color of text has a contrast of 4.5:1 (WCAG AA) with what lies behind it."""
    sheet = (ROOT / "cluster" / "pages" / "page.html.j2").read_text(encoding="utf-8")
    roots = re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)[:2]
    colors = {}
    for root in roots if scheme == "dark" else roots[:1]:
        colors |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", root))

    for front in ("ink", "soft", "accent", "lost", "reference"):
        for back in ("card", "page"):
            assert contrast(colors[front], colors[back]) >= 4.5, (front, back)
    assert contrast(colors["warn-ink"], colors["warn"]) >= 4.5


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
