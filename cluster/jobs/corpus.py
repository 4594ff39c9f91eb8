"""The commands whose work is one function of `shards`: import, select and pack.

Each calls its function with a progress bar and prints what the function returned.
"""

import sys

from cluster.exit_status import ExitStatus
from cluster.jobs.import_report import report_lines
from cluster.progress import progress
from shards.importing.config import ImportConfig
from shards.importing.job import import_table
from shards.packing.job import PackConfig, pack
from shards.selection.job import select
from shards.selection.rule import SelectConfig


def run_import(config: ImportConfig) -> int:
    """Run `emostream import`.

    The exit status is 3 when some rows could not be imported or joined, or a speaker is in several
    splits. A row of ratings or demographics that fits no utterance is no fault.
    """
    with progress("import", "shards") as update:
        report = import_table(config, update)
    for line in report_lines(report, config):
        sys.stdout.write(f"{line}\n")

    remarks = report.remarks
    faulty = (
        report.rejected
        or remarks.shared_speakers
        or any(joined.is_faulty for joined in remarks.joined)
    )
    return ExitStatus.DAMAGED if faulty else ExitStatus.DONE


def run_select(config: SelectConfig) -> int:
    """Run `emostream select`."""
    summary = select(config)

    write = sys.stdout.write
    write(
        f"kept {summary['num_kept']} of {summary['num_utterances']} utterances, "
        f"{summary['num_speakers_kept']} of {summary['num_speakers_in']} speakers\n"
    )
    for code, number in summary["rejected"].items():
        write(f"  rejected {number} x {code}\n")
    for name, number in summary["classes"]["counts"].items():
        write(f"  {name} {number}\n")

    if unfinished := summary["shards"]["unfinished"]:
        sys.stderr.write(
            f"warning: {unfinished}; run `emostream label` again, and select after it\n"
        )
    for name, lacking in summary["missing_emotions"].items():
        write(f"  teacher {name} lacks {', '.join(lacking)}\n")
    if summary["advice"]:
        sys.stderr.write("warning: " + "\n  ".join(summary["advice"]) + "\n")

    write(f"selection in {config.out}; `emostream report {config.out}` shows it\n")
    return ExitStatus.DONE if summary["num_kept"] else ExitStatus.PROBLEM


def run_pack(config: PackConfig) -> int:
    """Run `emostream pack`."""
    with progress("pack", "shards") as update:
        summary = pack(config, update)

    write = sys.stdout.write
    write(
        f"{summary.num_utterances} utterances of {summary.num_speakers} speakers in "
        f"{summary.num_shards} shards, {summary.num_written} written now, in {config.out}\n"
    )
    for split, counts in summary.splits.items():
        write(
            f"  {split}: {counts['utterances']} utterances, {counts['speakers']} speakers, "
            f"{counts['shards']} shards\n"
        )

    return 0
