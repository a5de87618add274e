"""From errors to what a caller is told: one status code and one text, made in one place."""

from __future__ import annotations

import sqlite3

from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as DeferredTimeout

from peerpods.adaptor.sandbox import Problem
from peerpods.errors import CloudError, CloudFailure, PeerPodError
from peerpods.ttrpc import Code, Status, StatusError

_CLOUD = {
    CloudFailure.RETRYABLE: Code.UNAVAILABLE,
    CloudFailure.QUOTA: Code.RESOURCE_EXHAUSTED,
    CloudFailure.DENIED: Code.PERMISSION_DENIED,
    CloudFailure.NOT_FOUND: Code.NOT_FOUND,
    CloudFailure.INVALID: Code.INVALID_ARGUMENT,
}


class CallFailed(PeerPodError):
    """A call of the shim ends in the problem that the life cycle found."""

    def __init__(self, problem: Problem, *, sandbox: str | None = None) -> None:
        super().__init__(problem.text, sandbox=sandbox)
        self.problem = problem


def problem_of(error: BaseException) -> Problem:
    """The code and text under which an error crosses to the shim and into the journal."""
    if isinstance(error, CallFailed):
        return error.problem
    if isinstance(error, CloudError):
        return Problem(code=int(_CLOUD[error.kind]), text=str(error))
    if isinstance(error, PeerPodError):
        return Problem(code=error.code, text=str(error))
    if isinstance(error, StatusError):
        return Problem(code=int(error.status.code), text=error.status.message)
    if isinstance(error, CancelledError):
        return Problem(code=int(Code.CANCELLED), text="the call was cancelled")
    if isinstance(error, (DeferredTimeout, TimeoutError)):
        return Problem(code=int(Code.DEADLINE_EXCEEDED), text=str(error) or "no answer in time")
    if isinstance(error, (OSError, sqlite3.Error)):
        return Problem(code=int(Code.INTERNAL), text=f"{type(error).__name__}: {error}")
    return Problem(code=int(Code.INTERNAL), text=f"a fault of the adaptor itself: {type(error).__name__}: {error}")


def is_passing(error: BaseException) -> bool:
    """Whether the same call to the cloud may work a little later."""
    return isinstance(error, CloudError) and error.kind is CloudFailure.RETRYABLE


def to_status(error: BaseException) -> Status:
    """`map_error` of the adaptor's ttrpc servers."""
    problem = problem_of(error)
    return Status(problem.code or int(Code.UNKNOWN), problem.text)
