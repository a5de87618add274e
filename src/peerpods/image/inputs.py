"""What goes into the images: read from inputs.json, the only place that lists it; packer/ and nix/ read the same file.

Every tool that writes a byte of an image (mkfs.erofs, veritysetup, dracut, ukify, the Python that compiles) is itself
taken from Debian 13 packages, so that the host's release does not show in the result. The keys:

| key | what |
|---|---|
| epoch, identifiers | time stamp of everything (seconds), fixed UUIDs and salts |
| archive, architectures | Debian suites; kernel package, EFI name and console of each architecture |
| profiles, tees | what an image is for; which TEE it is for (variant.py) |
| command_line, modules, packages, tools | by layout: "minimal" (PROFILE=local) or "system" (all others) |
| dropped, stripped, wheel_stripped | what dependencies bring and the VM does not need |
| users, sysctls | of the system layout; units are in units.json |
| pins | kata-agent, guest components, firmware, by digest where one is known |
| guest_source, forbidden_in_guest | our own source in the VM; Python packages that must not be there |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent / "inputs.json"
DATA: dict[str, Any] = json.loads(FILE.read_text())

EPOCH: int = DATA["epoch"]
"""Time stamp of everything in an image: 2026-01-01T00:00:00Z, seconds."""
UUID: str = DATA["identifiers"]["root_uuid"]
SALT: str = DATA["identifiers"]["root_salt"]
SUITES: list[list[str]] = DATA["archive"]["suites"]
COMPONENT: str = DATA["archive"]["component"]
KERNEL: str = DATA["architectures"]["amd64"]["kernel"]
PACKAGES: dict[str, str] = DATA["packages"]["minimal"]
"""Asked for by name, with what for; what they depend on comes along, except for DROPPED."""
DROPPED: frozenset[str] = frozenset(DATA["dropped"])
"""Package management, accounts and the like: nothing is installed, configured or logged into in the VM."""
TOOLS: list[str] = DATA["tools"]["minimal"]
"""Debian 13 packages whose programs run during the build; nothing of them is in the image."""
INITRD_MODULES: list[str] = DATA["modules"]["minimal_initrd"]
"""Loaded in the initrd, each after what it depends on."""
MODULES: list[str] = DATA["modules"]["minimal"]
"""In the root, found by modprobe (the kernel asks for most of them by alias)."""
CMDLINE: str = " ".join(DATA["command_line"]["minimal"])
GUEST_SOURCE: list[str] = DATA["guest_source"]
"""Our own source in the image, relative to src/peerpods; folders whole, without tests, stubs and .proto files."""
FORBIDDEN_IN_GUEST: tuple[str, ...] = tuple(DATA["forbidden_in_guest"])
"""Python packages that must not be there: memory and start-up time (a test looks)."""
STRIPPED: list[str] = DATA["stripped"]
"""Removed from the unpacked packages; /etc and /var are written anew."""
WHEEL_STRIPPED: list[str] = DATA["wheel_stripped"]
"""Removed from the wheels, together with every folder `test` or `tests`."""
