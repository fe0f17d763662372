"""Every error that the language raises by name.

    FrontendError
    ├── ProgramError (TypeError)         the program is written wrong: nested roles, a missing backend, wrong arguments
    ├── UnknownVariable (KeyError)       no expression of the program sets this variable
    ├── VariableFailed (KeyError)        the expression that sets it failed, or one before it; `cause` says why
    ├── Cancelled                        the program was cancelled
    ├── SpeculationFailed                the model's text did not follow the assistant turn it was asked for
    ├── CheckpointError (ValueError)     a checkpoint file can not be read
    ├── ServerStartFailed (RuntimeError) a server that `Runtime` started ended or was not ready in time
    ├── MissingPackage (ImportError)     what a backend is built on is not installed; the message says what to install
    └── BackendError (RuntimeError)      the model's side failed; `status` is the HTTP status if there is one
        ├── Unsupported                  this backend can not do what the expression asks for
        ├── Unreachable                  no connection, or it broke before the answer
        ├── TimedOut                     no answer in time
        ├── Overloaded                   429 or 503: worth another try after `retry_after_s`
        ├── ServerFailed                 500 and the like of a foreign API, which another try often passes
        └── StreamBroken                 a stream ended before its last event

What SGLang raises for the same mistakes is among the bases, so that programs which catch those still do.
"""

from __future__ import annotations


class FrontendError(Exception):
    """Base of all errors of the language."""


class ProgramError(FrontendError, TypeError):
    """The program itself is wrong."""


class VariableError(FrontendError, KeyError):
    """A variable has no value."""

    def __init__(self, name: object, message: str) -> None:
        super().__init__(message)
        self.name = name

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0])


class UnknownVariable(VariableError):
    """Nothing in the program sets it."""


class VariableFailed(VariableError):
    """`cause` ended the program before the variable had its value."""

    def __init__(self, name: object, cause: BaseException) -> None:
        super().__init__(name, f"variable {name!r} has no value: {type(cause).__name__}: {cause}")
        self.cause = cause


class Cancelled(FrontendError):
    """Somebody cancelled the program."""


class SpeculationFailed(FrontendError):
    """See `speculation.py`."""


class CheckpointError(FrontendError, ValueError):
    """See `checkpoint.py`."""


class ServerStartFailed(FrontendError, RuntimeError):
    """The message ends with the server's log."""


class MissingPackage(FrontendError, ImportError):
    """An optional dependency."""


class BackendError(FrontendError, RuntimeError):
    """`is_retryable` says whether the same request may succeed later."""

    is_retryable = False

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class Unsupported(BackendError):
    """Asking again does not help."""


class Unreachable(BackendError):
    is_retryable = True


class TimedOut(BackendError):
    is_retryable = True


class Overloaded(BackendError):
    is_retryable = True


class ServerFailed(BackendError):
    is_retryable = True


class StreamBroken(BackendError):
    """Not retried: part of the text has been seen."""
