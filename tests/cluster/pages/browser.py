"""A headless Chromium driven over plain HTTP (W3C WebDriver): it opens a page and measures it.

Selenium and Playwright were left out: three kinds of request are enough, and either would be one
more thing to keep in step with the browser.
"""

import base64
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Addresses that need no network: a page's own data, and the browser's first page.
OWN = ("data:", "chrome:")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
CHROMEDRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver on the PATH"
)
SCREENS = {"desktop": (1280, 900, False), "tablet": (820, 1100, False), "phone": (375, 812, True)}
SMALLEST_TEXT_PIXELS = 10
START_SECONDS = 20.0
REQUEST_SECONDS = 30.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


# Text of a chart that leaves its drawing, and texts of one chart that lie over each other.
CHART_FAULTS = """
const faults = [];
for (const chart of document.querySelectorAll('svg.chart')) {
  const frame = chart.getBoundingClientRect();
  const boxes = [...chart.querySelectorAll('text')]
    .map(text => [text.textContent, text.getBoundingClientRect()]);
  boxes.forEach(([words, box], index) => {
    if (box.left < frame.left - 1 || box.right > frame.right + 1)
      faults.push(words + ' leaves its chart');
    for (const [others, other] of boxes.slice(index + 1))
      if (box.left < other.right - 1 && other.left < box.right - 1
          && box.top + 4 < other.bottom && other.top + 4 < box.bottom)
        faults.push(words + ' lies over ' + others);
  });
}
return faults;
"""
SMALLEST_CHART_TEXT = (
    "return Math.min(...[...document.querySelectorAll('svg.chart')].map(chart => "
    "parseFloat(getComputedStyle(chart).fontSize) * chart.getBoundingClientRect().width / 420))"
)


class Browser:
    """One tab of a running browser."""

    def __init__(self, driver_url: str, profile: Path) -> None:
        self._base = driver_url
        options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }

        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})[
            "sessionId"
        ]
        self._base = f"{driver_url}/session/{session}"

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Behave as a screen of this size, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Prefer the light or the dark scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", {"features": features})

    def open(self, page: Path) -> None:
        """Load a local file and wait until it is complete."""
        self._call("POST", "/url", {"url": page.resolve().as_uri()})

    def evaluate(self, script: str) -> Any:
        """Return what a function body returns in the page, after a promise is fulfilled."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def show(self, page: Path, screen: str, scheme: str = "light") -> None:
        """Load a local file on one of `SCREENS`."""
        width, height, phone = SCREENS[screen]
        self.resize(width, height, phone=phone)
        self.prefer(scheme)
        self.requested_urls()  # forget the requests of the page before
        self.open(page)

    def page_faults(self, page: Path, screen: str) -> list[str]:
        """Return what a self-contained page must not do, but does.

        It must not scroll sideways, write to the console or fetch anything.
        """
        self.show(page, screen)
        faults = [entry["message"] for entry in self.log("browser")]
        # Why data: is allowed: the page's own sounds and the players' icons have such addresses.
        faults += [
            url for url in self.requested_urls() if not url.startswith(OWN) and url != page.as_uri()
        ]

        overflow = self.evaluate("return document.documentElement.scrollWidth - window.innerWidth")
        shown = self.evaluate("return window.innerWidth")
        if overflow > 0 or shown != SCREENS[screen][0]:
            faults.append(f"{overflow} pixels wider than the screen, which shows {shown}")

        return faults

    def chart_faults(self) -> list[str]:
        """Return the faults of the open page's charts.

        A label must not leave its chart, lie over another, or be too small to read.
        """
        faults: list[str] = self.evaluate(CHART_FAULTS)
        smallest = self.evaluate(SMALLEST_CHART_TEXT)
        return [
            *faults,
            *([f"text of {smallest} pixels"] if smallest < SMALLEST_TEXT_PIXELS else []),
        ]

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Return new entries of the `browser` (console) or the `performance` (network) log."""
        entries: list[dict[str, Any]] = self._call("POST", "/se/log", {"type": kind})
        return entries

    def requested_urls(self) -> list[str]:
        """Return what the page has requested since the last call, itself included."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [
            e["params"]["request"]["url"]
            for e in events
            if e["method"] == "Network.requestWillBeSent"
        ]

    def screenshot(self, path: Path) -> None:
        """Save the whole page as PNG."""
        answer = self.devtools("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(answer["data"]))

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        """Run a command of the DevTools protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def quit(self) -> None:
        """End the browser."""
        self._call("DELETE", "")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
            return json.load(answer)["value"]


@contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """Start driver and browser; whatever happens, neither outlives the block."""
    command = [str(CHROMEDRIVER), "--port=0"]
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )

    try:
        browser = Browser(f"http://127.0.0.1:{_port(driver)}", profile)
        try:
            yield browser
        finally:
            browser.quit()
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()


def _port(driver: "subprocess.Popen[bytes]") -> int:
    """Return the port that the driver says it listens on."""
    assert driver.stdout is not None
    deadline, said = time.monotonic() + START_SECONDS, b""

    while time.monotonic() < deadline:
        ready, _, _ = select.select([driver.stdout], [], [], deadline - time.monotonic())
        piece = os.read(driver.stdout.fileno(), 4096) if ready else b""
        if not piece:
            break
        said += piece

        found = re.search(rb"on port (\d+)\.", said)
        if found:
            return int(found[1])

    raise RuntimeError(f"chromedriver did not start; it said {said!r}")
