"""Whether an object in the cluster still is what we want, so that nothing is written when nothing differs. Pure.

Two questions: does the live object hold every field that we set, and did we want the same the last time (a field that
we no longer set is only taken away by an apply)? The second is answered by a fingerprint in an annotation.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from peerpods.kube.objects.quantity import parse

FINGERPRINT = "confidentialcontainers.org/applied"
_QUANTITIES = frozenset({"requests", "limits", "podFixed", "sizeLimit"})


def fingerprint(desired: Mapping[str, Any]) -> str:
    """Short text that changes with any wish."""
    return hashlib.sha256(json.dumps(desired, sort_keys=True).encode()).hexdigest()[:16]


def stamped(desired: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its fingerprint."""
    made = copy.deepcopy(dict(desired))
    made["metadata"].setdefault("annotations", {})[FINGERPRINT] = fingerprint(desired)
    return made


def first_difference(live: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str | None:
    """The path of the first field that an apply would change; None when there is none, "" when there is no object."""
    if live is None:
        return ""
    return _differs(live, wanted, "", quantities=False)


def _differs(live: Any, wanted: Any, path: str, *, quantities: bool) -> str | None:
    if isinstance(wanted, Mapping):
        return _mapping_differs(live, wanted, path, quantities)
    if isinstance(wanted, list):
        return _list_differs(live, wanted, path)
    if live == wanted or (quantities and _same_quantity(live, wanted)):
        return None
    # The server leaves out what is empty, false or zero by default.
    return None if live is None and wanted in ("", False) else path


def _mapping_differs(live: Any, wanted: Mapping[str, Any], path: str, quantities: bool) -> str | None:
    if not isinstance(live, Mapping):
        return None if live is None and not wanted else path
    for key, value in wanted.items():
        found = _differs(live.get(key), value, f"{path}.{key}", quantities=quantities or key in _QUANTITIES)
        if found is not None:
            return found
    return None


def _list_differs(live: Any, wanted: list[Any], path: str) -> str | None:
    if not isinstance(live, list):
        return None if live is None and not wanted else path
    if wanted and all(isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in wanted):
        # Lists keyed by name (containers, volumes, variables): others may have entries of their own beside ours.
        by_name = {one.get("name"): one for one in live if isinstance(one, Mapping)}
        pairs = [(by_name.get(one["name"]), one, f"{path}[{one['name']}]") for one in wanted]
    elif len(live) == len(wanted):
        pairs = [(there, one, f"{path}[{n}]") for n, (there, one) in enumerate(zip(live, wanted, strict=True))]
    else:
        return path
    for there, one, where in pairs:
        found = _differs(there, one, where, quantities=False)
        if found is not None:
            return found
    return None


def _same_quantity(live: Any, wanted: Any) -> bool:
    """Whether two texts are one quantity: the server writes "1000m" as "1"."""
    try:
        return parse(live).value == parse(wanted).value
    except ValueError:
        return False
