"""The two ways input can be unusable, and the one form its reason takes everywhere: `"code:
detail"`.

The code is for counting (`rejected` in a summary), the detail for the person who has to find the
file. Exceptions carry both apart, so that no caller parses text it raised itself. Only unusable
*input* is reported this way: a full disk or a refused credential is no bad sample, stays an OSError
and stops the job.
"""

from collections import Counter
from collections.abc import Iterable


class _BadInput(ValueError):  # noqa: N818 (BadSample and BadShard say what is wrong; "Error" would add nothing)
    """Common shape of the two errors; pickles, so that it crosses from a worker to the driver
    whole.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    @property
    def reason(self) -> str:
        """`"code: detail"`, as it is stored in tables."""
        return f"{self.code}: {self.detail}"

    def __str__(self) -> str:
        return self.reason


class BadSample(_BadInput):
    """One sample cannot be used; the others of its shard can."""


class BadShard(_BadInput):
    """A shard cannot be read from some point on."""


def reason_code(reason: str) -> str:
    """The code of a reason, for counting: `reason_code("symbolic_link: member 'a.flac'") ==
    "symbolic_link"`.
    """
    return reason.partition(":")[0]


def count_reasons(reasons: Iterable[str | None]) -> dict[str, int]:
    """How many carry each code; None is nothing wrong."""
    return dict(Counter(reason_code(reason) for reason in reasons if reason is not None))
