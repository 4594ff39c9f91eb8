"""Progress without a terminal: few lines, each with what is done, how fast, and the time left."""

import pytest

from cluster import progress as module
from cluster.progress import progress, rate_text


class Clock:
    """A `time` module whose clock is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_line_has_a_rate_and_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line comes every ten seconds; the last comes at the end, and only once."""
    with progress("pack", "shards") as update:
        for seconds, done in ((1, 2), (11, 20), (2, 24), (1, 40), (1, 40)):
            clock.now += seconds
            update(done, 40)

    assert capsys.readouterr().err.splitlines() == [
        "pack: 20 of 40 shards after 12 s, 1.7 a second, 12 s left",
        "pack: 40 of 40 shards after 15 s, 2.7 a second",
    ]


@pytest.mark.parametrize(
    ("done", "seconds", "text"), [(0, 9, ""), (5, 2, "2.5 a second"), (1, 40, "1.5 a minute")]
)
def test_slow_work_is_counted_by_the_minute(done: int, seconds: float, text: str) -> None:
    """A rate below one a second is shown by the minute, so that it is never rounded to 0."""
    assert rate_text(done, seconds) == text
