"""The domain XML by table, and what is read back from it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from peerpods.clouds.libvirt import domain as d

DIRECT = d.DirectBoot(kernel="/i/vmlinuz", initrd="/i/initrd.img", cmdline='a=1 b="<&>"', root="/i/root.img")


def plan(**changes: Any) -> d.DomainPlan:
    values: dict[str, Any] = {
        "name": "podvm-a-1",
        "token": "t-1",
        "tags": {"peerpods-pod": "a<b", "peerpods-node": "n"},
        "vcpus": 1,
        "memory_mib": 512,
        "kvm": False,
        "boot": DIRECT,
        "pool": "default",
        "pool_path": "/pool",
        "network": "net",
    }
    return d.DomainPlan(**{**values, **changes})


def built(**changes: Any) -> ET.Element:
    return ET.fromstring(d.domain_xml(plan(**changes)))


@pytest.mark.parametrize(
    ("changes", "path", "attribute", "value"),
    [
        ({}, ".", "type", "qemu"),
        ({}, "cpu", "mode", "maximum"),
        ({}, "features/tcg/tb-cache", None, "64"),
        ({"kvm": True}, ".", "type", "kvm"),
        ({"kvm": True}, "cpu", "mode", "host-passthrough"),
        ({"kvm": True}, "features/tcg", None, None),
        ({}, "uuid", None, d.instance_uuid("t-1")),
        ({}, "os/type", "machine", "q35"),
        ({}, "os/kernel", None, "/i/vmlinuz"),
        ({}, "os/cmdline", None, 'a=1 b="<&>"'),
        ({}, "devices/disk[1]/source", "file", "/i/root.img"),
        ({}, "devices/disk[1]/readonly", None, ""),
        ({}, "devices/disk[1]/shareable", None, ""),
        ({}, "devices/disk[2]/source", "volume", "podvm-a-1-cidata.iso"),
        ({}, "devices/disk[2]/readonly", None, ""),
        ({"boot": d.DiskBoot()}, "os/kernel", None, None),
        ({"boot": d.DiskBoot()}, "os/loader", None, None),
        ({"boot": d.DiskBoot()}, "devices/disk[1]/source", "volume", "podvm-a-1-root.qcow2"),
        ({"boot": d.DiskBoot()}, "devices/disk[1]/driver", "type", "qcow2"),
        ({"boot": d.DiskBoot()}, "devices/disk[1]/readonly", None, None),
        ({"boot": d.DiskBoot(firmware="/f.fd")}, "os/loader", None, "/f.fd"),
        ({"boot": d.DiskBoot(firmware="/f.fd")}, "os/loader", "type", "pflash"),
        ({"boot": d.DiskBoot(firmware="/f.fd")}, "os/loader", "stateless", "yes"),
        ({"boot": d.DiskBoot(firmware="/f.fd")}, "devices/tpm", None, None),
        ({"boot": d.DiskBoot(vtpm=True)}, "devices/tpm", "model", "tpm-crb"),
        ({"boot": d.DiskBoot(vtpm=True)}, "devices/tpm/backend", "type", "emulator"),
        ({"memory_mib": 2048}, "memory", None, "2048"),
        ({"memory_mib": 2048}, "memory", "unit", "MiB"),
        ({"vcpus": 4}, "vcpu", None, "4"),
        ({"cpuset": "0-3"}, "vcpu", "cpuset", "0-3"),
        ({}, "vcpu", "cpuset", None),
        ({}, "on_reboot", None, "destroy"),
        ({}, "on_crash", None, "destroy"),
        ({}, "devices/serial/source", "path", "/pool/podvm-a-1-console.log"),
        ({}, "devices/serial/source", "append", "on"),
        ({}, "devices/interface/source", "network", "net"),
        ({}, "devices/interface/mac", "address", d.instance_mac("t-1")),
        ({}, "devices/memballoon", "model", "none"),
    ],
)
def test_table(changes: dict[str, Any], path: str, attribute: str | None, value: str | None) -> None:
    root = built(**changes)
    element = root if path == "." else root.find(path)
    if element is None:
        assert value is None
    else:
        assert (element.get(attribute) if attribute else (element.text or "")) == value


def test_metadata_is_read_back() -> None:
    root = built()
    element = root.find(f"metadata/{{{d.NAMESPACE}}}instance")
    assert element is not None
    facts = d.parse_metadata(ET.tostring(element, encoding="unicode"))
    assert facts == d.Metadata("t-1", False, (("peerpods-node", "n"), ("peerpods-pod", "a<b")))


def test_metadata_that_is_set_later_is_read_back() -> None:
    facts = d.parse_metadata(d.metadata_xml("t-1", {"k": "v'\""}, started=True))
    assert facts == d.Metadata("t-1", True, (("k", "v'\""),))


@pytest.mark.parametrize("text", ["", "<instance/>", "<other token='t'/>", "<instance token='t'"])
def test_a_strangers_metadata_is_not_ours(text: str) -> None:
    with pytest.raises(ValueError, match="metadata is"):
        d.parse_metadata(text)


def test_identity_is_a_function_of_the_token() -> None:
    assert d.instance_uuid("a-1") == d.instance_uuid("a-1") != d.instance_uuid("a-2")
    assert d.instance_mac("a-1") == d.instance_mac("a-1") != d.instance_mac("a-2")
    assert int(d.instance_mac("a-1")[:2], 16) & 1 == 0
