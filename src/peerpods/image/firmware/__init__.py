"""The firmware that a TEE measures: built from Debian's own edk2 source, or Debian's as it is."""

from peerpods.image.firmware.build import facts, get

__all__ = ["facts", "get"]
