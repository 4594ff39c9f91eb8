"""`emostream report`: turn a selection folder into one HTML page to read, play, print and share."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.pages import report_charts
from cluster.pages import report_sections as sections
from cluster.pages.charts import spark_bars
from cluster.pages.page import render_page, share_of
from cluster.pages.report_examples import CLIP_SECONDS, choose_examples, common_reasons
from shards.config import ConfigError, option
from shards.emotions import EMOTIONS
from shards.selection.job import REJECTED_NAME, SELECTION_NAME, SUMMARY_NAME
from shards.selection.summary import FORMAT_VERSION
from shards.storage.documents import read_json
from shards.storage.files import atomic_write, exists, is_remote, join, read_bytes
from shards.storage.urls import local_path

PAGE_NAME = "report.html"
TEMPLATE_NAME = "report.html.j2"
MAX_TABLE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """Options of `emostream report`."""

    dir: str = option(
        help="Folder that `emostream select` wrote, or a folder that holds one as `selection`.",
        positional=True,
    )
    out: str | None = option(
        default=None, help="File or URL of the page; without it, report.html in DIR."
    )

    def __post_init__(self) -> None:
        if not self.dir:
            raise ConfigError(
                "DIR: got nothing, expected the folder that `emostream select --out` wrote"
            )


def run_report(config: ReportConfig) -> int:
    """Run `emostream report`: write the page, and print where it is."""
    sys.stdout.write(f"report in {write_report(config)}\n")
    return 0


def write_report(config: ReportConfig) -> str:
    """Write the page, and return its path or URL.

    Raises ConfigError when `dir` holds no complete selection.
    """
    folder = find_selection(config.dir)
    summary = _read_summary(join(folder, SUMMARY_NAME))
    selection, rejected = (
        _read_table(join(folder, name)) for name in (SELECTION_NAME, REJECTED_NAME)
    )

    page = render(summary, selection, rejected, prediction_folders(summary, folder))
    out = config.out or join(config.dir, PAGE_NAME)
    with atomic_write(out) as stream:
        stream.write(page.encode())

    return out if is_remote(out) else local_path(out)


def find_selection(folder: str) -> str:
    """Return the folder that holds the summary: `folder` itself, or its `selection`."""
    for candidate in (folder, join(folder, "selection")):
        if exists(join(candidate, SUMMARY_NAME)):
            return candidate
    raise ConfigError(
        f"{folder}: no {SUMMARY_NAME} in it or in its folder `selection`; "
        f"run `emostream select --predictions PREDICTIONS --out {folder}` first"
    )


def prediction_folders(summary: Mapping[str, Any], folder: str) -> list[str]:
    """Return the two folders where the prediction tables may be.

    The first is where the selection found them; the second is beside the selection, in case both
    have moved.
    """
    recorded = str(summary["config"]["predictions"])
    base = folder.rstrip("/") if is_remote(folder) else local_path(folder)
    return [recorded, join(base.rpartition("/")[0], recorded.rstrip("/").rpartition("/")[2])]


def render(
    summary: Mapping[str, Any], selection: pa.Table, rejected: pa.Table, predictions: Sequence[str]
) -> str:
    """Render the page as text; the same input gives the same page."""
    examples = choose_examples(selection, rejected, summary, predictions)

    return render_page(
        TEMPLATE_NAME,
        # Selections of an earlier release have neither advice nor missing emotions.
        summary={"advice": [], "missing_emotions": {}, **summary},
        config=summary["config"],
        headline=sections.headline(summary),
        agreeing=sections.agreeing(summary["config"]),
        interval=sections.interval,
        distance_name=sections.DISTANCE_NAMES[summary["config"]["distance"]],
        kept_share=share_of(summary["num_kept"], summary["num_utterances"]),
        charts={
            "flow": report_charts.flow_chart(summary),
            "balance": report_charts.balance_chart(summary),
            "gini": report_charts.gini_chart(summary),
            "agreement": report_charts.agreement_chart(summary),
            "retention": report_charts.retention_chart(summary),
            "quality": report_charts.quality_chart(summary),
        },
        scores=sections.quality_scores(summary),
        confusion=sections.confusion_rows(summary),
        panel=sections.panel_rows(summary),
        reasons=common_reasons(rejected, summary["config"]["seed"]),
        examples=examples,
        emotions=EMOTIONS,
        spark=lambda name, probs: spark_bars(name, tuple(zip(EMOTIONS, probs, strict=True))),
        clip_seconds=CLIP_SECONDS,
    )


def _read_summary(url: str) -> dict[str, Any]:
    try:
        summary = read_json(url)
    except ValueError as error:
        raise ConfigError(
            f"{url}: not a readable summary ({error}); run `emostream select` again"
        ) from error

    version = summary.get("format_version") if isinstance(summary, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{url}: got format {version!r}, expected {FORMAT_VERSION}; run `emostream select` "
            "again"
        )

    return dict(summary)


def _read_table(url: str) -> pa.Table:
    if not exists(url):
        raise ConfigError(
            f"{url}: missing, although the summary is there; run `emostream select` again"
        )

    try:
        return pq.read_table(pa.BufferReader(read_bytes(url, max_bytes=MAX_TABLE_BYTES)))
    except (pa.ArrowInvalid, ValueError) as error:
        raise ConfigError(
            f"{url}: not a readable Parquet file ({error}); run `emostream select` again"
        ) from error
