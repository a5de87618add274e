"""What the API server says no with: Status objects."""

from __future__ import annotations

from typing import Any

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


class Refusal(Exception):
    """An answer that is no success, as a Status."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        details: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = REASONS.get(code, "") if reason is None else reason
        self.details = details
        self.metadata = metadata or {}
        self.retry_after = retry_after
        self.warnings: list[str] = []

    def status(self) -> dict[str, Any]:
        """The Status object of the body."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details is not None:
            body["details"] = {name: value for name, value in self.details.items() if value}
        return body


def cause(field: str, message: str, reason: str = "FieldValueInvalid") -> dict[str, str]:
    """One entry of `details.causes`."""
    return {"reason": reason, "message": message, "field": field}


def qualified(group: str, word: str) -> str:
    """ "peerpods.confidentialcontainers.org", "pods": how messages name a resource or kind."""
    return f"{word}.{group}" if group else word


def not_found(group: str, plural: str, name: str) -> Refusal:
    """404."""
    details = {"name": name, "group": group, "kind": plural}
    return Refusal(404, f'{qualified(group, plural)} "{name}" not found', details=details)


def exists(group: str, plural: str, name: str, why: str = "") -> Refusal:
    """409 AlreadyExists."""
    details = {"name": name, "group": group, "kind": plural}
    text = f'{why}{qualified(group, plural)} "{name}" already exists'
    return Refusal(409, text, reason="AlreadyExists", details=details)


def conflict(group: str, plural: str, name: str, why: str = "") -> Refusal:
    """409 Conflict."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    text = f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": {why}'
    return Refusal(409, text, details={"name": name, "group": group, "kind": plural})


def invalid(group: str, kind: str, name: str, causes: list[dict[str, str]]) -> Refusal:
    """422 with field paths."""
    words = [f"{each['field']}: {each['message']}" for each in causes]
    listed = words[0] if len(words) == 1 else "[" + ", ".join(words) + "]"
    text = f'{qualified(group, kind)} "{name}" is invalid: {listed}'
    return Refusal(422, text, details={"name": name, "group": group, "kind": kind, "causes": causes})


def forbidden(group: str, plural: str, name: str, why: str, causes: list[dict[str, str]] | None = None) -> Refusal:
    """403."""
    details: dict[str, Any] = {"name": name, "group": group, "kind": plural}
    if causes:
        details["causes"] = causes
    return Refusal(403, f'{qualified(group, plural)} "{name}" is forbidden: {why}', details=details)


def expired(message: str, continue_token: str = "") -> Refusal:
    """410."""
    metadata = {"continue": continue_token} if continue_token else {}
    return Refusal(410, message, metadata=metadata)
