"""The error tree: one class a kind, each with a stable code, an HTTP status and whether a retry can help.

A message says what happened, to which thing, and (after a semicolon) what to do.
"""

from typing import ClassVar


class EdgeAgentError(Exception):
    """Base of every error this program raises on purpose; printed as one line, never as a traceback."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False


class ConfigError(EdgeAgentError):
    """A setting is unknown, malformed or not available in this version."""

    code = "invalid_config"
    status = 400


class RequestError(EdgeAgentError):
    """The caller asked for something malformed or impossible."""

    code = "invalid_request_error"
    status = 400


class NotFoundError(EdgeAgentError):
    """A named thing (memory, run, route) does not exist."""

    code = "not_found"
    status = 404


class ModelNotFoundError(NotFoundError):
    """No card, variant or file of that name is here."""

    code = "model_not_found"


class ContextLengthError(RequestError):
    """The prompt and the wanted answer do not fit the model's context."""

    code = "context_length_exceeded"


class ModelFileError(EdgeAgentError):
    """A model file failed its hash or structure check."""

    code = "model_file_invalid"


class DownloadError(EdgeAgentError):
    """A model source could not be fetched."""

    code = "download_failed"
    status = 502
    retryable = True


class OutOfMemoryError(EdgeAgentError):
    """Loading or running would exceed the memory that may be used."""

    code = "insufficient_memory"
    status = 507


class BusyError(EdgeAgentError):
    """Every place in the queue is taken. `retry_after_s`: when one is likely to be free; None: not known."""

    code = "overloaded"
    status = 503
    retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyRequestsError(BusyError):
    """One user's share of the queue is taken; others may still have places."""

    code = "rate_limit_exceeded"
    status = 429


class DeadlineError(EdgeAgentError):
    """The time a request gave itself ended while it waited: 504, as gRPC's DEADLINE_EXCEEDED is mapped to HTTP.

    The same request sent again would have missed its deadline already, so no client should retry by itself.
    """

    code = "deadline_exceeded"
    status = 504


class EngineError(EdgeAgentError):
    """A worker refused or failed an operation; the worker itself lives on."""

    code = "engine_error"


class EngineLostError(EngineError):
    """A worker process died or stopped answering."""

    code = "engine_lost"
    status = 503
    retryable = True


class PeerError(EdgeAgentError):
    """A peer refused a job or failed it."""

    code = "peer_error"
    status = 502


class PeerRefusedError(PeerError):
    """A peer is well and does not take this job: it has too much to do, or holds another variant."""

    code = "peer_refused"
    status = 503
    retryable = True


class PeerLostError(PeerError):
    """A peer, or the link to it, stopped answering within its lease."""

    code = "peer_lost"
    status = 503
    retryable = True


class PassedOnError(PeerError):
    """A peer is well, and the one that it passed the job on to is not, or refuses it (`is_refusal`)."""

    code = "next_peer_error"

    def __init__(self, message: str, peer: str, *, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.peer = peer
        self.is_refusal = is_refusal


class WireError(PeerError):
    """Bytes from the network do not follow the protocol."""

    code = "protocol_error"


class ProtocolError(WireError):
    """A sealed frame, an opening or a signed document is not what it claims.

    The message is always the same, so that the sender learns nothing; `reason`, if there is one, is for the own log.
    """

    code = "not_authentic"

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class TrustError(EdgeAgentError):
    """A key, credential or fleet file is missing, damaged, readable by others, or does not allow this."""

    code = "trust_error"


class NoPlanError(EdgeAgentError):
    """Every candidate plan was rejected; the message lists why."""

    code = "no_feasible_plan"
    status = 422


class MemoryStoreError(EdgeAgentError):
    """The memory database cannot be opened, read or written."""

    code = "memory_store_error"


class QuotaError(EdgeAgentError):
    """What was to be stored is more than may be."""

    code = "quota_exceeded"
    status = 507


class ToolError(EdgeAgentError):
    """A tool was called wrongly or failed; the model sees this text and may try again."""

    code = "tool_error"
    status = 400
