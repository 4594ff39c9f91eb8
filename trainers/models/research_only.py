"""Remembers that an encoder has learned targets which may be used for research only.

The encoder's configuration says so, because every export holds it: what is fine-tuned or adapted
later, from this encoder or from its export, says it too. A file beside the weights was left out:
each recipe would have to copy it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainers.models.encoders.layerwise import LayerwiseEncoder

_FIELD = "research_only_targets"


def note_research_only(encoder: LayerwiseEncoder, makers: Iterable[str]) -> None:
    """Note who made the targets that `encoder` learns, beside those of its earlier training."""
    config = encoder.model.config
    if found := {*getattr(config, _FIELD, ()), *makers}:
        setattr(config, _FIELD, sorted(found))


def research_only_makers(encoder: Mapping[str, Any]) -> Sequence[str]:
    """Who made research-only targets of the encoder that this configuration describes."""
    makers: Sequence[str] = encoder.get(_FIELD, ())
    return makers


def research_only_text(encoder: Mapping[str, Any]) -> str:
    """A sentence for the model's card; empty where the encoder may be used for more."""
    makers = " and ".join(research_only_makers(encoder))
    return (
        f"The encoder has learned targets that {makers} made. The license of {makers} is for "
        "research only, and so is this model."
        if makers
        else ""
    )
