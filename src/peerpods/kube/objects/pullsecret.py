"""Pull secrets: from Secret objects to one containers-auth.json for the VM. Pure.

| type | key of the data | content |
|---|---|---|
| kubernetes.io/dockerconfigjson | .dockerconfigjson | {"auths": {registry: entry}} |
| kubernetes.io/dockercfg (legacy) | .dockercfg | {registry: entry} |

An entry is {"auth": base64(user:password)} or {"username": …, "password": …}; `auth` counts where both are given, as
for kubelet. Of two secrets with one registry the first named wins, again as for kubelet, which tries them in order.
Error texts name the secret's part that is wrong, never its content.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any

from peerpods.errors import Refused

DOCKER_CONFIG_JSON = "kubernetes.io/dockerconfigjson"
DOCKER_CFG = "kubernetes.io/dockercfg"
_KEYS = {DOCKER_CONFIG_JSON: ".dockerconfigjson", DOCKER_CFG: ".dockercfg"}

Auths = dict[str, dict[str, str]]
"""Registry, as written, to {"auth": base64(user:password)}."""


class BadSecret(Refused):
    """A secret holds no credentials that can be used; the text says why, without its content."""


def _decoded(data: str, what: str) -> str:
    try:
        return base64.b64decode("".join(data.split()), validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise BadSecret(f"{what} is not base64 of a text") from error


def _object(text: str, what: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadSecret(f"{what} is not a JSON object")
    return value


def _entry(registry: str, entry: object) -> dict[str, str] | None:
    """One registry's credentials; None for an entry that has none."""
    if not isinstance(entry, Mapping):
        raise BadSecret(f"the entry of registry {registry} is not a JSON object")
    auth, user, password = entry.get("auth"), entry.get("username"), entry.get("password")
    if auth:
        if not isinstance(auth, str):
            raise BadSecret(f"'auth' of registry {registry} is not a text")
        pair = _decoded(auth, f"'auth' of registry {registry}").rstrip("\x00")
        if ":" not in pair:
            raise BadSecret(f"'auth' of registry {registry} is not base64 of user:password")
    elif isinstance(user, str) and isinstance(password, str) and user:
        if ":" in user:
            raise BadSecret(f"the username of registry {registry} holds ':'")
        pair = f"{user}:{password}"
    elif user or password:
        raise BadSecret(f"registry {registry} needs both 'username' and 'password'")
    else:
        return None
    return {"auth": base64.b64encode(pair.encode()).decode()}


def credentials(secret: Mapping[str, Any]) -> Auths:
    """What a Secret object holds.

    Raises:
        BadSecret: another type, no such key, bad base64, bad JSON, or no credentials in it.
    """
    kind = secret.get("type") or "Opaque"
    key = _KEYS.get(kind) if isinstance(kind, str) else None
    if key is None:
        raise BadSecret(f"it has type {kind}, which is none of {DOCKER_CONFIG_JSON} and {DOCKER_CFG}")
    data = secret.get("data")
    encoded = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(encoded, str):
        raise BadSecret(f"it has no key {key}")
    document = _object(_decoded(encoded, key), key)
    entries = document.get("auths") if kind == DOCKER_CONFIG_JSON else document
    if not isinstance(entries, Mapping):
        raise BadSecret(f"{key} has no object 'auths'")
    found: Auths = {}
    for registry, entry in entries.items():
        one = _entry(registry, entry)
        if one is not None and registry:
            found[registry] = one
    if not found:
        raise BadSecret(f"{key} has no credentials")
    return found


def host_of(registry: str) -> str:
    """What two spellings of a registry's key have in common: no scheme, no final slash, no API version.

    `https://index.docker.io/v1/` and `docker.io` are one registry.
    """
    name = registry.partition("://")[2] or registry
    name = name.rstrip("/")
    for version in ("/v1", "/v2"):
        name = name.removesuffix(version)
    host, slash, rest = name.partition("/")
    return ("docker.io" if host in ("index.docker.io", "registry-1.docker.io") else host) + slash + rest


def merge(parts: Iterable[Auths]) -> Auths:
    """All credentials; of two for one registry the earlier part's."""
    found: Auths = {}
    taken: set[str] = set()
    for part in parts:
        fresh = {registry: entry for registry, entry in part.items() if host_of(registry) not in taken}
        found.update(fresh)
        taken.update(map(host_of, fresh))
    return found


def to_json(auths: Auths) -> str:
    """The text of containers-auth.json; empty for none. Equal credentials give equal text."""
    return json.dumps({"auths": auths}, sort_keys=True, separators=(",", ":")) if auths else ""


def merge_texts(first: str, second: str | None) -> str:
    """The credentials of the pod (`first`) before those of the node (`second`).

    What else the node's file holds (credential helpers) is kept as it is. A node's file that is no JSON object is
    left to its own check.
    """
    if not second:
        return first
    mine = _object(first, "auth.json")
    try:
        other = _object(second, "the node's auth.json")
    except BadSecret:
        return second
    theirs = other.get("auths")
    merged = merge([dict(mine.get("auths", {})), dict(theirs) if isinstance(theirs, Mapping) else {}])
    return json.dumps({**other, "auths": merged}, sort_keys=True, separators=(",", ":"))
