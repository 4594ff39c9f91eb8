"""The two ways in which input can be unusable, and the form of a reason: `"code: detail"`.

The code is for counting (`rejected` in a summary), the detail for the person who has to find the
file. An exception holds code and detail apart, so that the caller who catches the exception does
not have to parse a text. Only unusable *input* is reported in this way. A full disk or a refused
credential is not a bad sample: it stays an OSError and stops the job.
"""

from collections import Counter
from collections.abc import Iterable

# The codes of a json that cannot be used. The bytes are as they were written, so restoring a file
# would not help.
JSON_CODES = frozenset({"bad_json", "bad_metadata"})


# BadSample and BadShard say what is wrong; "Error" at the end of their names would add nothing.
class _BadInput(ValueError):  # noqa: N818
    """The common base of BadSample and BadShard."""

    def __init__(self, code: str, detail: str) -> None:
        # ValueError gets both arguments, so that pickling carries the exception from a worker to
        # the driver unchanged.
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    @property
    def reason(self) -> str:
        """`"code: detail"`, the form that tables store."""
        return f"{self.code}: {self.detail}"

    def __str__(self) -> str:
        return self.reason


class BadSample(_BadInput):
    """One sample cannot be used; the other samples of its shard can."""


class BadShard(_BadInput):
    """A shard cannot be read from some point on."""


def reason_code(reason: str) -> str:
    """The code of a reason: `"symbolic_link"` for `"symbolic_link: member 'a.flac'"`."""
    return reason.partition(":")[0]


def count_reasons(reasons: Iterable[str | None]) -> dict[str, int]:
    """The number of reasons with each code; None means that nothing is wrong and is not counted."""
    return dict(Counter(reason_code(reason) for reason in reasons if reason is not None))
