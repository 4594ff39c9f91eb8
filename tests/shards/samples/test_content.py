"""The identity of what a model sees: it changes with that, and with nothing else."""

import pytest

from shards.samples.content import CONTENT_BYTES, SEEN_BY_LABELERS

SOUND = {"flac": b"sound", "txt": b"words", "json": b"{}"}


def digest(members: dict[str, bytes], **metadata: object) -> bytes:
    return SEEN_BY_LABELERS.digest(members, metadata)


@pytest.mark.parametrize(
    ("members", "metadata"),
    [
        ({"json": b'{"speaker": "ann"}'}, {"speaker": "ann"}),
        ({}, {"emotion": "anger", "take": 3}),
        ({}, {"duration_seconds": 2.0}),
        ({}, {"language": None}),
    ],
)
def test_metadata_is_not_content(members: dict[str, bytes], metadata: dict[str, object]) -> None:
    """Speaker, emotion and other fields of the json leave the content as it is."""
    assert digest(SOUND | members, **metadata) == digest(SOUND)


@pytest.mark.parametrize(
    ("members", "metadata"),
    [
        ({"flac": b"sounds"}, {}),
        ({"txt": b"word"}, {}),
        ({"face.npy": b""}, {}),
        ({}, {"language": "de"}),
        # A byte that moves from one member to the next.
        ({"flac": b"soundtxt", "txt": b"ords"}, {}),
    ],
)
def test_what_labelers_see_is_content(
    members: dict[str, bytes], metadata: dict[str, object]
) -> None:
    """Another sound, transcript, face or language is another content."""
    assert digest(SOUND | members, **metadata) != digest(SOUND)


def test_members_are_named() -> None:
    """The same bytes under another extension are another content."""
    assert digest({"flac": b"sound"}) != digest({"wav": b"sound"})


def test_the_stated_duration_counts_where_only_a_video_may_have_sound() -> None:
    """A silent video's row holds the stated duration, so another one is another row."""
    video = {"mp4": b"pictures"}
    assert digest(video, duration_seconds=1.0) != digest(video, duration_seconds=2.0)
    both = video | SOUND
    assert digest(both, duration_seconds=1.0) == digest(both, duration_seconds=2.0)


def test_a_digest_is_pinned() -> None:
    """Another digest for the same sample would silently cost the GPU pass of every corpus."""
    assert len(digest(SOUND)) == CONTENT_BYTES
    assert digest(SOUND, language="en").hex() == "3d61eb0972ed68a345b81ca2a044ce8e"
