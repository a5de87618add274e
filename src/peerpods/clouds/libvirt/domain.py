"""The domain XML of an instance, made from a plan and read back. Pure.

Our facts stand in the domain's own metadata, so that find and list need nothing but libvirt:
`<peerpods:instance xmlns:peerpods=NAMESPACE token= started=><peerpods:tag name= value=/>…`.
"""

from __future__ import annotations

import hashlib
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import attrs

NAMESPACE = "https://peerpods.dev/libvirt/instance/1"
_KEY = "peerpods"
_UUID_SPACE = uuid.UUID("6d0d3f3e-6f2b-5a54-9c8e-3d3a2b6f1c55")
TB_CACHE_MIB = 64
"""QEMU's cache of translated code without KVM: saves about 35 MiB a guest at no measurable time."""


@attrs.frozen(kw_only=True)
class DirectBoot:
    """Kernel and initrd given by the host, root from a shared read-only image."""

    kernel: str
    initrd: str
    cmdline: str
    root: str


@attrs.frozen(kw_only=True)
class DiskBoot:
    """Boot from a volume of the instance's own, over a base image."""

    firmware: str = ""
    """UEFI code image; BIOS if empty."""
    vtpm: bool = False
    """Whether the machine has a TPM 2.0, new with the instance and gone with it (libvirt starts swtpm)."""


@attrs.frozen(kw_only=True)
class DomainPlan:
    """All that the XML of one instance depends on."""

    name: str
    token: str
    tags: Mapping[str, str]
    vcpus: int
    memory_mib: int
    kvm: bool
    boot: DirectBoot | DiskBoot
    pool: str
    pool_path: str
    """The pool's folder on libvirt's host."""
    network: str
    cpuset: str = ""

    @property
    def volumes(self) -> VolumeNames:
        """The volumes made for this instance."""
        return volume_names(self.name)


@attrs.frozen
class VolumeNames:
    """Volumes of an instance in the pool, all derived from its name."""

    root: str
    user_data: str
    console: str

    def all(self) -> tuple[str, ...]:
        """In the order in which they are deleted."""
        return (self.root, self.user_data, self.console)


def volume_names(name: str) -> VolumeNames:
    """Names of the volumes of the instance `name`."""
    return VolumeNames(f"{name}-root.qcow2", f"{name}-cidata.iso", f"{name}-console.log")


def instance_uuid(token: str) -> str:
    """The domain's UUID: a function of the token, so that one token can never have two domains."""
    return str(uuid.uuid5(_UUID_SPACE, token))


def instance_mac(token: str) -> str:
    """The guest's address on its network, a function of the token (QEMU's prefix 52:54:00)."""
    tail = hashlib.sha256(token.encode()).digest()[:3]
    return "52:54:00:" + ":".join(f"{b:02x}" for b in tail)


def metadata_xml(token: str, tags: Mapping[str, str], *, started: bool) -> str:
    """Our element for `virDomainSetMetadata`, without a prefix: libvirt adds its own."""
    root = ET.Element("instance", {"token": token, "started": "yes" if started else "no"})
    for name in sorted(tags):
        ET.SubElement(root, "tag", {"name": name, "value": tags[name]})
    return ET.tostring(root, encoding="unicode")


@attrs.frozen
class Metadata:
    """Our element, read back."""

    token: str
    started: bool
    tags: tuple[tuple[str, str], ...]


def parse_metadata(text: str) -> Metadata:
    """Read what `virDomainGetMetadata` gives.

    Raises:
        ValueError: when it is not ours.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314  (from libvirt itself)
    except ET.ParseError as error:
        raise ValueError(f"metadata is no XML: {error}") from None
    if root.tag.rpartition("}")[2] != "instance" or "token" not in root.attrib:
        raise ValueError("metadata is not ours")
    tags = tuple(
        (child.attrib["name"], child.attrib["value"])
        for child in root
        if child.tag.rpartition("}")[2] == "tag" and {"name", "value"} <= set(child.attrib)
    )
    return Metadata(root.attrib["token"], root.attrib.get("started") == "yes", tags)


def domain_xml(plan: DomainPlan) -> str:
    """The XML to define."""
    domain = ET.Element("domain", {"type": "kvm" if plan.kvm else "qemu"})
    _text(domain, "name", plan.name)
    _text(domain, "uuid", instance_uuid(plan.token))
    _metadata(domain, plan)
    _text(domain, "memory", str(plan.memory_mib), unit="MiB")
    vcpu = _text(domain, "vcpu", str(plan.vcpus))
    if plan.cpuset:
        vcpu.set("cpuset", plan.cpuset)
    _os(domain, plan)
    features = ET.SubElement(domain, "features")
    for name in ("acpi", "apic"):
        ET.SubElement(features, name)
    if not plan.kvm:
        tcg = ET.SubElement(features, "tcg")
        _text(tcg, "tb-cache", str(TB_CACHE_MIB), unit="MiB")
    ET.SubElement(domain, "cpu", {"mode": "host-passthrough" if plan.kvm else "maximum"})
    ET.SubElement(domain, "clock", {"offset": "utc"})
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        # A pod's VM lives once: whatever it does to itself ends it, and the event tells the adaptor.
        _text(domain, event, "destroy")
    _devices(domain, plan)
    return ET.tostring(domain, encoding="unicode")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _metadata(domain: ET.Element, plan: DomainPlan) -> None:
    holder = ET.SubElement(domain, "metadata")
    ET.register_namespace(_KEY, NAMESPACE)
    ours = ET.SubElement(holder, f"{{{NAMESPACE}}}instance", {"token": plan.token, "started": "no"})
    for name in sorted(plan.tags):
        ET.SubElement(ours, f"{{{NAMESPACE}}}tag", {"name": name, "value": plan.tags[name]})


def _os(domain: ET.Element, plan: DomainPlan) -> None:
    os = ET.SubElement(domain, "os")
    _text(os, "type", "hvm", arch="x86_64", machine="q35")
    if isinstance(plan.boot, DirectBoot):
        _text(os, "kernel", plan.boot.kernel)
        _text(os, "initrd", plan.boot.initrd)
        _text(os, "cmdline", plan.boot.cmdline)
        return
    if plan.boot.firmware:
        # Without a store for its variables: a VM that starts once has nothing to remember, and each starts alike.
        _text(os, "loader", plan.boot.firmware, readonly="yes", stateless="yes", type="pflash")
    ET.SubElement(os, "boot", {"dev": "hd"})


def _devices(domain: ET.Element, plan: DomainPlan) -> None:
    devices = ET.SubElement(domain, "devices")
    ET.SubElement(devices, "controller", {"type": "usb", "model": "none"})
    names = plan.volumes
    if isinstance(plan.boot, DirectBoot):
        # Shared by all instances: read-only for QEMU too, so that its image locks allow many readers.
        root = _disk(devices, "vda", "raw", {"file": plan.boot.root}, kind="file")
        ET.SubElement(root, "readonly")
        ET.SubElement(root, "shareable")
    else:
        _disk(devices, "vda", "qcow2", {"pool": plan.pool, "volume": names.root}, kind="volume")
    # A virtio disk, not a CD-ROM: the guest needs no SATA driver for it.
    source = {"pool": plan.pool, "volume": names.user_data}
    user_data = _disk(devices, "vdb", "raw", source, kind="volume")
    ET.SubElement(user_data, "readonly")
    interface = ET.SubElement(devices, "interface", {"type": "network"})
    ET.SubElement(interface, "mac", {"address": instance_mac(plan.token)})
    ET.SubElement(interface, "source", {"network": plan.network})
    ET.SubElement(interface, "model", {"type": "virtio"})
    ET.SubElement(interface, "rom", {"enabled": "no"})
    serial = ET.SubElement(devices, "serial", {"type": "file"})
    # Appending, so that cutting the file while QEMU writes leaves no hole.
    ET.SubElement(serial, "source", {"path": f"{plan.pool_path}/{names.console}", "append": "on"})
    ET.SubElement(serial, "target", {"type": "isa-serial", "port": "0"})
    if isinstance(plan.boot, DiskBoot) and plan.boot.vtpm:
        tpm = ET.SubElement(devices, "tpm", {"model": "tpm-crb"})
        ET.SubElement(tpm, "backend", {"type": "emulator", "version": "2.0"})
    rng = ET.SubElement(devices, "rng", {"model": "virtio"})
    _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "memballoon", {"model": "none"})


def _disk(devices: ET.Element, target: str, form: str, source: dict[str, str], *, kind: str) -> ET.Element:
    disk = ET.SubElement(devices, "disk", {"type": kind, "device": "disk"})
    ET.SubElement(disk, "driver", {"name": "qemu", "type": form})
    ET.SubElement(disk, "source", source)
    ET.SubElement(disk, "target", {"dev": target, "bus": "virtio"})
    return disk
