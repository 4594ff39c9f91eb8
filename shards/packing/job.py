"""`emostream pack`: the kept utterances as training shards, a speaker's utterances together, one
split a shard.

A batch of B speakers x K utterances then streams sequentially. A job that was killed goes on where
it stopped and a finished one opens no shard, because a packed shard is named after what goes into
it. Shards of an earlier selection are removed before the first new one is written: a pattern like
`train-*.tar` must never match a mixture of the two. A folder with a summary is a whole pack.

Shards are written by threads: the work is reading and writing, and what computes (checksums, JSON)
is a few percent.
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

    shards: str = option(
        help="The shards that were labeled: a glob, folder or file, local or remote."
    )
    selection: str = option(help="Selection folder, as `emostream select` writes it.")
    out: str = option(
        help="Folder for the training shards; packed shards of an earlier selection there are "
        "replaced."
    )
    shard_size_mb: int = option(
        default=256,
        help="Target size of a training shard, in MiB. A speaker is divided only when it fills one "
        "alone.",
    )
    num_workers: int = option(default=4, help="Shards written at once.")

    def __post_init__(self) -> None:
        require_positive(self, "--shard-size-mb", "--num-workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSummary:
    """What lies in the folder, in all and by split, and how many of the planned shards this run
    wrote.

    `splits` has utterances, speakers, shards and bytes of each; `shards` names the files.
    """

    num_utterances: int
    num_speakers: int
    num_shards: int
    num_written: int
    splits: Mapping[str, Mapping[str, int]]
    shards: Sequence[str]


def pack(config: PackConfig, on_progress: OnProgress = unseen) -> PackSummary:
    """Write the training shards that are not there yet, which progress is counted in.

    Raises ConfigError when the selection or a labeled shard cannot be found, BadShard when a shard
    has changed since it was labeled.
    """
    selection, labeled = read_selection(config.selection, PLAN_COLUMNS)
    if selection.num_rows == 0:
        raise ConfigError(
            f"--selection {config.selection}: it keeps no utterance; its summary.json says why"
        )
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
    """A copy elsewhere must have the size the labeled shard had; the very file must also have its
    version.
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
                f"{now.url}: got {got}, expected {expected} as it was labeled; {remedy}",
            )


def _require_other_folder(out: str, sources: Mapping[str, FileIdentity]) -> None:
    folder = out.rstrip("/") if is_remote(out) else local_path(out)
    for file in sources.values():
        if file.url.rpartition("/")[0] == folder:
            raise ConfigError(
                f"--out: got {out}, the folder of the labeled shards, expected one for the packed "
                "shards"
            )


def _prepare(plan: Sequence[PlannedShard], folder: Folder) -> list[PlannedShard]:
    """Remove what does not belong to `plan`, and return what is not there yet."""
    existing = set(folder.names())
    todo = [planned for planned in plan if planned.name not in existing]
    stems = {planned.stem for planned in plan}
    stale = [
        name
        for name in sorted(existing)
        if (stem := stem_of(name)) is not None and stem not in stems
    ]
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
            pool.shutdown(
                wait=False, cancel_futures=True
            )  # shards in progress are finished, the others not begun
            raise


def _finish(
    plan: Sequence[PlannedShard], config: PackConfig, folder: Folder, *, num_written: int
) -> PackSummary:
    """Remove temporary files of writers that were killed, and describe the folder."""
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

    document = {"format_version": FORMAT_VERSION, **asdict(summary)}
    del document[
        "num_written"
    ]  # of this run, not of the folder: a resumed pack leaves the same bytes
    folder.finish(config, document)
    return summary


def _packed_files(plan: Sequence[PlannedShard], out: str, names: frozenset[str]) -> dict[str, int]:
    """Name and bytes of each file of the plan; one planned shard may have several."""
    stems = {planned.stem for planned in plan}
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
