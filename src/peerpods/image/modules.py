"""Kernel modules: which come along, in which order they are loaded, and the tables modprobe reads. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from peerpods.errors import ConfigError


def canonical(name: str) -> str:
    """The kernel's name of a module: `-` and `_` mean the same."""
    return name.replace("-", "_")


def load_order(wanted: Iterable[str], info: Callable[[str], Mapping[str, list[str]] | None]) -> list[str]:
    """Canonical names, each after all that it depends on (`depends` and `softdep: pre`), in the order first wanted.

    Args:
        wanted: names.
        info: what a module says of itself, or None when the kernel has it built in.

    Raises:
        ConfigError: when dependencies run in a circle.
    """
    order: list[str] = []
    entered: set[str] = set()

    def visit(name: str, soft: bool) -> None:
        name = canonical(name)
        if name in order:
            return
        if name in entered:
            if soft:
                return
            raise ConfigError(f"kernel module {name} depends on itself")
        found = info(name)
        if found is None:
            return
        entered.add(name)
        for dependency in found.get("depends", []):
            visit(dependency, soft)
        for line in found.get("softdep", []):
            words = line.split()
            if words and words[0] == "pre:":
                for dependency in words[1:]:
                    if dependency.endswith(":"):
                        break
                    visit(dependency, True)
        order.append(name)

    for name in wanted:
        visit(name, False)
    return order


def dependency_table(infos: Mapping[str, Mapping[str, list[str]]]) -> str:
    """modules.dep: a line `NAME.ko: DEPENDENCY.ko…` for each, all files in one folder; nearest dependency first."""
    lines = []
    for name in sorted(infos):
        needs = [found for found in load_order([name], infos.get) if found != name]
        lines.append(f"{name}.ko:" + "".join(f" {needed}.ko" for needed in reversed(needs)))
    return "\n".join(lines) + "\n"


def alias_table(infos: Mapping[str, Mapping[str, list[str]]]) -> str:
    """modules.alias: by which names the kernel asks for a module."""
    lines = [f"alias {alias} {name}" for name in sorted(infos) for alias in infos[name].get("alias", [])]
    return "\n".join(sorted(set(lines))) + "\n"
