"""Field managers: who set what, and server-side apply."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tests.kube.double import fields
from tests.kube.double.fields import Path
from tests.kube.double.kinds import Kind
from tests.kube.double.refusal import Refusal, cause

Owner = tuple[str, str, str]
"""(manager, operation, apiVersion)"""
Json = dict[str, Any]


def _owners(obj: Json) -> dict[Owner, set[Path]]:
    found = {}
    for each in obj.get("metadata", {}).get("managedFields", ()):
        owner = each.get("manager", ""), each.get("operation", ""), each.get("apiVersion", "")
        found[owner] = fields.from_tree(each.get("fieldsV1", {}))
    return found


def _write(obj: Json, owners: Mapping[Owner, set[Path]], old: Json | None, now: str) -> None:
    before = {}
    for each in (old or {}).get("metadata", {}).get("managedFields", ()):
        before[each.get("manager", ""), each.get("operation", ""), each.get("apiVersion", "")] = each
    entries = []
    for (manager, operation, version), paths in owners.items():
        tree = fields.to_tree(paths)
        was = before.get((manager, operation, version))
        time = was["time"] if was and was["fieldsV1"] == tree else now
        entry = {"manager": manager, "operation": operation, "apiVersion": version, "time": time}
        if paths:
            entries.append({**entry, "fieldsType": "FieldsV1", "fieldsV1": tree})
    obj["metadata"]["managedFields"] = entries


def updated(kind: Kind, old: Json | None, new: Json, manager: str, now: str) -> None:
    """Write managedFields of `new`, which `manager` made out of `old` by anything but apply. In place."""
    if new.get("metadata", {}).get("managedFields") == [{}]:
        return
    was = fields.leaves(old, kind) if old else {}
    has = fields.leaves(new, kind)
    owners = _owners(old) if old else {}
    changed = {path for path, value in has.items() if path not in was or was[path] != value}
    for owner in owners:
        owners[owner] = {path for path in owners[owner] if path in has and path not in changed}
    me = manager, "Update", new["apiVersion"]
    owners[me] = owners.get(me, set()) | changed
    _write(new, owners, old, now)


def applied(kind: Kind, old: Json, config: Json, manager: str, now: str, *, force: bool) -> Json:
    """Server-side apply of `config` to `old`; `old` is an empty object of the same name when there is none.

    Raises:
        Refusal: 409 when another manager holds a field with another value, unless `force`.
    """
    was, wanted = fields.leaves(old, kind), fields.leaves(config, kind)
    owners = _owners(old)
    me = manager, "Apply", config["apiVersion"]
    differing = {path for path, value in wanted.items() if path not in was or was[path] != value}
    conflicts = [(path, owner) for owner, held in owners.items() if owner != me for path in sorted(differing & held)]
    if conflicts and not force:
        raise _conflict(conflicts)
    for owner in owners:
        if owner != me:
            owners[owner] = owners[owner] - differing
    result = _merge(old, config, kind, ())
    others = {path for owner, held in owners.items() if owner != me for path in held}
    gone: list[Path] = []
    for path in sorted(owners.get(me, set()) - set(wanted), key=len):
        if not any(path[: len(each)] == each for each in gone) and not any(o[: len(path)] == path for o in others):
            fields.remove(result, path)
            gone.append(path)
    owners[me] = set(wanted)
    _write(result, owners, old, now)
    return result


def _conflict(conflicts: list[tuple[Path, Owner]]) -> Refusal:
    causes, parts = [], []
    for path, (manager, operation, version) in conflicts:
        using = f" using {version}" if operation == "Update" else ""
        causes.append(cause(fields.words(path), f'conflict with "{manager}"{using}', "FieldManagerConflict"))
        parts.append(f'conflict with "{manager}"{using}: {fields.words(path)}')
    count = f"{len(parts)} conflict" + ("s" if len(parts) > 1 else "")
    text = f"Apply failed with {count}: {', '.join(parts)}"
    return Refusal(409, text, details={"causes": causes})


def _merge(live: Any, config: Any, kind: Kind, names: tuple[str, ...]) -> Any:
    if isinstance(live, dict) and isinstance(config, dict):
        merged = {name: copy.deepcopy(value) for name, value in live.items() if name not in config}
        for name, value in config.items():
            merged[name] = _merge(live.get(name), value, kind, (*names, name))
        return merged
    keys = kind.list_keys(names) if isinstance(config, list) and names else None
    if keys is None or not isinstance(live, list):
        return copy.deepcopy(config)
    items = {fields.step_of(item, keys): item for item in live}
    for item in config:
        step = fields.step_of(item, keys)
        items[step] = _merge(items.get(step), item, kind, names)
    return copy.deepcopy(list(items.values()))
