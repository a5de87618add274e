"""Lists: pages, continue tokens, old versions."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from tests.kube.double import selectors
from tests.kube.double.kinds import Kind
from tests.kube.double.refusal import Refusal, expired
from tests.kube.double.store import Json, Name, Store

_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
)


def shown(kind: Kind, obj: Json) -> Json:
    """An object as an item of a list: built-in kinds do not repeat what the list says."""
    return obj if kind.custom else {name: value for name, value in obj.items() if name not in ("apiVersion", "kind")}


def _token(version: int, after: Name) -> str:
    return base64.urlsafe_b64encode(json.dumps({"rv": version, "start": after}).encode()).decode()


def _parse(token: str) -> tuple[int, Name]:
    try:
        told = json.loads(base64.urlsafe_b64decode(token))
        return int(told["rv"]), (told["start"][0], told["start"][1])
    except (ValueError, KeyError, IndexError, TypeError):
        raise Refusal(400, "continue key is not valid") from None


def list_objects(store: Store, kind: Kind, namespace: str | None, query: Mapping[str, str]) -> Json:
    """The List object that answers a list request.

    Raises:
        Refusal: 400 for bad selectors, 410 for a token or an exact version that is forgotten, 504 for one to come.
    """
    test = selectors.parse(kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
    limit = int(query.get("limit") or 0)
    version, after, asked = store.version, None, query.get("resourceVersion", "")
    if query.get("continue"):
        version, after = _parse(query["continue"])
        if version < 0:
            version = store.version
    elif asked not in ("", "0"):
        version = _version(store, asked, exact=query.get("resourceVersionMatch") == "Exact" or limit > 0)
    if asked == "0":
        limit = 0
    then = store.at(kind.key, version)
    if then is None:
        if after is None:
            raise expired(f"The resourceVersion for the provided list is too old: {version}")
        raise expired(_EXPIRED, _token(-1, after))
    names = sorted(name for name in then if namespace in (None, name[0]))
    if after is not None:
        names = [name for name in names if name > after]
    found: list[tuple[Name, Json]] = [(name, then[name]) for name in names if test(then[name])]
    meta: dict[str, Any] = {"resourceVersion": str(version)}
    if limit and len(found) > limit:
        meta["continue"] = _token(version, found[limit - 1][0])
        if not query.get("labelSelector") and not query.get("fieldSelector"):
            meta["remainingItemCount"] = len(found) - limit
        found = found[:limit]
    return {
        "kind": f"{kind.resource.kind}List",
        "apiVersion": kind.resource.api_version,
        "metadata": meta,
        "items": [shown(kind, obj) for _, obj in found],
    }


def bad_version(asked: str) -> Refusal:
    """500, as the real server says it."""
    text = f'resourceVersion: Invalid value: "{asked}": strconv.ParseUint: parsing "{asked}": invalid syntax'
    return Refusal(500, text, reason="")


def _version(store: Store, asked: str, *, exact: bool) -> int:
    if not asked.isdigit():
        raise bad_version(asked)
    if int(asked) > store.version:
        text = f"Timeout: Too large resource version: {asked}, current: {store.version}"
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        raise Refusal(504, text, details={"causes": [cause], "retryAfterSeconds": 1}, retry_after=1)
    return int(asked) if exact else store.version
