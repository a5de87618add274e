"""From a URL to what it names, and from a request to what it wants of that."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

import attrs

from tests.kube.double.kinds import Key, Kind
from tests.kube.double.refusal import Refusal

SUBRESOURCES = {"status", "finalize", "binding", "token"}


@attrs.frozen
class Target:
    """A collection, an object or its subresource."""

    kind: Kind
    namespace: str | None = None
    name: str = ""
    subresource: str = ""

    def attributes(self, verb: str, user: str) -> Attributes:
        """What an authorizer is asked."""
        group, plural = self.kind.key
        return Attributes(user, verb, group, plural, self.subresource, self.namespace or "", self.name)


@attrs.frozen
class Attributes:
    """Who wants to do what, in the words of RBAC."""

    user: str
    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""


def no_route() -> Refusal:
    """404 for what is no object's path."""
    return Refusal(404, "the server could not find the requested resource", details={})


def parse(path: str, kinds: Mapping[Key, Kind]) -> Target:
    """What a path names.

    Raises:
        Refusal: 404 when there is no such kind or subresource.
    """
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise no_route()
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2 and (group, rest[2]) in kinds:
        namespace, rest = rest[1], rest[2:]
    kind = kinds.get((group, rest[0]))
    name, subresource = [*rest, "", ""][1:3]
    if kind is None or kind.resource.version != version or len(rest) > 3:
        raise no_route()
    if (namespace is not None) != kind.resource.namespaced and (name or namespace):
        raise no_route()
    if subresource and (subresource not in SUBRESOURCES or (subresource == "status" and not kind.status)):
        raise no_route()
    return Target(kind, namespace, name, subresource)


def verb_of(method: str, target: Target, query: Mapping[str, str]) -> str:
    """The verb that a request needs a right to.

    Raises:
        Refusal: 405.
    """
    watch = query.get("watch", "") in ("1", "true", "True")
    verbs = {
        ("GET", True): "get",
        ("GET", False): "watch" if watch else "list",
        ("POST", False): "create",
        ("PUT", True): "update",
        ("PATCH", True): "patch",
        ("DELETE", True): "delete",
        ("DELETE", False): "deletecollection",
    }
    if method == "POST" and target.subresource in ("binding", "token"):
        return "create"
    verb = verbs.get((method, bool(target.name)))
    if verb is None or (verb == "create" and target.kind.resource.namespaced and not target.namespace):
        raise Refusal(405, "the server does not allow this method on the requested resource")
    return verb
