"""AdmissionReview admission.k8s.io/v1: bytes in, bytes out."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import attrs
import msgspec

from peerpods.errors import Refused
from peerpods.kube.webhook.mutate import Mutation, mutate
from peerpods.kube.webhook.notice import Notice, texts
from peerpods.kube.webhook.policy import Policy

API_VERSION = "admission.k8s.io/v1"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@attrs.frozen(kw_only=True)
class Answer:
    """What goes back, and what is counted of it."""

    body: bytes
    result: str
    """"ignored" (not a peer pod being created), "unchanged", "mutated" or "denied"."""
    notices: tuple[Notice, ...] = ()


def answer(body: bytes, policy: Policy) -> Answer:
    """Answer one review.

    A dry run is answered as any other: nothing is done but the answer.

    Raises:
        Refused: the body is no AdmissionReview v1 with a request; the message says what is wrong.
    """
    request = _request(body)
    if not _is_new_pod(request):
        return _respond(request["uid"], Mutation())
    pod = request.get("object")
    if not isinstance(pod, dict):
        raise Refused("the review's request has no object", remedy="send the pod in request.object")
    return _respond(request["uid"], mutate(pod, policy))


def _request(body: bytes) -> dict[str, Any]:
    try:
        review = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {str(error)[:120]}") from None
    if not isinstance(review, dict) or review.get("kind") != "AdmissionReview":
        raise Refused("the body is no AdmissionReview")
    if review.get("apiVersion") != API_VERSION:
        version = str(review.get("apiVersion"))[:60]
        raise Refused(
            f"AdmissionReview {version} is not served", remedy=f"set admissionReviewVersions to [v1], {API_VERSION}"
        )
    request = review.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str) or not request["uid"]:
        raise Refused("the review has no request with a uid")
    return request


def _is_new_pod(request: dict[str, Any]) -> bool:
    kind = request.get("kind")
    return (
        request.get("operation") == "CREATE"
        and isinstance(kind, dict)
        and kind.get("kind") == "Pod"
        and kind.get("group", "") == ""
        and not request.get("subResource")
    )


def _respond(uid: str, mutation: Mutation) -> Answer:
    response: dict[str, Any] = {"uid": uid, "allowed": not mutation.denied}
    result = "ignored"
    if mutation.denied:
        message = f"this pod can never work as a peer pod: {mutation.denied}"
        response["status"] = {"code": 403, "reason": "Forbidden", "message": message}
        result = "denied"
    elif mutation.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = b64encode(_encode(mutation.patch)).decode()
        result = "mutated"
    elif mutation.ours:
        result = "unchanged"
    if warnings := texts(mutation.notices):
        response["warnings"] = warnings
    body = _encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
    return Answer(body=body, result=result, notices=mutation.notices)
