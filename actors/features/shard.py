"""One shard from utterances to a committed feature file, without Ray.

This is the unit of work of `emostream features`.
"""

from collections.abc import Iterable, Iterator, Sequence

from actors.features.extractors import Extractor, Found
from actors.inference.outcomes import Missing
from actors.reading.utterance import Utterance
from actors.work.task import ShardOutcome, ShardProgress, ShardTask, summarize, windows
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.tables.features import FeatureInfo, FeatureRow, FeatureWriter

# Frames of all layers take some hundred times the memory of their sound, so fewer utterances are
# held at once than a window has.
GROUP_SECONDS = 240.0


def extract_shard(
    task: ShardTask,
    extractor: Extractor,
    encoder: str,
    utterances: Iterable[Utterance],
    *,
    shard_error: str | None,
    progress: ShardProgress,
) -> ShardOutcome:
    """Make the features of `utterances` and commit the file of `task`.

    `encoder` names the encoder to people.
    """
    with FeatureWriter() as writer:
        for window in windows(utterances, progress):
            for group in _groups(window):
                for utterance, found in zip(group, _features(extractor, group), strict=True):
                    if isinstance(found, Missing):
                        writer.add(_row(utterance, found), None)
                    else:
                        writer.add(_row(utterance, found), found.frames_TLD, found.tokens_XD)

        info = FeatureInfo(
            encoder=encoder,
            fingerprint=task.maker,
            layers=list(extractor.layers),
            width=extractor.width,
            num_tokens=extractor.num_tokens,
            shard=task.name,
            shard_url=task.url,
            shard_size=task.size,
            shard_version=task.version,
            shard_error=shard_error,
            num_rows=len(writer.rows),
        )

        writer.commit(task.table_url, info)
        return summarize(task.name, writer.rows, shard_error, num_carried_over=0)


def _groups(window: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    """Cut a window into neighbors with at most GROUP_SECONDS of sound, or single utterances."""
    group: list[Utterance] = []
    seconds = 0.0

    for utterance in window:
        mine = 0.0 if utterance.audio is None else len(utterance.audio) / SAMPLE_RATE_HZ
        if group and seconds + mine > GROUP_SECONDS:
            yield group
            group, seconds = [], 0.0
        group.append(utterance)
        seconds += mine

    if group:
        yield group


def _features(extractor: Extractor, group: Sequence[Utterance]) -> list[Found]:
    """The features of each utterance, or the reason why it has none."""
    problems = [_problem(utterance) for utterance in group]
    sounds = [
        utterance.audio
        for utterance, problem in zip(group, problems, strict=True)
        if problem is None and utterance.audio is not None
    ]

    # Why an iterator: an utterance with a problem takes no frames, so that places would not match.
    found = iter(extractor.extract(sounds))
    return [next(found) if problem is None else Missing(problem) for problem in problems]


def _problem(utterance: Utterance) -> str | None:
    if utterance.error is not None:
        return utterance.error
    return (
        (utterance.remark or "no_audio: the sample has no sound")
        if utterance.audio is None
        else None
    )


def _row(utterance: Utterance, found: Found) -> FeatureRow:
    return FeatureRow(
        key=utterance.key,
        offset=utterance.offset,
        duration_seconds=utterance.duration_seconds,
        num_frames=0 if isinstance(found, Missing) else len(found.frames_TLD),
        error=found.reason if isinstance(found, Missing) else None,
    )
