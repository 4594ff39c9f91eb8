"""Which shards need work: a comparison of two listings, which opens no shard.

A table's name is a function of its shard's identity (name, size, version) and of what makes the
table: a panel (its configuration and the digests of its weights) or an encoder. A finished shard is
recognized by that name alone. A change of a shard or of the panel changes the name, so exactly the
shards that it concerns are done again; the tables that they replace are removed once the job has
finished.
"""

import concurrent.futures
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from actors.work.task import WITNESS, ShardTask
from shards.config import ConfigError
from shards.storage.files import FileIdentity, join, remove, without_globs
from shards.storage.folder import sweep
from shards.storage.names import list_names, relative_names
from shards.storage.urls import absolute
from shards.tables.former import add_contents
from shards.tables.names import TABLE_SUFFIX, is_table_name
from shards.tables.predictions import REMEDY, read_info
from shards.tables.replaced import find_replaced

NAME_DIGITS = 12
FOOTER_THREADS = 16


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """All tasks of a job, and those among them that have no table yet."""

    tasks: tuple[ShardTask, ...]
    todo: tuple[ShardTask, ...]
    existing: frozenset[str]
    out: str  # the folder of the tables, absolute

    @property
    def reused(self) -> tuple[ShardTask, ...]:
        """The tasks that an earlier run has finished."""
        waiting = {task.table_url for task in self.todo}
        return tuple(task for task in self.tasks if task.table_url not in waiting)


def make_plan(
    pattern: str,
    files: Sequence[FileIdentity],
    out: str,
    maker: str,
    formats: Sequence[int],
    suffix: str = TABLE_SUFFIX,
) -> ShardPlan:
    """Name the table of every shard, and compare the names with the tables in `out`.

    `maker` is the digest of the panel or the fingerprint of the encoder. `formats` are the versions
    of the table format that can be read, the one that is written first: a table that an earlier
    release has finished is not made again. The names of tables end in `suffix`.
    """
    # Why absolute: workers start in folders of their own.
    names, out = relative_names(pattern, files), absolute(out)
    existing = frozenset(name for name in list_names(out) if is_table_name(name, suffix))
    tasks = tuple(
        _task(file, name, out, maker, formats, existing, suffix)
        for file, name in zip(files, names, strict=True)
    )
    todo = tuple(task for task in tasks if _table_name(task) not in existing)
    return ShardPlan(tasks, todo, existing, out)


class ShardFooter(Protocol):
    """What the footer of every kind of table says about its shard."""

    @property
    def shard(self) -> str:
        """The name of the shard, as the pattern gave it."""

    @property
    def shard_url(self) -> str:
        """Where the shard lay."""


Footer = TypeVar("Footer", bound=ShardFooter)


def refuse_other_corpora(plan: ShardPlan, read: Callable[[str], ShardFooter] = read_info) -> None:
    """Refuse a folder that holds the tables of another corpus with the same shard names.

    `read` gives the footer of a table. Raises ConfigError when a table is of a shard that is named
    like one of the plan's but lies elsewhere.
    """
    urls = {task.name: task.url for task in plan.tasks}
    known = set(urls.values())
    for info in _unplanned(plan, plan.existing, read).values():
        if info.shard in urls and info.shard_url not in known:
            raise ConfigError(
                f"--out {plan.out}: holds the predictions of {info.shard_url}, which is called "
                f"{info.shard!r} like {urls[info.shard]}; give each corpus a folder of its own, or "
                "remove these tables if it has moved"
            )


def earlier_tables(plan: ShardPlan, maker: str) -> list[str]:
    """The URLs of tables that the same panel has made, of shards that are now others or gone."""
    found = []
    for name, info in _unplanned(plan, plan.existing, read_info).items():
        if info.panel_digest == maker:
            add_contents(join(plan.out, name), info)
            found.append(join(plan.out, name))

    return found


def remove_superseded(
    plan: ShardPlan, read: Callable[[str], ShardFooter] = read_info, remedy: str = REMEDY
) -> tuple[int, int]:
    """Remove the tables that the plan's tables have replaced.

    `read` gives the footer of a table, and `remedy` is for a damaged one. Returns how many were
    removed, and how many tables of other shards remain. A worker of an older panel that was
    believed dead may have written tables while the job ran: they are removed too.
    """
    shard_of = {
        join(plan.out, name): info.shard_url
        for name, info in _unplanned(plan, list_names(plan.out), read).items()
    }
    superseded, _ = find_replaced(
        shard_of, {task.url: task.table_url for task in plan.tasks}, remedy=remedy
    )

    for table in superseded:
        remove(table)
    return len(superseded), len(shard_of) - len(superseded)


def _unplanned(
    plan: ShardPlan, names: Iterable[str], read: Callable[[str], Footer]
) -> dict[str, Footer]:
    """Return the footers of those tables among `names` that the plan does not account for."""
    others = sorted(set(filter(is_table_name, names)) - {_table_name(task) for task in plan.tasks})
    with concurrent.futures.ThreadPoolExecutor(FOOTER_THREADS) as pool:
        return dict(
            zip(others, pool.map(lambda name: read(join(plan.out, name)), others), strict=True)
        )


def remove_leftovers(plan: ShardPlan) -> None:
    """Remove the temporary files of writers that were killed.

    Nobody is writing any more, because every table of the plan is there.
    """
    tables = {without_globs(_table_name(task)) for task in plan.tasks}
    sweep(plan.out, (tables | {WITNESS}).__contains__)


def _task(
    file: FileIdentity,
    name: str,
    out: str,
    maker: str,
    formats: Sequence[int],
    existing: frozenset[str],
    suffix: str,
) -> ShardTask:
    stem = name.rsplit("/", 1)[-1].removesuffix(".tar")
    tables = []
    for table_format in formats:
        identity = json.dumps([table_format, maker, name, file.size, file.version])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:NAME_DIGITS]
        tables.append(f"{stem}-{digest}{suffix}")

    table = next((table for table in tables if table in existing), tables[0])
    return ShardTask(
        url=file.url,
        name=name,
        size=file.size,
        version=file.version,
        table_url=join(out, table),
        maker=maker,
    )


def _table_name(task: ShardTask) -> str:
    return task.table_url.rsplit("/", 1)[-1]
