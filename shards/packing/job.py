"""`emostream pack`: the kept utterances become training shards, each of one split.

The utterances of a speaker lie together in a shard, so that a batch of B speakers x K utterances is
read sequentially. A packed shard is named after what goes into it: a job that was killed goes on
where it stopped, and a job whose shards are all there opens no labeled shard. Shards of an earlier
selection are removed before the first new shard is written, because a pattern like `train-*.tar`
must never match a mixture of two selections. A folder with a summary holds a whole pack.

The shards are written by threads: the work is reading and writing, and the computing in it
(checksums, JSON) is a few percent.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass

import pyarrow.compute as pc

from shards.config import ConfigError, option, require_positive
from shards.errors import BadShard
from shards.packing.plan import PLAN_COLUMNS, PlannedShard, plan_shards, stem_of
from shards.packing.shard import write_packed_shard
from shards.progress import OnProgress, unseen
from shards.selection.job import ShardVersion, read_selection
from shards.selection.rule import SPLITS
from shards.storage.files import FileIdentity, is_remote, list_files
from shards.storage.folder import Folder
from shards.storage.names import find_shards
from shards.storage.urls import local_path

SUMMARY_NAME = "pack-summary.json"
CONFIG_NAME = "pack.yaml"
FORMAT_VERSION = 1
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class PackConfig:
    """Options of `emostream pack`."""

    shards: str = option(help="Shards that were labeled: a glob, folder or file, local or remote.")
    selection: str = option(help="Folder that `emostream select` has written.")
    out: str = option(
        help="Folder for the training shards. Packed shards of an earlier selection in this folder "
        "are removed."
    )
    shard_size_mb: int = option(
        default=256,
        help="Target size of a training shard, in MiB. The utterances of a speaker are divided "
        "over several shards only when they exceed this size.",
    )
    num_workers: int = option(default=4, help="Number of shards that are written at the same time.")

    def __post_init__(self) -> None:
        require_positive(self, "--shard-size-mb", "--num-workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSummary:
    """What lies in the folder, in all and for each split.

    `num_written` counts the planned shards that this run wrote. `splits` has the utterances,
    speakers, shards and bytes of each split, and `shards` names the files.
    """

    num_utterances: int
    num_speakers: int
    num_shards: int
    num_written: int
    splits: Mapping[str, Mapping[str, int]]
    shards: Sequence[str]


def pack(config: PackConfig, on_progress: OnProgress = unseen) -> PackSummary:
    """Write the training shards that are not there yet; progress counts the shards to write.

    Raises ConfigError when the selection or a labeled shard cannot be found, or when
    `config.selection` keeps no utterance, and BadShard when a shard has changed since it was
    labeled.
    """
    selection, labeled = read_selection(config.selection, PLAN_COLUMNS)
    if selection.num_rows == 0:
        raise ConfigError(
            f"--selection {config.selection}: the selection keeps no utterance; its summary.json "
            "says why"
        )

    # All that can be refused is refused before the first change in the folder.
    sources = find_shards(config.shards, list_files(config.shards), sorted(labeled))
    _require_unchanged(sources, labeled)
    _require_other_folder(config.out, sources)
    plan = plan_shards(
        selection,
        {name: file.version for name, file in sources.items()},
        config.shard_size_mb * MIB,
    )

    folder = Folder(url=config.out, summary_name=SUMMARY_NAME, config_name=CONFIG_NAME)
    folder.make()
    todo = _prepare(plan, folder)
    _write_all(todo, {name: file.url for name, file in sources.items()}, config, on_progress)
    return _finish(plan, config, folder, num_written=len(todo))


def _require_unchanged(
    sources: Mapping[str, FileIdentity], labeled: Mapping[str, ShardVersion]
) -> None:
    """Raise BadShard when a shard has changed since it was labeled.

    The very file that was labeled must still have its size and its version. A copy at another place
    must have the same size, but may have another version, such as a later modification time.
    """
    for name, then in labeled.items():
        now = sources[name]
        if now.size != then.size or (now.url == then.url and now.version != then.version):
            got, expected = (
                f"{now.size} bytes, version {now.version}",
                f"{then.size} bytes, version {then.version}",
            )
            remedy = "run `emostream label` and `emostream select` again"

            raise BadShard(
                "changed_shard",
                f"{now.url}: got {got}, expected {expected}, as when it was labeled; {remedy}",
            )


def _require_other_folder(out: str, sources: Mapping[str, FileIdentity]) -> None:
    folder = out.rstrip("/") if is_remote(out) else local_path(out)
    for file in sources.values():
        if file.url.rpartition("/")[0] == folder:
            raise ConfigError(
                f"--out: got {out}, the folder of the labeled shards, expected another folder for "
                "the packed shards"
            )


def _prepare(plan: Sequence[PlannedShard], folder: Folder) -> list[PlannedShard]:
    """Remove packed shards that are not in `plan`, and return the planned shards not there yet."""
    existing = set(folder.names())
    todo = [planned for planned in plan if planned.name not in existing]

    stems = {planned.stem for planned in plan}
    stale = [
        name
        for name in sorted(existing)
        if (stem := stem_of(name)) is not None and stem not in stems
    ]

    # The folder is marked as unfinished before anything in it changes.
    if todo or stale:
        folder.reopen()
    folder.discard(stale)

    return todo


def _write_all(
    todo: Sequence[PlannedShard],
    sources: Mapping[str, str],
    config: PackConfig,
    on_progress: OnProgress,
) -> None:
    with ThreadPoolExecutor(config.num_workers) as pool:
        running = [
            pool.submit(write_packed_shard, planned, sources, config.out) for planned in todo
        ]

        try:
            for number, done in enumerate(as_completed(running), start=1):
                done.result()
                on_progress(number, len(todo))
        except BaseException:
            # Leaving the pool still waits for the shards in progress; only the shards that have not
            # been begun are given up.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _finish(
    plan: Sequence[PlannedShard], config: PackConfig, folder: Folder, *, num_written: int
) -> PackSummary:
    """Remove temporary files of writers that were killed, and write the summary of the folder."""
    folder.sweep(lambda name: stem_of(name) is not None)
    files = _packed_files(plan, config.out, frozenset(folder.names()))
    splits = {split: _describe_split(split, plan, files) for split in SPLITS}
    summary = PackSummary(
        num_utterances=sum(counts["utterances"] for counts in splits.values()),
        num_speakers=sum(counts["speakers"] for counts in splits.values()),
        num_shards=len(files),
        num_written=num_written,
        splits=splits,
        shards=sorted(files),
    )

    # The number of shards written is about this run, not about the folder. Without it, a pack that
    # was resumed leaves the same bytes as an undisturbed one.
    document = {"format_version": FORMAT_VERSION, **asdict(summary)}
    del document["num_written"]
    folder.finish(config, document)
    return summary


def _packed_files(plan: Sequence[PlannedShard], out: str, names: frozenset[str]) -> dict[str, int]:
    """Name and size in bytes of each file of the plan; a planned shard may have several files."""
    stems = {planned.stem for planned in plan}
    # `list_files` also lists files in folders below. Of files with one name the last in this order
    # counts, and that is the file in `out` itself.
    deepest_first = sorted(list_files(out), key=lambda file: -file.url.count("/"))
    return {
        file.name: file.size
        for file in deepest_first
        if stem_of(file.name) in stems and file.name in names
    }


def _describe_split(
    split: str, plan: Sequence[PlannedShard], files: Mapping[str, int]
) -> dict[str, int]:
    mine = [planned.samples for planned in plan if planned.stem.startswith(f"{split}-")]
    sizes = [size for name, size in files.items() if name.startswith(f"{split}-")]
    speakers = {name for samples in mine for name in pc.unique(samples["speaker"]).to_pylist()}

    return {
        "utterances": sum(len(samples) for samples in mine),
        "speakers": len(speakers),
        "shards": len(sizes),
        "bytes": sum(sizes),
    }
