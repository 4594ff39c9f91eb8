"""What the HTML pages share: one file each, without scripts, to read, print and send on.

A page's content security policy forbids whatever is not inline style or inline sound: names, words
and reasons in it come from anywhere, and pages are opened on machines that matter. A dashboard
served from a process was left out: it ends with the process, and cannot be attached to a paper or a
ticket.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from shards.samples.keys import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionCell:
    """A cell of the confusion matrix: its count, its share of the row, and whether it is on the
    diagonal.
    """

    count: int
    share: float
    right: bool


ConfusionRow = tuple[str, tuple[ConfusionCell, ...]]


def render_page(template: str, **values: object) -> str:
    """The page as text; a value that the template asks for and does not get is an error."""
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
    """`44 %`, with a decimal below 10 % and near 100 %, where it matters."""
    exact = abs(share) in (0.0, 1.0) or 0.1 <= abs(share) <= 0.99
    return f"{100 * share:.0f} %" if exact else f"{100 * share:.1f} %"


def share_of(part: int, whole: int) -> float:
    """`part / whole`, 0 where there is nothing to have a share of."""
    return part / whole if whole else 0.0


def confusion_cells(
    labels: Sequence[str], matrix: Sequence[Sequence[int]]
) -> tuple[ConfusionRow, ...]:
    """(true label, its cells) of a confusion matrix whose rows are the truth."""
    return tuple(
        (name, tuple(_cell(number, row, right=at == place) for place, number in enumerate(row)))
        for at, (name, row) in enumerate(zip(labels, matrix, strict=True))
    )


def _cell(number: int, row: Sequence[int], *, right: bool) -> ConfusionCell:
    return ConfusionCell(count=number, share=share_of(number, sum(row)), right=right)
