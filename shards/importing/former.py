"""Shards that the last release imported: before they go, what their labels were made from is kept.

See `shards/tables/former.py`.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from shards.errors import BadSample, BadShard
from shards.samples.content import SEEN_BY_LABELERS
from shards.samples.sample import parse_sample
from shards.storage.files import exists, list_files, open_ranged
from shards.tables.former import contents_url, write_contents
from shards.tar.reader import index_shard, read_members


def keep_contents(urls: Sequence[str], num_workers: int) -> None:
    """Leave the contents of the samples of the shards at `urls` beside each of them."""
    with ThreadPoolExecutor(num_workers) as pool:
        list(pool.map(_keep, [url for url in urls if not exists(contents_url(url))]))


def _keep(url: str) -> None:
    keys, offsets, contents = [], [], []
    (shard,) = list_files(url)

    with open_ranged(url) as reader:
        for entry in index_shard(reader).entries:
            try:
                members = read_members(reader, entry)
                metadata = parse_sample(entry.key, members).metadata
            # A sample that cannot be read has no label that could be kept.
            except (BadSample, BadShard):
                continue
            keys.append(entry.key)
            offsets.append(entry.offset)
            contents.append(SEEN_BY_LABELERS.digest(members, metadata))

    if keys:
        write_contents(shard, keys, offsets, contents)
