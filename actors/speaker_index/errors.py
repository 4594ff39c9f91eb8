"""Why a request is not served. `server` maps each to its gRPC status, in one place."""


class RequestError(ValueError):
    """The request cannot be served, whatever the index holds: what was got, what was expected."""


class WrongEncoderError(RequestError):
    """Its vectors were made by another encoder than the index's, and cannot be compared."""


class UnknownSpeakerError(LookupError):
    """No speaker of that name."""


class NoLabelsError(LookupError):
    """No speaker in the index has the label statistics that are asked for."""


class ReadOnlyError(RuntimeError):
    """A follower takes no writes."""


class OverloadedError(RuntimeError):
    """More is waiting than can be served in time, or this client asks too often."""


class TooLargeError(RuntimeError):
    """The message is larger than the server takes."""


class WriterLostError(RuntimeError):
    """The process that writes has gone; what it was handed may or may not have been written."""


class NotAuthenticatedError(PermissionError):
    """No token, or one that is not known."""


class NotPermittedError(PermissionError):
    """The token is known, and not for this."""
