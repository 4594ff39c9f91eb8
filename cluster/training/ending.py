"""How a run ended, as a value: one of several runs must not end the others."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from shards.config import ConfigError
from shards.errors import JSON_CODES, BadShard

if TYPE_CHECKING:
    from trainers.engine.run import TrainingResult  # with torch, which the help text does not need


class WorkersFailedError(RuntimeError):
    """The Ray workers failed more often than they may be started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended.

    done: `result` holds the fields of its TrainingResult. refused: options or data cannot be used.
    stopped: a disk, a file or a machine failed, and the run can be resumed. `reason` says why.
    """

    kind: Literal["done", "refused", "stopped"]
    reason: str = ""
    result: dict[str, Any] | None = None


def shown_result(result: Mapping[str, Any]) -> str:
    """What a run has reached, from the fields of its TrainingResult."""
    reached = ", ".join(f"{name} {value:.3f}" for name, value in result["best"].items())
    early = ", stopped early" if result["stopped_early"] else ""
    best = f"best at step {result['best_step']} in validation: {reached}"
    return f"{result['steps']} steps{early}; {best}"


def ending_of(train: Callable[[], "TrainingResult"]) -> Ending:
    """Call `train`, and say how it ended. Whatever is no ending of a run is raised."""
    try:
        return Ending(kind="done", result=asdict(train()))
    except ConfigError as error:
        return Ending(kind="refused", reason=str(error))
    except BadShard as error:
        # A damaged file can be restored. What a json says wrongly needs another import.
        kind: Literal["refused", "stopped"] = "refused" if error.code in JSON_CODES else "stopped"
        return Ending(kind=kind, reason=str(error))
    except (OSError, WorkersFailedError) as error:
        return Ending(kind="stopped", reason=str(error))
