"""What the HTML pages share: each is one file without scripts, to read, print and send on.

A page's content security policy forbids everything but inline style and inline sound, because the
names, words and reasons on a page can come from anywhere. A dashboard served from a process was
left out: it ends with the process, and cannot be attached to a paper or a ticket.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from shards.samples.keys import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionCell:
    """A cell of the confusion matrix.

    It has its count, its share of the row, and whether it is `right`: on the diagonal.
    """

    count: int
    share: float
    right: bool


ConfusionRow = tuple[str, tuple[ConfusionCell, ...]]


def render_page(template: str, **values: object) -> str:
    """Render a page as text; a value that the template needs and does not get is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cluster.pages", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, printable=printable)
    return environment.get_template(template).render(**values)


def percent(share: float) -> str:
    """Format a share as `44 %`, with a decimal below 10 % and near 100 %, where it matters."""
    exact = abs(share) in (0.0, 1.0) or 0.1 <= abs(share) <= 0.99
    return f"{100 * share:.0f} %" if exact else f"{100 * share:.1f} %"


def share_of(part: int, whole: int) -> float:
    """Return `part / whole`, or 0 when the whole is 0."""
    return part / whole if whole else 0.0


def confusion_cells(
    labels: Sequence[str], matrix: Sequence[Sequence[int]]
) -> tuple[ConfusionRow, ...]:
    """Return (true label, its cells) for each row of a confusion matrix; rows are the truth."""
    return tuple(
        (name, tuple(_cell(number, row, right=at == place) for place, number in enumerate(row)))
        for at, (name, row) in enumerate(zip(labels, matrix, strict=True))
    )


def _cell(number: int, row: Sequence[int], *, right: bool) -> ConfusionCell:
    return ConfusionCell(count=number, share=share_of(number, sum(row)), right=right)
