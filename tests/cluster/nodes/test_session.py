"""Connecting to a cluster: what is tried again, and what is an error at once."""

import pytest
import ray

from cluster.nodes import session
from shards.config import ConfigError


def fail_with(errors: list[Exception], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Let Ray raise `errors`, one for each try, and then connect; the tries so far."""
    tries: list[dict[str, object]] = []

    def init(**options: object) -> None:
        tries.append(options)
        if len(tries) <= len(errors):
            raise errors[len(tries) - 1]

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(session, "live_nodes", list)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return tries


def test_a_connection_that_is_broken_off_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head may fail to start the server of a client; the next one mostly lives."""
    broken = [ConnectionAbortedError("Initialization failure from server")] * 2
    tries = fail_with(broken, monkeypatch)

    with session.ray_session("ray://head:10001"):
        assert [options["address"] for options in tries] == ["ray://head:10001"] * 3


def test_a_cluster_that_always_breaks_off_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tries, and then the address and what to check."""
    tries = fail_with([ConnectionAbortedError("no")] * 9, monkeypatch)

    with (
        pytest.raises(ConfigError, match="cannot reach the Ray cluster at ray://head:10001: no"),
        session.ray_session("ray://head:10001"),
    ):
        pass
    assert len(tries) == 3


@pytest.mark.parametrize("error", [ConnectionError("refused"), RuntimeError("wrong token")])
def test_what_will_not_change_is_not_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster that is not there, or that refuses us, is an error at once."""
    tries = fail_with([error] * 9, monkeypatch)

    with pytest.raises(ConfigError, match=str(error)), session.ray_session("ray://head:10001"):
        pass
    assert len(tries) == 1
