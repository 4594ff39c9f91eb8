"""The outcome of a shard from the footer of its table. Without torch, for the driver."""

from actors.work.task import ShardOutcome
from shards.tables.recordings import RecordingsInfo


def outcome_of(info: RecordingsInfo) -> ShardOutcome:
    """What the footer of a table says about its shard."""
    return ShardOutcome(
        name=info.shard,
        num_utterances=info.num_utterances,
        seconds_of_audio=info.seconds_of_audio,
        rejected=dict(info.rejected),
        shard_error=info.shard_error,
    )
