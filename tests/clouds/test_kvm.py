"""The KVM probe believes the CPU, not the device."""

from __future__ import annotations

import pytest

from peerpods.clouds.kvm import judge

INTEL = "processor\t: 0\nflags\t\t: fpu vmx sse2\nbugs\t: x\n"
AMD = "processor\t: 0\nflags\t\t: fpu svm sse2\n"
TRAP = "processor\t: 0\nflags\t\t: fpu sse2 hypervisor svm_lock vmx_like\n"


@pytest.mark.parametrize("cpuinfo", [INTEL, AMD])
def test_hardware_and_device_are_usable(cpuinfo: str) -> None:
    assert judge(cpuinfo, device_exists=True, device_writable=True).usable


@pytest.mark.parametrize(
    ("cpuinfo", "exists", "writable", "reason"),
    [
        (TRAP, True, True, "neither vmx nor svm"),
        ("", True, True, "neither vmx nor svm"),
        (INTEL, False, False, "does not exist"),
        (INTEL, True, False, "may not be opened"),
    ],
)
def test_what_is_missing_is_said(cpuinfo: str, exists: bool, writable: bool, reason: str) -> None:
    verdict = judge(cpuinfo, device_exists=exists, device_writable=writable)
    assert not verdict.usable
    assert reason in verdict.reason


def test_other_machines_have_no_flag_to_look_at() -> None:
    assert judge("", device_exists=True, device_writable=True, machine="s390x").usable
