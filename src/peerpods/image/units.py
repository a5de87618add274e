"""The unit table (units.json): what starts in a VM and on a node, once for systemd, for the minimal init, and for nix/.

A unit of layout "system" becomes a systemd unit; `step` names what the minimal init does in its place; units of layout
"node" are the node's services, for nix/ and for hosts without Kubernetes.
"""

from __future__ import annotations

import functools
import json
import shlex
from pathlib import Path
from typing import Any

import attrs

from peerpods.errors import ConfigError
from peerpods.image.variant import Variant

FILE = Path(__file__).resolve().parent / "units.json"
LAYOUTS = ("system", "minimal", "node")
_ORDER = ("after", "before", "requires", "wants", "binds_to", "conflicts")


def _words(value: Any) -> tuple[str, ...]:
    return tuple(value)


@attrs.frozen(kw_only=True)
class Unit:
    """One row of the table."""

    name: str
    """With its suffix: .service, .target."""
    description: str
    layouts: tuple[str, ...] = attrs.field(converter=_words)
    type: str = "oneshot"
    exec: tuple[str, ...] = attrs.field(default=(), converter=_words)
    after: tuple[str, ...] = attrs.field(default=(), converter=_words)
    before: tuple[str, ...] = attrs.field(default=(), converter=_words)
    requires: tuple[str, ...] = attrs.field(default=(), converter=_words)
    wants: tuple[str, ...] = attrs.field(default=(), converter=_words)
    binds_to: tuple[str, ...] = attrs.field(default=(), converter=_words)
    conflicts: tuple[str, ...] = attrs.field(default=(), converter=_words)
    wanted_by: tuple[str, ...] = attrs.field(default=(), converter=_words)
    unit: dict[str, str] = attrs.field(factory=dict)
    """Further directives of [Unit]: conditions, FailureAction."""
    service: dict[str, Any] = attrs.field(factory=dict)
    """Further directives of [Service]: hardening, environment, limits; a list repeats the directive."""
    profiles: tuple[str, ...] = attrs.field(default=(), converter=_words)
    """Empty: all."""
    agents: tuple[str, ...] = attrs.field(default=(), converter=_words)
    """Kinds of agent with which it is there; empty: all."""
    step: str | None = None

    def in_image(self, variant: Variant, agent: str) -> bool:
        """Whether an image of this variant with this kind of agent ("kata", "development") has the unit."""
        return (
            variant.layout in self.layouts
            and (not self.profiles or variant.profile in self.profiles)
            and (not self.agents or agent in self.agents)
        )


@functools.cache
def load() -> tuple[Unit, ...]:
    """The whole table, in order.

    Raises:
        ConfigError: naming the unit that is not as it should be.
    """
    units = []
    for row in json.loads(FILE.read_text()):
        try:
            units.append(Unit(**row))
        except TypeError as error:
            raise ConfigError(f"units.json: {row.get('name', 'a unit')}: {error}") from error
    names = [unit.name for unit in units]
    if len(set(names)) != len(names):
        raise ConfigError("units.json names a unit twice")
    return tuple(units)


def for_image(variant: Variant, agent: str) -> tuple[Unit, ...]:
    """The units of an image, in the table's order."""
    return tuple(unit for unit in load() if unit.in_image(variant, agent))


def for_node() -> tuple[Unit, ...]:
    """The node's services."""
    return tuple(unit for unit in load() if "node" in unit.layouts)


def minimal_steps() -> tuple[str, ...]:
    """What the minimal init does, in order."""
    return tuple(unit.step for unit in load() if unit.step is not None)


def directives(unit: Unit) -> dict[str, list[tuple[str, str]]]:
    """The unit's sections with their directives, in the order in which they are written."""
    head = [("Description", unit.description)]
    for field in _ORDER:
        values = getattr(unit, field)
        if values:
            head.append(("".join(part.capitalize() for part in field.split("_")), " ".join(values)))
    head += list(unit.unit.items())
    sections = {"Unit": head}
    if unit.name.endswith(".service"):
        body = [("Type", unit.type), ("ExecStart", shlex.join(unit.exec))]
        if unit.type == "oneshot":
            body.append(("RemainAfterExit", "yes"))
        for name, value in unit.service.items():
            body += [(name, str(one)) for one in (value if isinstance(value, list) else [value])]
        sections["Service"] = body
    if unit.wanted_by:
        sections["Install"] = [("WantedBy", " ".join(unit.wanted_by))]
    return sections


def render(unit: Unit) -> str:
    """The unit file."""
    parts = []
    for section, rows in directives(unit).items():
        parts.append("\n".join([f"[{section}]", *(f"{name}={value}" for name, value in rows)]) + "\n")
    return "\n".join(parts)


def links(units: tuple[Unit, ...]) -> dict[str, str]:
    """Links that enable units, relative to the folder of unit files: path to target."""
    return {f"{target}.wants/{unit.name}": f"../{unit.name}" for unit in units for target in unit.wanted_by}
