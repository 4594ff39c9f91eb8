"""The splits that speakers are divided into."""

from collections import defaultdict
from collections.abc import Iterable

DEFAULT_SPLIT = "train"
SPLITS = ("train", "validation", "test")


def shared_speakers(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The splits of each speaker who has several, from one (speaker, split) an utterance."""
    splits: dict[str, set[str]] = defaultdict(set)
    for speaker, split in pairs:
        splits[speaker].add(split)

    return {
        speaker: tuple(sorted(found)) for speaker, found in sorted(splits.items()) if len(found) > 1
    }
