"""Speakers who are in more than one split: figures about them are no figures about strangers.

A model that has trained on a speaker recognizes this speaker better, so such a corpus is refused
unless the options allow it.
"""

from collections.abc import Mapping

from shards.config import ConfigError
from shards.loading.index import NOBODY, CorpusIndex
from shards.samples.keys import printable
from shards.splits import shared_speakers

_MAX_NAMED = 5


def speakers_in_several_splits(index: CorpusIndex) -> dict[str, tuple[str, ...]]:
    """The splits of each speaker of `index` who has several."""
    columns = (index.table[name].to_pylist() for name in ("speaker", "split"))
    pairs = zip(*columns, strict=True)

    return shared_speakers((speaker, split) for speaker, split in pairs if speaker != NOBODY)


def shown_speakers(shared: Mapping[str, tuple[str, ...]]) -> str:
    """The speakers and their splits, for people; of many, the first ones."""
    named = [
        f"'{printable(speaker, 80)}' in {' and '.join(splits)}"
        for speaker, splits in list(shared.items())[:_MAX_NAMED]
    ]
    more = len(shared) - len(named)

    return ", ".join(named) + (f" and {more} more" if more else "")


def require_unshared(index: CorpusIndex, option: str) -> None:
    """Raise ConfigError when a speaker has utterances in several splits.

    `option` is the option that allows it, as people write it.
    """
    if shared := speakers_in_several_splits(index):
        raise ConfigError(
            f"{len(shared)} speakers have utterances in several splits: {shown_speakers(shared)}; "
            "a model would be measured on speakers that it has trained on. Correct `split` in the "
            "table and import it again, make folds of speakers (data.folds=speaker:5), or allow it "
            f"with {option}"
        )
