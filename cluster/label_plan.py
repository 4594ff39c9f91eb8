"""Which shards need labeling: decided from a listing of the inputs and one of the outputs, opening neither.

A table's name is a function of its shard's identity (name, size, version) and of the panel (its configuration and the
digests of its weights). A finished shard is recognised by that name alone. Changing a shard or the panel changes the
name, so exactly what changed is labeled again; the tables it replaces are removed once the job has finished.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actors.shard_labeling import ShardTask
from shards.naming import list_names, relative_names
from shards.predictions import FORMAT_VERSION, is_table_name, read_info
from shards.storage import FileIdentity, join, remove

NAME_DIGITS = 12


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """All tasks of a job, and those among them whose table is not there yet."""

    tasks: tuple[ShardTask, ...]
    todo: tuple[ShardTask, ...]
    existing: frozenset[str]

    @property
    def reused(self) -> tuple[ShardTask, ...]:
        """Tasks an earlier run has finished."""
        waiting = {task.table_url for task in self.todo}
        return tuple(task for task in self.tasks if task.table_url not in waiting)


def make_plan(pattern: str, files: Sequence[FileIdentity], out: str, panel_digest: str) -> LabelPlan:
    """Name every shard's table and compare with the tables in `out`."""
    names = relative_names(pattern, files)
    tasks = tuple(_task(file, name, out, panel_digest) for file, name in zip(files, names, strict=True))
    existing = frozenset(name for name in list_names(out) if is_table_name(name))
    todo = tuple(task for task in tasks if _table_name(task) not in existing)
    return LabelPlan(tasks, todo, existing)


def remove_superseded(plan: LabelPlan, out: str) -> int:
    """Remove tables of the plan's shards that were made by another panel or from another version of the shard."""
    planned = {_table_name(task) for task in plan.tasks}
    shards = {task.name for task in plan.tasks}
    superseded = [name for name in plan.existing - planned if read_info(join(out, name)).shard in shards]
    for name in superseded:
        remove(join(out, name))
    return len(superseded)


def remove_leftovers(names: Iterable[str], plan: LabelPlan, out: str) -> None:
    """Remove temporary files of writers that were killed: with every table committed, nobody is writing any more."""
    planned = {_table_name(task) for task in plan.tasks}
    for name in names:
        if any(name.startswith(f".{table}.tmp-") for table in planned):
            remove(join(out, name))


def _task(file: FileIdentity, name: str, out: str, panel_digest: str) -> ShardTask:
    identity = json.dumps([FORMAT_VERSION, panel_digest, name, file.size, file.version])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:NAME_DIGITS]
    stem = name.rsplit("/", 1)[-1].removesuffix(".tar")
    return ShardTask(
        url=file.url,
        name=name,
        size=file.size,
        version=file.version,
        table_url=join(out, f"{stem}-{digest}.parquet"),
        panel_digest=panel_digest,
    )


def _table_name(task: ShardTask) -> str:
    return task.table_url.rsplit("/", 1)[-1]
