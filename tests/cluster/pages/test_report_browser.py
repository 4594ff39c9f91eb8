"""The report in a real browser, on the screens of a desktop, a tablet and a phone.

The tests are skipped where there is no Chromium.
"""

from pathlib import Path

import pytest

from cluster.pages.report import ReportConfig, write_report
from shards.samples.sample import Sample
from tests.cluster.pages.browser import SCREENS, Browser, needs_browser
from tests.cluster.pages.report_world import make_selected
from tests.worlds.small import make_sample, write_shard

pytestmark = needs_browser

DURATIONS = """
const sounds = [...document.querySelectorAll('audio')];
return Promise.all(sounds.map(audio => new Promise(done => {
  if (audio.readyState > 0) return done(audio.duration);
  audio.addEventListener('loadedmetadata', () => done(audio.duration), {once: true});
  audio.addEventListener('error', () => done(-1), {once: true});
  audio.load();
})));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose names are as long as names may be."""
    root = tmp_path_factory.mktemp("browser")
    (root / "shards").mkdir()
    write_shard(
        root / "shards" / f"{'s' * 80}.tar", [lengthy_sample(number) for number in range(90)]
    )
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


@pytest.mark.parametrize("screen", SCREENS)
def test_page_fits_and_is_quiet(browser: Browser, page: Path, screen: str) -> None:
    """Nothing scrolls sideways, the console stays empty, and only the file itself is fetched."""
    assert browser.page_faults(page, screen) == []


def test_sounds_play(browser: Browser, page: Path) -> None:
    """Every player finds its sound, 0.3 s long, under the page's own security policy."""
    browser.show(page, "desktop")
    durations = browser.evaluate(DURATIONS)
    assert len(durations) >= 8
    assert durations == pytest.approx([0.3] * len(durations), abs=0.01)


@pytest.mark.parametrize("screen", SCREENS)
def test_charts_are_readable(browser: Browser, page: Path, screen: str) -> None:
    """No label leaves its chart or lies over another, and none is smaller than 10 pixels."""
    browser.show(page, screen)
    assert browser.chart_faults() == []


def test_dark_scheme_is_dark(browser: Browser, page: Path) -> None:
    """The page follows the color scheme of its reader."""
    backgrounds = {}
    for scheme in ("light", "dark"):
        browser.show(page, "desktop", scheme)
        backgrounds[scheme] = browser.evaluate(
            "return getComputedStyle(document.body).backgroundColor"
        )
    assert backgrounds == {"light": "rgb(246, 246, 243)", "dark": "rgb(20, 23, 26)"}
