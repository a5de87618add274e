"""One container's resources: what is taken off, what stays, what it adds to the VM."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import attrs

from peerpods.kube.objects.quantity import parse
from peerpods.kube.webhook.kinds import TAKEN, WHOLE, Kind, kind_of
from peerpods.kube.webhook.memory import SECTIONS, Sections, sections_of
from peerpods.kube.webhook.notice import Notice, notice
from peerpods.kube.webhook.sums import NOTHING, Amount

_REMOVED = {
    Kind.HUGE_PAGES: "the VM has no huge pages set apart",
    Kind.DISK: "files are on the VM's disk, whose size comes with its image",
    Kind.SHARE: "a VM is given whole GPUs (gpu.intel.com/i915 or xe)",
    Kind.OTHER_SLOT: "it is the VM slot of another runtime class",
}


@attrs.define(kw_only=True)
class Taken:
    """The outcome for one container, or for the pod's own `resources`."""

    where: str
    """For people: "container app"."""
    left: dict[str, Any]
    """Its `resources` without what is taken off; fields we do not know are in it as they were."""
    original: Sections
    """What was taken off, now or before."""
    amounts: dict[Kind, Amount] = attrs.Factory(dict)
    """CPU, MEMORY (bytes) and GPU."""
    gpu_names: set[str] = attrs.Factory(set)
    has_slot: bool = False
    notices: list[Notice] = attrs.Factory(list)

    def amount(self, kind: Kind) -> Amount:
        """Nothing when it asks for none."""
        return self.amounts.get(kind, NOTHING)


def number(raw: Any, kind: Kind) -> Fraction | None:
    """A quantity; None for one that the API server must see and refuse: malformed, negative, or a part of a device."""
    try:
        value = parse(raw).value
    except ValueError:
        return None
    if value < 0 or (kind in WHOLE and value.denominator != 1):
        return None
    return value


def take(where: str, resources: Any, before: Sections | None, slot: str, slots: frozenset[str]) -> Taken:
    """Divide a container's resources.

    Args:
        resources: the raw `resources`, or None.
        before: what an earlier call took off this container. It wins over what stands there now: after an earlier
            call the API server lets LimitRanges fill in defaults where we took the user's own numbers away.
        slot: the VM resource of the pod's class.
        slots: those of all classes.
    """
    left = dict(resources) if isinstance(resources, dict) else {}
    original = {key: dict(value) for key, value in before.items()} if before else sections_of(None)
    remembered = {name for section in original.values() for name in section}
    taken = Taken(where=where, left=left, original=original)
    for key, section in sections_of(resources).items():
        for name, raw in section.items():
            kind = kind_of(name, slot, slots)
            if kind is Kind.SLOT:
                taken.has_slot = True
            if kind not in TAKEN or number(raw, kind) is None:
                continue
            _remove(left, key, name)
            if name not in remembered:
                original[key][name] = raw
            elif before and before[key].get(name) != raw:
                text = f"{where}: {name} {raw} is not used, the pod's annotation remembers what it asked for first"
                taken.notices.append(notice("remembered", text))
    _add_up(taken, slot, slots)
    _speak(taken, slot, slots)
    return taken


def _remove(left: dict[str, Any], key: str, name: str) -> None:
    section = {other: raw for other, raw in left[key].items() if other != name}
    if section:
        left[key] = section
    else:
        del left[key]


def _add_up(taken: Taken, slot: str, slots: frozenset[str]) -> None:
    found: dict[str, dict[str, Fraction]] = {}
    for key in SECTIONS:
        for name, raw in taken.original[key].items():
            value = number(raw, kind_of(name, slot, slots))
            if value is not None:
                found.setdefault(name, {})[key] = value
    for name, values in found.items():
        kind = kind_of(name, slot, slots)
        if kind in (Kind.GPU, Kind.SLICE):
            count = values.get("requests", values.get("limits", Fraction(0)))
            if count:
                taken.gpu_names.add(name)
                taken.amounts[Kind.GPU] = taken.amount(Kind.GPU) + Amount(count, count)
        elif kind in (Kind.CPU, Kind.MEMORY):
            taken.amounts[kind] = Amount(values.get("requests", Fraction(0)), values.get("limits", Fraction(0)))


def _speak(taken: Taken, slot: str, slots: frozenset[str]) -> None:
    where = taken.where
    gone = dict.fromkeys(name for section in taken.original.values() for name in section)
    for name in gone:
        kind = kind_of(name, slot, slots)
        if (why := _REMOVED.get(kind)) is not None:
            taken.notices.append(notice(kind.value, f"{where}: {name} is removed: {why}"))
        elif kind is Kind.SLICE:
            taken.notices.append(notice("slice", f"{where}: each {name} counts as a GPU: a VM is given whole GPUs"))
    kept = sections_of(taken.left)
    for name in dict.fromkeys(name for section in kept.values() for name in section):
        if kind_of(name, slot, slots) is Kind.EXTENDED:
            text = f"{where}: {name} still picks the node, but a device of the node is not in the VM"
            taken.notices.append(notice("extended", text))
    if taken.left.get("claims"):
        text = f"{where}: its resource claims still pick the node, but a device of the node is not in the VM"
        taken.notices.append(notice("claims", text))


def seat(taken: list[Taken], slot: str) -> list[Notice]:
    """Put the VM slot on exactly one of the containers: the one that has it already, else the first.

    Args:
        taken: the outcomes of `spec.containers`, in order; not empty. Their `left` are changed.
    """
    holder = next((item for item in taken if item.has_slot), taken[0])
    notices = []
    for item in taken:
        if not item.has_slot:
            continue
        asked = {str(section[slot]) for section in sections_of(item.left).values() if slot in section}
        if item is not holder:
            notices.append(notice("slot", f"{item.where}: {slot} is removed: a pod takes one, {holder.where} has it"))
            unseat(item, slot)
        elif asked != {"1"}:
            notices.append(
                notice("slot", f"{item.where}: {slot} {', '.join(sorted(asked))} becomes 1: a pod is one VM")
            )
    for key in SECTIONS:
        section = holder.left.get(key)
        holder.left[key] = {**(section if isinstance(section, dict) else {}), slot: "1"}
    return notices


def unseat(item: Taken, slot: str) -> None:
    """Take the VM slot off a container."""
    for key in SECTIONS:
        if isinstance(section := item.left.get(key), dict) and slot in section:
            _remove(item.left, key, slot)
    item.has_slot = False
