"""Frozen frames as `emostream features` makes them, by its own code, but in this process.

A cell makes features several times, and Ray takes longer to start than a small encoder to hear a
world. The files are the same to the byte.
"""

from collections.abc import Iterable
from pathlib import Path

from actors.embedding.config import EmbedderConfig
from actors.features.config import LayerChoice, features_fingerprint
from actors.features.extractors import make_extractor
from actors.features.shard import extract_shard
from actors.reading.config import MediaConfig
from actors.reading.reader import Needs, ShardOpened, ShardReader
from actors.reading.utterance import Utterance
from actors.work.task import ShardProgress, ShardTask
from cluster.jobs.plan import make_plan
from shards.storage.files import list_files
from shards.tables.features import READABLE_FORMATS, SUFFIX


def make_features(shards: str, encoder: str, out: Path) -> None:
    """Make the frames of an encoder's last layer for every shard that has none in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    config, layers = EmbedderConfig(encoder=encoder).anywhere(), LayerChoice(text="last")
    maker = features_fingerprint(config, layers)
    plan = make_plan(shards, list_files(shards), str(out), maker, READABLE_FORMATS, SUFFIX)
    if not plan.todo:
        return

    extractor = make_extractor(config, layers)
    extractor.setup(num_threads=1)
    for task in plan.todo:
        extract_shard(
            task,
            extractor,
            config.encoder,
            _utterances(task),
            shard_error=None,
            progress=ShardProgress(),
        )


def _utterances(task: ShardTask) -> Iterable[Utterance]:
    """The utterances of a shard, which is one of ours. Raises ValueError when it is damaged."""
    for item in ShardReader(MediaConfig(), Needs(audio=True, vision=False)).read(task.url):
        if not isinstance(item, ShardOpened):
            yield from item
        elif item.error is not None:
            raise ValueError(f"{task.url}: {item.error}; remove its corpus, and run this again")
