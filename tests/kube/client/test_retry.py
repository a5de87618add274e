"""Which request is sent again, and what errors say."""

from __future__ import annotations

import pytest

from peerpods.kube.client import ApiError
from peerpods.kube.client.errors import link_error, status_error
from peerpods.kube.client.retry import next_try, parse_retry_after

NO_ANSWER = {"reason": "ConnectionLost"}
UNSENT = {"reason": "ConnectionRefused", "sent": False}


@pytest.mark.parametrize(
    ("method", "error", "again"),
    [
        ("GET", {"status": 500}, True),
        ("GET", {"status": 503}, True),
        ("GET", {"status": 429}, True),
        ("GET", NO_ANSWER, True),
        ("GET", UNSENT, True),
        ("GET", {"reason": "Timeout"}, False),
        ("GET", {"reason": "TLS", "sent": False}, False),
        ("GET", {"reason": "TooLarge"}, False),
        ("GET", {"status": 404}, False),
        ("GET", {"status": 403}, False),
        ("GET", {"status": 410}, False),
        ("POST", {"status": 429}, True),
        ("POST", UNSENT, True),
        ("POST", {"reason": "ConnectionLost", "sent": False}, True),
        ("POST", NO_ANSWER, False),
        ("PATCH", {"status": 500}, False),
        ("PUT", {"status": 409}, False),
        ("DELETE", {"status": 503}, False),
    ],
)
def test_what_is_sent_again(method, error, again):
    delay = next_try(method, ApiError("no", **error), 1, 0.5)
    assert (delay is not None) is again
    assert next_try(method, ApiError("no", **error), 4, 0.5) is None


def test_the_servers_word_on_when_counts():
    assert next_try("POST", ApiError("no", status=429, retry_after=3), 1, 0.0) == 3
    assert next_try("POST", ApiError("no", status=429, retry_after=60), 1, 0.0) is None
    assert [parse_retry_after(value) for value in ("7", " 7 ", "", None, "Wed, 21 Oct", "999999")] == [
        7.0,
        7.0,
        None,
        None,
        None,
        3600.0,
    ]


@pytest.mark.parametrize(
    ("code", "reason", "true"),
    [
        (404, "NotFound", {"not_found"}),
        (409, "AlreadyExists", {"already_exists"}),
        (409, "Conflict", {"conflict"}),
        (410, "Expired", {"gone"}),
        (401, "Unauthorized", {"unauthorized"}),
        (403, "Forbidden", {"forbidden"}),
        (422, "Invalid", {"invalid"}),
        (429, "TooManyRequests", {"passing"}),
        (500, "InternalError", {"passing"}),
        (0, "Timeout", {"passing"}),
    ],
)
def test_kinds_of_errors(code, reason, true):
    error = ApiError("no", status=code, reason=reason)
    names = ("not_found", "already_exists", "conflict", "gone", "unauthorized", "forbidden", "invalid", "passing")
    assert {name for name in names if getattr(error, name)} == true
    if code and reason != "AlreadyExists":
        assert ApiError("no", status=code).reason == reason


def test_a_namespace_that_goes_is_told_from_a_missing_right():
    causes = {"causes": [{"reason": "NamespaceTerminating", "message": "x"}]}
    error = status_error("create pods", 403, {"message": "no", "reason": "Forbidden", "details": causes}, None, "r")
    assert error.namespace_terminating and error.forbidden
    assert str(error) == "cannot create pods: no (the namespace is being deleted)"


def test_details_and_waits_come_from_the_status():
    status = {"message": "slow down", "reason": "TooManyRequests", "details": {"retryAfterSeconds": 3, "name": "a"}}
    error = status_error("get pods 'a'", 429, status, None, "r")
    assert error.retry_after == 3 and error.details["name"] == "a"
    assert status_error("get", 502, {}, None, "r").message == "cannot get: HTTP 502"
    assert status_error("get", 502, {"details": "odd"}, None, "r").details == {}


def test_no_answer_says_where_and_what_to_do():
    error = link_error("get pods 'a'", "https://h:1", "ConnectionRefused", "nobody listens there", sent=False)
    assert str(error) == (
        "cannot get pods 'a': nobody listens there (API server https://h:1) "
        "(the API server may be starting anew; otherwise check the address and port)"
    )
