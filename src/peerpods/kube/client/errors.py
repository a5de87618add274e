"""What the API server, or the way to it, refused; in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peerpods.errors import PeerPodError

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
"""HTTP code to the reason a Status object of the API server gives (apimachinery meta/v1 StatusReason)."""
REFUSED = "ConnectionRefused"
TIMEOUT = "Timeout"
LOST = "ConnectionLost"
TLS = "TLS"
UNKNOWN_HOST = "UnknownHost"
TOO_LARGE = "TooLarge"
MALFORMED = "Malformed"
"""Reasons of errors without an answer (status 0); ours."""


class ApiError(PeerPodError):
    """A request to the API server failed.

    Attributes:
        status: HTTP code; 0 when there was no whole answer.
        reason: "NotFound", "AlreadyExists", "Conflict", "Expired", "Forbidden", "Invalid", ... as the server says;
            with status 0 one of this module's own.
        details: `details` of the server's Status object: name, kind, causes, ...; {} when there are none.
        retry_after: seconds the server asked us to wait, or None.
        sent: False when the request certainly did not reach the server.
    """

    code = 14

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        remedy: str | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.reason = reason or REASONS.get(status, "")
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after = retry_after
        self.sent = sent

    @property
    def not_found(self) -> bool:
        """The object, its namespace or its kind does not exist."""
        return self.status == 404

    @property
    def kind_unknown(self) -> bool:
        """A 404 that says nothing of the object: its kind is not served, or not yet by a server that just started."""
        return self.status == 404 and not self.details.get("name")

    @property
    def already_exists(self) -> bool:
        """A create met an object of the same name."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        """Somebody changed the object meanwhile, or owns a field of an apply: read it again."""
        return self.status == 409 and self.reason != "AlreadyExists"

    @property
    def gone(self) -> bool:
        """A resourceVersion or continue token is too old: list anew."""
        return self.status == 410

    @property
    def forbidden(self) -> bool:
        """A right is missing, or the namespace is being deleted (see `namespace_terminating`)."""
        return self.status == 403

    @property
    def unauthorized(self) -> bool:
        """Our credentials were not accepted."""
        return self.status == 401

    @property
    def invalid(self) -> bool:
        """The object or patch can never be taken as it is; also a JSON patch whose `test` failed."""
        return self.status == 422

    @property
    def passing(self) -> bool:
        """Worth another try later: no answer, too many requests, or the server is in trouble."""
        return self.status in (0, 429) or self.status >= 500

    @property
    def namespace_terminating(self) -> bool:
        """A create was refused because its namespace is being deleted."""
        if self.status != 403:
            return False
        causes = self.details.get("causes") or ()
        return any(cause.get("reason") == "NamespaceTerminating" for cause in causes) or (
            "because it is being terminated" in self.message
        )


def status_error(action: str, code: int, status: Mapping[str, Any], retry_after: float | None, right: str) -> ApiError:
    """The error of an answer that is not a success.

    Args:
        action: what was asked: "create peerpods 'x' in namespace 'y'".
        status: the Status object of the answer, or {}.
        right: what a role would have to allow: "create on peerpods.confidentialcontainers.org".
    """
    said = str(status.get("message") or "").strip() or f"HTTP {code}"
    reason = str(status.get("reason") or "")
    details = status.get("details")
    details = details if isinstance(details, dict) else {}
    if retry_after is None and isinstance(details.get("retryAfterSeconds"), int):
        retry_after = float(details["retryAfterSeconds"])
    error = ApiError(
        f"cannot {action}: {said[:2000]}", status=code, reason=reason, details=details, retry_after=retry_after
    )
    error.remedy = _remedy(error, right)
    return error


def _remedy(error: ApiError, right: str) -> str | None:
    if error.unauthorized:
        return "the credentials were not accepted: the token may have expired or belong to another cluster"
    if error.namespace_terminating:
        return "the namespace is being deleted"
    if error.forbidden:
        return f"this identity lacks the right: {right}; see its Role or ClusterRole"
    return None


def link_error(action: str, where: str, reason: str, said: str, *, sent: bool) -> ApiError:
    """The error of a request that got no answer. `said` is a few words of the cause."""
    remedies = {
        REFUSED: "the API server may be starting anew; otherwise check the address and port",
        TIMEOUT: "the API server is overloaded, or a firewall or network policy drops the packets",
        TLS: "check the cluster's CA, the server's certificate and, if one is used, the client certificate",
        UNKNOWN_HOST: "check the server's name and the DNS of this machine",
    }
    return ApiError(
        f"cannot {action}: {said} (API server {where})", reason=reason, remedy=remedies.get(reason), sent=sent
    )
