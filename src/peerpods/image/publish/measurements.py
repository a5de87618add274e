"""measurements.json: every value that a verifier needs of one image, from its files alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from peerpods.errors import Refused
from peerpods.image.measure import pcr, pe, se_image, snp, tdx
from peerpods.image.measure.firmware import Firmware, parse_firmware
from peerpods.image.publish import folder as names
from peerpods.image.publish.folder import ImageFolder

SCHEMA = 1
VCPUS = range(1, 65)
GPT_BYTES = 34 * 512
Say = Callable[[str], None]


@attrs.frozen(kw_only=True)
class Shapes:
    """For which VM shapes SNP values are computed."""

    vcpus: Sequence[int] = VCPUS
    cpus: Sequence[str] = tuple(snp.CPU_MODELS)
    features: Sequence[int] = tuple(snp.FEATURES.values())
    vmms: Sequence[snp.Vmm] = (snp.Vmm.QEMU,)

    def machines(self) -> Iterator[snp.Machine]:
        """All of them."""
        for vmm in self.vmms:
            for cpu in self.cpus:
                for features in self.features:
                    for vcpus in self.vcpus:
                        yield snp.Machine(vcpus=vcpus, cpu=cpu, features=features, vmm=vmm)


def measure(image: ImageFolder, shapes: Shapes | None = None, say: Say = lambda _text: None) -> dict[str, Any]:
    """What measurements.json says.

    Args:
        image: a folder with the image's files.
        shapes: for which shapes SNP values are wanted; all by default.
        say: told what is being computed.

    Raises:
        Refused: a file is missing or broken, or a shape does not exist.
    """
    shapes = shapes or Shapes()
    variant = image.variant
    manifest = image.manifest
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "image": {
            "name": variant.name,
            "image_id": variant.image_id,
            "version": manifest.get("version", ""),
            "release": variant.release and manifest["agent"]["kind"] == "kata",
            "agent": manifest["agent"]["kind"],
        },
        "digests": {name: image.sha256(name) for name in image.files() if _is_input(name)},
    }
    if image.has(names.ROOTHASH):
        found["roothash"] = image.text(names.ROOTHASH)
    if image.has(names.UKI):
        say("vTPM registers")
        found["vtpm"] = {algorithm: _vtpm(image, algorithm) for algorithm in ("sha256", "sha384")}
    if variant.tee == "snp":
        say("SNP launch digests")
        found["snp"] = _snp(image, shapes)
    if variant.tee == "tdx":
        say("TDX registers")
        found["tdx"] = _tdx(image)
    if variant.tee == "se" and image.has(names.SE_IMAGE):
        say("Secure Execution header")
        found["se"] = _se(image)
    found["initdata"] = {
        "digest": "SHA-256, SHA-384 or SHA-512 of the TOML text, as its own `algorithm` says",
        "pcr8": "extended once with the digest, cut or filled with zeros to the bank's size, on zeros",
        "hostdata": "the digest, cut or filled with zeros to 32 bytes",
        "mrconfigid": "the digest, filled with zeros to 48 bytes",
    }
    return found


def _is_input(name: str) -> bool:
    made = {names.MEASUREMENTS, names.RVPS, names.CYCLONEDX, names.SPDX, names.PROVENANCE, names.MANIFEST}
    return name not in made


def _snp(image: ImageFolder, shapes: Shapes) -> dict[str, Any]:
    """Values of the boots that this firmware knows: -kernel only. It has no way to a disk, so there is none for one."""
    data = image.read(names.SNP_FIRMWARE)
    firmware = parse_firmware(data, names.SNP_FIRMWARE)
    boots = {
        "uki": snp.KernelFiles(kernel=image.read(names.UKI)),
        "kernel": snp.KernelFiles(
            kernel=image.read(names.KERNEL), initrd=image.read(names.INITRD), command_line=image.text(names.CMDLINE)
        ),
    }
    values = [
        {
            "boot": boot,
            "vmm": machine.vmm.value,
            "cpu": machine.cpu,
            "vcpus": machine.vcpus,
            "features": machine.features,
            "digest": digest.hex(),
        }
        for boot, files in boots.items()
        for machine, digest in snp.launch_digests(firmware, shapes.machines(), files)
    ]
    return {
        "firmware_sha256": hashlib.sha256(data).hexdigest(),
        "boots": {
            "uki": "podvm.efi as -kernel, kernel-hashes=on: binds firmware, kernel, initrd, command line and root",
            "kernel": "vmlinuz, initrd.img and cmdline, kernel-hashes=on: binds the same",
        },
        "values": values,
    }


def _event(one: tdx.Event) -> dict[str, Any]:
    return {"register": one.register, "name": one.name, "digest": one.digest.hex()}


def _tdx(image: ImageFolder) -> dict[str, Any]:
    firmwares: dict[str, Firmware] = {
        name: parse_firmware(image.read(name), name)
        for name in (names.TDX_FIRMWARE, names.STOCK_FIRMWARE)
        if image.has(name)
    }
    if not firmwares:
        raise Refused(f"{image.path} has no firmware for TDX", remedy="build the image again")
    uki = pe.parse(image.read(names.UKI), names.UKI)
    digest, then = pe.authenticode(uki, "sha384"), _uki_events(image, uki)
    kernel = pe.authenticode(pe.parse(image.read(names.KERNEL), names.KERNEL), "sha384")
    boots = {
        "uki": tdx.direct_uki_events(digest, then),
        "kernel": tdx.direct_boot_events(kernel, image.text(names.CMDLINE), image.read(names.INITRD)),
    }
    if image.has(names.RAW):
        boots["disk"] = tdx.disk_boot_events(_gpt(image), digest, then)
    return {
        "firmware": {
            name: {
                "sha256": hashlib.sha256(firmware.data).hexdigest(),
                "mrtd": {order.value: tdx.mrtd(firmware, order).hex() for order in tdx.Order},
                "rtmr0_events": [_event(one) for one in [*tdx.firmware_events(firmware), *tdx.unsecured_events()]],
            }
            for name, firmware in firmwares.items()
        },
        "boots": {
            boot: {
                "events": [_event(one) for one in events],
                "rtmr": {
                    str(index): value.hex() for index, value in tdx.replay(events).items() if any(value) and index != 0
                },
            }
            for boot, events in boots.items()
        },
        "note": "RTMR0 depends on the VM's shape (memory, devices, ACPI): compare its events, not its value."
        " Where a firmware or stub orders or adds events otherwise, replay the event log and compare digests by name."
        " A QEMU that fills in the kernel's header gives vmlinuz another digest than here.",
    }


def _uki_events(image: ImageFolder, uki: pe.Image) -> list[tdx.Event]:
    found = ((name, uki.section(name)) for name in pcr.UKI_SECTIONS)
    sections = [(name, hashlib.sha384(content).digest()) for name, content in found if content is not None]
    kernel = pe.authenticode(_inner(uki), "sha384")
    initrd = hashlib.sha384(pcr.stub_initrd(uki)).digest()
    return tdx.unified_kernel_events(sections, kernel, image.text(names.CMDLINE), initrd)


def _inner(uki: pe.Image) -> pe.Image:
    """The kernel inside a UKI is an EFI image of its own, which the firmware measures when the stub loads it."""
    return pe.parse(uki.section(".linux") or b"", "the kernel in the UKI")


def _gpt(image: ImageFolder) -> bytes:
    with (image.path / names.RAW).open("rb") as stream:
        return tdx.gpt_data(stream.read(GPT_BYTES))


def _vtpm(image: ImageFolder, algorithm: str) -> dict[str, Any]:
    """Registers of a boot from the disk with Secure Boot off, as the firmware, stub and kernel extend them.

    PCR 11 is the stub's value: the image has no units that extend boot phases.
    """
    uki = pe.parse(image.read(names.UKI), names.UKI)
    bank = pcr.Bank(algorithm)
    pcr.boot_images(bank, [("uki", uki), ("kernel in the uki", _inner(uki))])
    pcr.secure_boot(bank, {})
    able = pcr.Bank(algorithm)
    pcr.secure_boot(able, {"SecureBoot": b"\0"})
    pcr.kernel_inputs(bank, image.text(names.CMDLINE), pcr.stub_initrd(uki))
    pcr.unified_kernel(bank, uki)
    return {
        "pcr4": bank.values[4].hex(),
        "pcr7": {"no secure boot in the firmware": bank.values[7].hex(), "secure boot off": able.values[7].hex()},
        "pcr9": bank.values[9].hex(),
        "pcr11": bank.values[11].hex(),
        "events": [{"pcr": one.pcr, "name": one.name, "digest": one.digest.hex()} for one in bank.log],
    }


def _se(image: ImageFolder) -> dict[str, Any]:
    header = se_image.find_header(image.read(names.SE_IMAGE))
    parts = se_image.Parts(
        kernel=image.read(names.KERNEL), initrd=image.read(names.INITRD), command_line=image.text(names.CMDLINE)
    )
    return {
        "tag": header.tag.hex(),
        "image_phkh": [value.hex() for value in header.host_hashes],
        "pld": header.pld.hex(),
        "ald": header.ald.hex(),
        "tld": header.tld.hex(),
        "plaintext": se_image.plaintext_digests(parts),
        "note": "the tag names this build; the plaintext digests are equal in every build of the same image",
    }
