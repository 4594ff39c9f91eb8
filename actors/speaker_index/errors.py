"""Reasons why a request is not served; `serving/calls.py` maps each of them to a gRPC status."""


class RequestError(ValueError):
    """No index could serve the request. The message says what was got and what was expected."""


class WrongEncoderError(RequestError):
    """The request's vectors come from another encoder than the index's, and cannot be compared."""


class UnknownSpeakerError(LookupError):
    """The index has no speaker of the name asked for."""


class NoLabelsError(LookupError):
    """No speaker of the index has the label statistics that the request needs."""


class ReadOnlyError(RuntimeError):
    """A write was sent to an index that takes none, such as a follower."""


class OverloadedError(RuntimeError):
    """More requests are waiting than can be served in time, or this client asks too often."""


class TooLargeError(RuntimeError):
    """The message is larger than the server accepts."""


class WriterLostError(RuntimeError):
    """The process that writes has ended; a write it was handed may or may not have been made."""


class NotAuthenticatedError(PermissionError):
    """The call carries no token, or an unknown token."""


class NotPermittedError(PermissionError):
    """The call's token is known, but does not allow this method."""
