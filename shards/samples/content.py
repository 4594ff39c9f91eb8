"""The identity of what a model sees of a sample: a digest of some members and some of the json.

A result stays valid for as long as this digest does, whatever happens to the rest of the sample, to
its shard or to the shard's name. For example, another speaker in the json changes the sample, but
nothing that a labeler of emotions sees. The members are hashed as bytes: decoded sound would
survive a change of container too, but nobody could skip the decoding. SHA-256 is cut to 16 bytes;
BLAKE2b lost, because processors have instructions for SHA-256, which make it twice as fast.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from shards.samples.metadata import METADATA_EXTENSION
from shards.samples.sample import ALLOWED_EXTENSIONS, AUDIO_EXTENSIONS, VIDEO_EXTENSIONS

CONTENT_BYTES = 16

# Raise the number when the digest is computed in another way: no result is taken over then.
_BEGINNING = b"emostream content 1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is seen of a sample: its members with one of `extensions`, and `fields` of its json."""

    extensions: frozenset[str]
    fields: tuple[str, ...]

    def digest(self, members: Mapping[str, bytes], metadata: Mapping[str, object]) -> bytes:
        """The digest [16] of what is seen of a sample; `metadata` is its parsed json."""
        content = hashlib.sha256(_BEGINNING)

        # Lengths and extensions are hashed too, so that no two samples give the same bytes.
        for extension in sorted(self.extensions & members.keys()):
            content.update(f"{extension} {len(members[extension])}\n".encode())
            content.update(members[extension])

        fields = [*self.fields, *_duration_field(members)]
        found = {name: metadata[name] for name in fields if metadata.get(name) is not None}
        content.update(json.dumps(found, sort_keys=True).encode())
        return content.digest()[:CONTENT_BYTES]


# What a label is made from. Whoever lets a labeler look at more of the json adds the field here:
# otherwise a label would be taken over although what it was made from has changed.
SEEN_BY_LABELERS = Seen(extensions=ALLOWED_EXTENSIONS - {METADATA_EXTENSION}, fields=("language",))


def _duration_field(members: Mapping[str, bytes]) -> list[str]:
    """The stated duration counts where a video may turn out to have no sound to be measured.

    A result holds the measured duration, or else the stated one, and does not say which it is.
    """
    has_own_sound = bool(AUDIO_EXTENSIONS & members.keys())
    has_video = bool(VIDEO_EXTENSIONS & members.keys())
    return ["duration_seconds"] if has_video and not has_own_sound else []
