"""Creating, changing and deleting single objects. Pure but for the clock and the uids that are given.

Each write has two halves, because admission webhooks are asked in between and take their time: `begin_*` decodes,
defaults and checks what can be checked at once; `finish_*` validates and stores.
"""

from __future__ import annotations

import copy
import datetime
import secrets
import uuid
from collections.abc import Callable

import attrs

from peerpods.kube.objects import resources as r
from tests.kube.double import managers, meta, pods, rules
from tests.kube.double.kinds import Key, Kind, builtin
from tests.kube.double.refusal import Refusal, cause, conflict, exists, forbidden, invalid, not_found
from tests.kube.double.store import Json, Name, Store


@attrs.frozen
class Options:
    """What a request says beside its body."""

    manager: str = "unknown"
    dry_run: bool = False
    user: str = "system:admin"
    groups: tuple[str, ...] = ("system:masters", "system:authenticated")
    said_manager: str = ""
    """The manager if the request named one."""


class Objects:
    """The store and the rules of writing to it.

    Args:
        now: seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.store = Store()
        self.kinds: dict[Key, Kind] = builtin()
        self._now = now

    def kind(self, resource: r.Resource) -> Kind:
        """The kind of a resource; KeyError when its CRD is not registered."""
        return self.kinds[resource.group, resource.plural]

    def time(self, ahead: float = 0.0) -> str:
        """Now, as Kubernetes writes times: whole seconds."""
        return datetime.datetime.fromtimestamp(int(self._now() + ahead), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def must_find(self, kind: Kind, name: Name) -> Json:
        """The stored object.

        Raises:
            Refusal: 404.
        """
        found = self.store.find(kind, name)
        if found is None:
            raise not_found(*kind.key, name[1])
        return found

    def ending(self, kind: Kind) -> bool:
        """Whether the CRD of a custom resource is being deleted."""
        crd = self.store.get(r.CRDS, f"{kind.resource.plural}.{kind.resource.group}") if kind.custom else None
        return crd is not None and "deletionTimestamp" in crd["metadata"]

    # creation

    def begin_create(self, kind: Kind, namespace: str, body: Json, options: Options) -> Json:
        """The object as webhooks see it."""
        obj = copy.deepcopy(body)
        meta.shape(obj)
        about = obj["metadata"]
        if kind.resource.namespaced and about.get("namespace", namespace) != namespace:
            raise Refusal(400, "the namespace of the provided object does not match the namespace sent on the request")
        if about.get("resourceVersion"):
            raise Refusal(400, "resourceVersion should not be set on objects to be created", reason="BadRequest")
        if not about.get("name"):
            if not about.get("generateName"):
                raise invalid(kind.key[0], kind.resource.kind, "", [
                    cause("metadata.name", "Required value: name or generateName is required", "FieldValueRequired")
                ])  # fmt: skip
            about.pop("name", None)  # which is made up after admission
        if kind.resource.namespaced:
            about["namespace"] = namespace
            self._check_namespace(kind, namespace, about.get("name", ""))
        for name in (
            "uid",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "generation",
            "managedFields",
        ):
            about.pop(name, None)
        about["creationTimestamp"] = None
        rules.fill(kind, obj)
        managers.updated(kind, None, obj, options.manager, self.time())
        return obj

    def _check_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        found = self.store.get(r.NAMESPACES, namespace)
        if found is None:
            raise not_found("", "namespaces", namespace)
        if "deletionTimestamp" in found["metadata"]:
            text = f"unable to create new content in namespace {namespace} because it is being terminated"
            why = [cause("metadata.namespace", f"namespace {namespace} is being terminated", "NamespaceTerminating")]
            raise forbidden(*kind.key, name, text, why)

    def finish_create(self, kind: Kind, obj: Json, options: Options) -> Json:
        """Validate and store."""
        about = obj["metadata"]
        about["creationTimestamp"] = self.time()
        if not about.get("name"):
            about["name"] = about["generateName"][:58] + secrets.token_hex(3)[:5]
        rules.fill(kind, obj)
        if kind.generation:
            about["generation"] = 1
        rules.begin(kind, obj)
        wrong = meta.faults(kind, about) + rules.faults(kind, obj, None)
        if wrong:
            raise invalid(kind.key[0], kind.resource.kind, about["name"], wrong)
        old = self.store.find(kind, (about.get("namespace", ""), about["name"]))
        if old:
            raise exists(
                *kind.key, about["name"], "object is being deleted: " if "deletionTimestamp" in old["metadata"] else ""
            )
        about["uid"] = str(uuid.uuid4())
        return obj if options.dry_run else self.store.put(kind, obj)

    # changes

    def begin_update(
        self, kind: Kind, old: Json, new: Json, subresource: str, options: Options, *, applied: bool = False
    ) -> Json:
        """The new state of an object as webhooks see it. `new` is the caller's copy and used up.

        Args:
            applied: `new` comes of server-side apply, with its managedFields written.
        """
        name = old["metadata"]["name"]
        meta.shape(new)
        about = new["metadata"]
        if about.get("name", name) != name:
            raise Refusal(400, f"the name of the object ({about['name']}) does not match the name on the URL ({name})")
        about["name"] = name
        if "namespace" in old["metadata"]:
            if about.get("namespace", old["metadata"]["namespace"]) != old["metadata"]["namespace"]:
                raise Refusal(
                    400, "the namespace of the provided object does not match the namespace sent on the request"
                )
            about["namespace"] = old["metadata"]["namespace"]
        rules.fill(kind, new)
        meta.carry(kind, old, new)
        if not applied:
            managers.updated(kind, old, new, options.manager, self.time())
        self._keep(kind, old, new, subresource)
        return new

    @staticmethod
    def _keep(kind: Kind, old: Json, new: Json, subresource: str) -> None:
        """Put back what this way of writing does not write."""
        if subresource == "status":
            managed = new["metadata"].get("managedFields")
            for name in (set(old) | set(new)) - {"status", "apiVersion", "kind"}:
                if name == "metadata" and not kind.custom:
                    continue
                new.pop(name, None)
                if name in old:
                    new[name] = copy.deepcopy(old[name])
            new["metadata"]["managedFields"] = managed
        elif kind.status and subresource != "finalize":
            new.pop("status", None)
            if "status" in old:
                new["status"] = copy.deepcopy(old["status"])
        if kind.resource == r.NAMESPACES and subresource != "finalize":
            new["spec"] = copy.deepcopy(old["spec"])

    def finish_update(self, kind: Kind, old: Json, new: Json, options: Options) -> Json:
        """Validate and store; deletes an object under deletion that lost its last finalizer."""
        about = new["metadata"]
        name = about.get("namespace", ""), about["name"]
        rules.fill(kind, new)
        wrong = meta.faults(kind, about) + rules.faults(kind, new, old)
        if wrong:
            raise invalid(kind.key[0], kind.resource.kind, name[1], wrong)
        if kind.generation and _counted(kind, old) != _counted(kind, new):
            about["generation"] = old["metadata"].get("generation", 0) + 1
        if new == old:
            return old
        if options.dry_run:
            return new
        if self._may_go(kind, new):
            self.store.drop(kind, name)  # watchers see the state before this write, as with the real server
            return new
        return self.store.put(kind, new)

    @staticmethod
    def _may_go(kind: Kind, obj: Json) -> bool:
        about = obj["metadata"]
        if "deletionTimestamp" not in about or about.get("finalizers") or about.get("deletionGracePeriodSeconds"):
            return False
        return not (kind.resource == r.NAMESPACES and obj["spec"].get("finalizers"))

    def bind(self, kind: Kind, name: Name, node: str) -> None:
        """Put a pod on a node, as a scheduler does.

        Raises:
            Refusal: 404, or 409 when it is on one.
        """
        old = self.must_find(kind, name)
        if old["spec"].get("nodeName"):
            raise conflict(*kind.key, name[1], f"pod {name[1]} is already assigned to node {old['spec']['nodeName']}")
        new = copy.deepcopy(old)
        new["spec"]["nodeName"] = node
        self.store.put(kind, new)

    # deletion

    def delete(self, kind: Kind, name: Name, wanted: Json, options: Options) -> tuple[Json, bool]:
        """Delete, or mark for deletion; gives the last state and whether it is gone.

        Args:
            wanted: DeleteOptions.
        """
        old = self.must_find(kind, name)
        about = old["metadata"]
        for field, word in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            asked = (wanted.get("preconditions") or {}).get(field)
            if asked not in (None, about[field]):
                text = f"Precondition failed: {word} in precondition: {asked}, {word} in object meta: {about[field]}"
                raise conflict(*kind.key, name[1], text)
        if kind.resource == r.NAMESPACES and name[1] in ("default", "kube-system", "kube-public"):
            raise forbidden("", "namespaces", name[1], "this namespace may not be deleted")
        new = copy.deepcopy(old)
        fresh = new["metadata"]
        fresh["finalizers"] = _finalizers(about.get("finalizers") or [], wanted)
        if not fresh["finalizers"]:
            del fresh["finalizers"]
        seconds = pods.grace(old, wanted.get("gracePeriodSeconds")) if kind.resource == r.PODS else 0
        waits = seconds or fresh.get("finalizers") or (kind.resource == r.NAMESPACES and old["spec"].get("finalizers"))
        if not waits:
            return (old, True) if options.dry_run else (self.store.drop(kind, name), True)
        if "deletionTimestamp" not in fresh or seconds < fresh.get("deletionGracePeriodSeconds", 0):
            fresh["deletionTimestamp"] = self.time(seconds)
            fresh["deletionGracePeriodSeconds"] = seconds
            if "generation" in fresh:
                fresh["generation"] += 1
        if kind.resource == r.NAMESPACES:
            new["status"] = {**new.get("status", {}), "phase": "Terminating"}
        if kind.resource == r.CRDS:
            _terminating(new, self.time())
        if new == old or options.dry_run:
            return new, False
        return self.store.put(kind, new), False


def _finalizers(present: list[str], wanted: Json) -> list[str]:
    how = wanted.get("propagationPolicy")
    if wanted.get("orphanDependents") is True:
        how = "Orphan"
    if how is None:
        return list(present)
    kept = [each for each in present if each not in ("orphan", "foregroundDeletion")]
    return kept + {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}.get(how, [])


def _terminating(crd: Json, now: str) -> None:
    conditions = crd["status"]["conditions"]
    if not any(each["type"] == "Terminating" for each in conditions):
        conditions.append({
            "type": "Terminating", "status": "True", "lastTransitionTime": now, "reason": "InstanceDeletionInProgress",
            "message": "CustomResource deletion is in progress",
        })  # fmt: skip


def _counted(kind: Kind, obj: Json) -> Json:
    left_out = {"metadata", "apiVersion", "kind"} | ({"status"} if kind.status else set())
    return {name: value for name, value in obj.items() if name not in left_out}
