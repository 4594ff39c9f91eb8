"""What `emostream import` prints at its end: the rejected rows, and what to know of the others."""

from collections.abc import Iterator, Mapping

from shards.importing.config import ImportConfig
from shards.importing.job import REJECTED_NAME, ImportReport
from shards.importing.joining.joined import JoinReport
from shards.importing.joining.tables import REJECTED_NAMES
from shards.importing.twins import TwinReport
from shards.loading.shared_speakers import shown_speakers
from shards.samples.keys import printable
from shards.storage.files import join


def report_lines(report: ImportReport, config: ImportConfig) -> Iterator[str]:
    """The lines of the report, without line ends; the first one says how many rows came in."""
    if config.dry_run:
        yield (
            f"dry run: {report.num_imported} of {report.num_rows} rows would be imported, in "
            f"{report.num_shards} shards; nothing was written"
        )
    else:
        yield (
            f"{report.num_imported} of {report.num_rows} rows in {report.num_shards} shards in "
            f"{config.out}"
        )

    yield from _rejected(report, config)
    for joined in report.remarks.joined:
        yield from _joined(joined, config)
    yield from _remarks(report)


def _rejected(report: ImportReport, config: ImportConfig) -> Iterator[str]:
    for code, number in report.rejected.items():
        example = report.examples[code]
        detail = example.reason.partition(": ")[2]
        yield f"  rejected {number} x {code}; row {example.row}, '{example.key}': {detail}"

    if report.rejected and not config.dry_run:
        place = join(config.out, REJECTED_NAME)
        yield f"  every rejected row and its reason: {place} (rows count from 0)"


def _joined(joined: JoinReport, config: ImportConfig) -> Iterator[str]:
    """The lines on a joined table: who has something of it, and which of its rows were rejected."""
    num_rejected = sum(joined.rejected.values())
    yield (
        f"  {joined.field}: {joined.num_rows - num_rejected} of {joined.num_rows} rows joined; "
        f"utterances that have {_counts(joined.num_utterances) or 'any: 0'}"
    )

    if joined.num_without:
        yield (
            f"  {joined.field}: {joined.num_without} utterances have none, such as "
            f"'{joined.example_without}'"
        )
    if joined.null_cells:
        yield f"  {joined.field}: {_read_as_empty(joined.null_cells)}"
    for code, number in joined.rejected.items():
        example = joined.examples[code]
        detail = example.reason.partition(": ")[2]
        yield (
            f"  {joined.field}: rejected {number} x {code}; row {example.row}, '{example.key}': "
            f"{detail}"
        )
    if joined.rejected and not config.dry_run:
        yield f"  all of them: {join(config.out, REJECTED_NAMES[joined.field])}"


def _remarks(report: ImportReport) -> Iterator[str]:
    remarks = report.remarks

    if remarks.null_cells:
        yield f"  {_read_as_empty(remarks.null_cells)}"
    if remarks.num_unknown_emotions:
        yield (
            f"  {remarks.num_unknown_emotions} rows have an emotion that is none of the seven: "
            f"{_counts(remarks.unknown_emotions)}; `emostream train` can learn them, but `select` "
            "cannot check what teachers say against them"
        )
    if remarks.shared_speakers:
        yield (
            f"  {len(remarks.shared_speakers)} speakers are in several splits, so `train` and "
            f"`evaluate` will refuse the shards: {shown_speakers(remarks.shared_speakers)}; "
            "correct `split`, or train with data.folds=speaker:5 or data.allow_shared_speakers=true"
        )
    if remarks.twins.num_groups:
        yield _twins(remarks.twins)


def _twins(twins: TwinReport) -> str:
    example = ", ".join(
        f"'{printable(key)}' ({'no speaker' if speaker is None else printable(speaker, 80)})"
        for key, speaker in twins.example
    )
    return (
        f"  twins: {twins.num_rows} rows in {twins.num_groups} groups have the same sound and "
        f"video, {twins.num_under_several_speakers} of the groups under several speakers, such as "
        f"{example}; --deduplicate imports only the first of each"
    )


def _read_as_empty(cells: Mapping[str, int]) -> str:
    return (
        f"read as empty, because of a word such as NA: cells of {_counts(cells)}; --null-values "
        "changes the words"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())
