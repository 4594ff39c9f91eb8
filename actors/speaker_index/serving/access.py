"""Who may call which method, and how often.

A token file has a line for every client: `read NAME TOKEN` or `write NAME TOKEN`. A client that may
write may also read. The file is read again when it changes, so that tokens can be replaced without
a restart.

A token that arrives is compared with all known tokens, by digests and in constant time: the time
that a refusal takes tells nothing about them.
"""

import collections
import hashlib
import hmac
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actors.speaker_index.errors import NotAuthenticatedError, NotPermittedError, OverloadedError
from shards.config import ConfigError

log = logging.getLogger(__name__)

Role = Literal["read", "write"]
ROLES: tuple[Role, ...] = ("read", "write")
MIN_TOKEN_CHARACTERS = 16
LOOK_SECONDS = 2.0
MAX_CLIENTS = 10_000
SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Client:
    """Who calls: the name that goes with the token, or the address where no tokens are used."""

    name: str
    role: Role


class Tokens:
    """The clients of a token file, which is read again when it changes."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = Path(path), clock
        self._looked_at = clock()
        self._version = self._file_version()
        self._clients = read_tokens(self._path)

    def client(self, metadata: Iterable[tuple[str, str | bytes]]) -> Client:
        """The client whose token the call carries.

        Raises NotAuthenticatedError when the call carries no token, several, or an unknown one.
        """
        self._look_again()

        given = [value for name, value in metadata if name == "authorization"]
        if (
            len(given) != 1
            or not isinstance(given[0], str)
            or not given[0].lower().startswith(SCHEME)
        ):
            raise NotAuthenticatedError(
                "got no bearer token, or several; send one metadata entry "
                "`authorization: Bearer TOKEN`"
            )

        digest = _digest(given[0][len(SCHEME) :].strip())
        found = None
        # The loop goes on after a match, so that its time does not depend on who calls.
        for known, client in self._clients:
            if hmac.compare_digest(known, digest):
                found = client

        if found is None:
            raise NotAuthenticatedError(
                "the bearer token is not known; send a token of the server's token file"
            )

        return found

    def _look_again(self) -> None:
        """Read the file again when it has changed; a file that cannot be used changes nothing."""
        now = self._clock()
        if now - self._looked_at < LOOK_SECONDS:
            return

        self._looked_at = now

        try:
            version = self._file_version()
            if version != self._version:
                self._clients, self._version = read_tokens(self._path), version
                log.info("%s has changed: %d clients", self._path, len(self._clients))
        except (OSError, ValueError) as error:
            # A ValueError is a ConfigError, or a UnicodeDecodeError where the file is no UTF-8.
            log.warning("the changed token file is not used, the old tokens stay: %s", error)

    def _file_version(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size


class RateLimit:
    """A limit on the requests a second of each client; 0 means no limit.

    A client that has been quiet may make as many requests at once as in one second, and at least
    one.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def take(self, client: str) -> None:
        """Count one request of a client. Raises OverloadedError when it is one too many."""
        if not self._per_second:
            return

        now, most = self._clock(), max(1.0, self._per_second)
        # A bucket holds the requests that a client may still make, and the time of its last one.
        # `pop` and the new entry move this bucket to the end. So the first bucket is that of the
        # client that has been quiet for the longest time, and is dropped when there are too many.
        left, since = self._buckets.pop(client, (most, now))
        left = min(most, left + (now - since) * self._per_second)
        self._buckets[client] = (max(left - 1.0, 0.0) if left >= 1.0 else left, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)

        if left < 1.0:
            raise OverloadedError(
                f"got more than {self._per_second:g} requests a second from this client; try again "
                "later"
            )


def require_role(client: Client, role: Role) -> None:
    """Raise NotPermittedError when the client's role does not include `role`."""
    if ROLES.index(client.role) < ROLES.index(role):
        raise NotPermittedError(
            f"this token may only {client.role}, expected one that may {role}; use another token"
        )


def read_tokens(path: Path) -> list[tuple[bytes, Client]]:
    """The digests of the tokens in a file, each with its client.

    Raises ConfigError for a file that others can reach and for a line that is no token's. The
    message does not quote the line, which may hold a token.
    """
    status = path.stat()
    if status.st_mode & (stat.S_IROTH | stat.S_IWOTH) and os.name == "posix":
        raise ConfigError(
            f"--tokens {path}: others may read or write it, expected a file for its owner alone; "
            f"run chmod 600 {path}"
        )

    found: dict[bytes, Client] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue

        if len(words) != 3 or words[0] not in ROLES or len(words[2]) < MIN_TOKEN_CHARACTERS:
            raise ConfigError(
                f"--tokens {path}: line {number}: expected `read NAME TOKEN` or `write NAME "
                f"TOKEN`, with a TOKEN of at least {MIN_TOKEN_CHARACTERS} characters; correct it"
            )

        digest = _digest(words[2])
        if digest in found:
            raise ConfigError(
                f"--tokens {path}: line {number}: {words[1]} has the token of {found[digest].name}"
                "; give each client a token of its own"
            )
        found[digest] = Client(words[1], "read" if words[0] == "read" else "write")

    if not found:
        raise ConfigError(
            f"--tokens {path}: holds no token, so that nobody could call; add a line "
            "`read NAME TOKEN`"
        )

    return list(found.items())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
