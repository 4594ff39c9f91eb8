"""The report in a real browser, at the widths of a desktop and a phone. Skipped where there is no Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.report import ReportConfig, write_report
from shards.samples import Sample
from tests.cluster.browser import CHROMEDRIVER, CHROMIUM, Browser, running_browser
from tests.cluster.report_world import make_selected
from tests.small_world import make_sample, write_shard

pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver on the PATH")

SCREENS = {"desktop": (1280, 900, False), "tablet": (820, 1100, False), "phone": (375, 812, True)}
DURATIONS = """
const sounds = [...document.querySelectorAll('audio')];
return Promise.all(sounds.map(audio => new Promise(done => {
  if (audio.readyState > 0) return done(audio.duration);
  audio.addEventListener('loadedmetadata', () => done(audio.duration), {once: true});
  audio.addEventListener('error', () => done(-1), {once: true});
  audio.load();
})));
"""
# Text of a chart that leaves its drawing, and texts of one chart that lie over each other.
CHART_FAULTS = """
const faults = [];
for (const chart of document.querySelectorAll('svg.chart')) {
  const frame = chart.getBoundingClientRect();
  const boxes = [...chart.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  boxes.forEach(([words, box], index) => {
    if (box.left < frame.left - 1 || box.right > frame.right + 1) faults.push(words + ' leaves its chart');
    for (const [others, other] of boxes.slice(index + 1))
      if (box.left < other.right - 1 && other.left < box.right - 1
          && box.top + 4 < other.bottom && other.top + 4 < box.bottom) faults.push(words + ' lies over ' + others);
  });
}
return faults;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose names are as long as names may be."""
    root = tmp_path_factory.mktemp("browser")
    (root / "shards").mkdir()
    write_shard(root / "shards" / f"{'s' * 80}.tar", [lengthy_sample(number) for number in range(90)])
    selected = make_selected(root, root / "shards")
    return Path(write_report(ReportConfig(dir=str(selected.selection))))


def lengthy_sample(number: int) -> Sample:
    plain = make_sample(number, seconds=0.3)
    return Sample(
        key=f"{'k' * 200}-{number:03d}",
        audio=plain.audio,
        audio_format="flac",
        transcript="<b>unbroken</b>" * 20,
        metadata={**plain.metadata, "speaker": f"{'speaker' * 20}-{number % 3}", "simulation": {}},
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests here."""
    with running_browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


def open_page(browser: Browser, page: Path, screen: str, scheme: str = "light") -> None:
    width, height, phone = SCREENS[screen]
    browser.resize(width, height, phone=phone)
    browser.prefer(scheme)
    browser.requested_urls()  # the empty tab's own
    browser.open(page)


@pytest.mark.parametrize("screen", SCREENS)
def test_page_fits_and_is_quiet(browser: Browser, page: Path, screen: str) -> None:
    """Nothing scrolls sideways, the console stays empty, and nothing is fetched but the file itself."""
    open_page(browser, page, screen)
    assert browser.evaluate("return document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert browser.evaluate("return window.innerWidth") == SCREENS[screen][0]
    assert [entry["message"] for entry in browser.log("browser")] == []
    # data: are the sounds, and the icons of the browser's own players.
    assert [url for url in browser.requested_urls() if not url.startswith("data:")] == [page.as_uri()]


def test_sounds_play(browser: Browser, page: Path) -> None:
    """Every player has found its sound, 0.3 s long, under the page's own security policy."""
    open_page(browser, page, "desktop")
    durations = browser.evaluate(DURATIONS)
    assert len(durations) >= 8
    assert durations == pytest.approx([0.3] * len(durations), abs=0.01)


@pytest.mark.parametrize("screen", SCREENS)
def test_charts_are_readable(browser: Browser, page: Path, screen: str) -> None:
    """No label leaves its chart or lies over another, and none is smaller than 10 pixels."""
    open_page(browser, page, screen)
    assert browser.evaluate(CHART_FAULTS) == []
    smallest = browser.evaluate(
        "return Math.min(...[...document.querySelectorAll('svg.chart')].map(chart => "
        "parseFloat(getComputedStyle(chart).fontSize) * chart.getBoundingClientRect().width / 420))"
    )
    assert smallest >= 10


def test_dark_scheme_is_dark(browser: Browser, page: Path) -> None:
    """The page follows the reader's scheme."""
    backgrounds = {}
    for scheme in ("light", "dark"):
        open_page(browser, page, "desktop", scheme)
        backgrounds[scheme] = browser.evaluate("return getComputedStyle(document.body).backgroundColor")
    assert backgrounds == {"light": "rgb(246, 246, 243)", "dark": "rgb(20, 23, 26)"}
