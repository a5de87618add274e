"""What the operator has decided about admission, as one value."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

DEFAULT_VCPUS = 1
DEFAULT_MEMORY_MIB = 2048
MAX_USER_DATA = 1 << 20


@attrs.frozen(kw_only=True)
class Policy:
    """How pods are judged and changed."""

    classes: Mapping[str, str]
    """Runtime class to the extended resource of which each of its pods takes one."""
    default_vcpus: int = DEFAULT_VCPUS
    """For a pod that asks for memory alone; 0: none is written."""
    default_memory_mib: int = DEFAULT_MEMORY_MIB
    """For a pod that asks for cpu alone; 0: none is written."""
    machine_types: tuple[str, ...] = ()
    """Patterns (as in a shell) of the types that exist; empty: any."""
    max_user_data: int = MAX_USER_DATA
    """Bytes of unpacked initdata that the provider takes."""
    deny: bool = False
    """Refuse a pod that can never work, instead of a warning."""

    @property
    def slots(self) -> frozenset[str]:
        """The extended resources of all classes."""
        return frozenset(self.classes.values())
