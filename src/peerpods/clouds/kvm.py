"""Whether hardware virtualisation truly works here.

An open /dev/kvm proves nothing: a kernel with software virtualisation (kvm_pvm) opens it, makes VMs and answers
libvirt's capabilities, and a stock guest kernel then spins for ever. Only the CPU's own flags tell.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import attrs

DEVICE = "/dev/kvm"


@attrs.frozen
class KvmVerdict:
    """The answer and the reason for it, one sentence."""

    usable: bool
    reason: str


def judge(cpuinfo: str, *, device_exists: bool, device_writable: bool, machine: str = "x86_64") -> KvmVerdict:
    """Decide from facts.

    Args:
        cpuinfo: text of /proc/cpuinfo.
        machine: as `uname -m` says; other than x86_64 have no flag to look at, the device decides there.
    """
    if not device_exists:
        return KvmVerdict(False, f"{DEVICE} does not exist")
    if machine in ("x86_64", "i686"):
        flags: set[str] = set()
        for line in cpuinfo.splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "flags":
                flags.update(value.split())
                break
        if not flags & {"vmx", "svm"}:
            return KvmVerdict(False, f"the CPU has neither vmx nor svm, so {DEVICE} cannot run a stock kernel")
    if not device_writable:
        return KvmVerdict(False, f"{DEVICE} may not be opened by this user")
    return KvmVerdict(True, "the CPU has hardware virtualisation and the device is there")


def probe() -> KvmVerdict:
    """Judge this machine. Never opens the device."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        cpuinfo = ""
    return judge(
        cpuinfo,
        device_exists=Path(DEVICE).exists(),
        device_writable=os.access(DEVICE, os.R_OK | os.W_OK),
        machine=platform.machine(),
    )
