"""The command `emostream convert`: pickled weights to safetensors, by an explicit step."""

import sys

from cluster.exit_status import ExitStatus
from trainers.preparation.converting.config import ConvertConfig


def run_convert(config: ConvertConfig) -> int:
    """Run `emostream convert`."""
    # Imported here: torch would slow the help of this command down.
    from trainers.preparation.converting.converting import convert

    report = convert(config)
    tied = f", {report.num_tied} of them tied to others" if report.num_tied else ""
    sys.stdout.write(
        f"{report.num_weights} weights of a {report.model_type} model{tied} in {config.out}\n"
    )
    return ExitStatus.DONE
