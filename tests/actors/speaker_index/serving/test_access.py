"""Who may ask the speaker index: token files and rates."""

from pathlib import Path

import pytest

from actors.speaker_index.errors import OverloadedError
from actors.speaker_index.serving.access import RateLimit, Tokens, read_tokens
from shards.config import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("read a " + "x" * 15, "line 1: expected"),
        ("# none\n\n", "holds no token"),
        (f"read a {'x' * 16}\nwrite b {'x' * 16}", "line 2: b has the token of a"),
        (f"admin a {'x' * 16}", "line 1: expected"),
    ],
)
def test_a_token_file_that_would_let_others_in_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    """A file with a short or shared token, or no token, is refused without showing a token."""
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(0o600)

    with pytest.raises(ConfigError, match=message) as caught:
        read_tokens(path)
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o602])
def test_a_token_file_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """A token file that others can read or write is refused."""
    path = tmp_path / "tokens"
    path.write_text(f"read a {'x' * 16}\n")
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others may read or write it"):
        Tokens(str(path))


def test_a_client_that_was_quiet_gets_no_more_than_a_second_of_requests() -> None:
    """With two requests a second a quiet minute brings two at once, and half a second one."""
    now = [0.0]
    limit = RateLimit(2.0, clock=lambda: now[0])
    for seconds, allowed in ((0.0, 2), (60.0, 2), (60.5, 1)):
        now[0] = seconds
        for _ in range(allowed):
            limit.take("a")
        with pytest.raises(OverloadedError):
            limit.take("a")
