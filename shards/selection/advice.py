"""What to try when a selection keeps nothing, or next to nothing.

A selection that keeps none of four thousand utterances has done what it was told, but hardly what
was meant. So its largest losses are named, each with the option that decides it.
"""

from collections.abc import Mapping

from shards.selection.config import SelectConfig

FEW = 0.01
NUM_REASONS = 3

_REMEDIES: Mapping[str, str] = {
    "disagreement": "a larger --threshold keeps more; the report shows what each threshold would "
    "keep, and the panel may map a checkpoint's classes to the wrong emotions (label_names)",
    "class_excluded": "--classes names the emotions that are kept",
    "no_speaker": "give the utterances a `speaker` at import",
    "down_sampled": "larger shares in --keep-rates, or a larger --balance-to, keep more",
    "speaker_below_minimum": "a smaller --min-per-speaker keeps speakers with fewer utterances",
    "missing_prediction": "leave out of --teachers whoever cannot label these utterances, or label "
    "them with a panel that can",
    "outside_known_emotions": "choose teachers that know the same emotions",
    "low_confidence": "a smaller --min-confidence keeps more",
    "high_entropy": "a larger --max-entropy keeps more",
    "filtered": "--where leaves these out",
    "unknown_language": "the text labeler's `languages` do not include that of these utterances",
    "no_face": "leave vision out of --teachers, or give the panel another face detector",
}
_OTHERWISE = "rejected.parquet and `emostream report` say more"


def advice(
    num_kept: int, num_utterances: int, rejected: Mapping[str, int], config: SelectConfig
) -> list[str]:
    """Sentences on why a selection keeps none or under 1 %; none for a selection that keeps more.

    `rejected` counts the utterances by the code of their reason, the most frequent first.
    """
    if not num_utterances or num_kept >= FEW * num_utterances:
        return []

    kept = f"{num_kept} of {num_utterances} utterances are kept"
    lines = [f"{kept}; most are lost for these reasons:" if rejected else f"{kept}."]
    for code, number in list(rejected.items())[:NUM_REASONS]:
        option = f" (now {_present(code, config)})" if _present(code, config) else ""
        lines.append(f"{number} x {code}: {_REMEDIES.get(code, _OTHERWISE)}{option}")

    return lines


def _present(code: str, config: SelectConfig) -> str:
    """The present value of the option that decides about a reason."""
    return {
        "disagreement": f"{config.threshold}",
        "class_excluded": ",".join(config.classes),
        "speaker_below_minimum": f"{config.min_per_speaker}",
        "low_confidence": f"{config.min_confidence}",
        "high_entropy": f"{config.max_entropy}",
        "filtered": " ".join(config.where),
    }.get(code, "")
