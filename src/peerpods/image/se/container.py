"""The container of TEE=se, and TEE=se from given files: an image's folder without its root (root.py has that one too).

What is made here: the boot image for verified hosts, its header, measurements, bills of materials, provenance and
signature. What is not: kernel, initrd and the loaders are taken as they are given, and no such image was ever booted
here (that takes an IBM Z of generation 15 or newer).
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peerpods.errors import ConfigError
from peerpods.image import inputs
from peerpods.image.measure import se, se_image
from peerpods.image.place import fresh, replaceable
from peerpods.image.publish import folder as names
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.publish import publish
from peerpods.image.se import hostkeys
from peerpods.image.variant import Variant, choose

HEADER = "se-header.bin"
PLAINTEXT_FLAGS = 0xE0  # DEA, AES and ECC keys may be protected by the machine, as s390-tools sets it by default
VERSION = "0.1.0"
NOT_SHOWN = "made from given files; not booted: that takes an IBM Z machine of generation 15 or newer"
_SIZES = {"kernel": 128 << 20, "initrd": 1 << 30, "cmdline": 64 << 10, "stage3a": 1 << 20, "stage3b": 1 << 20}
_ROOT_HASH = re.compile(r"(?:^|\s)roothash=([0-9a-f]{64})(?:\s|$)")


@attrs.frozen(kw_only=True)
class Files:
    """What is packed: paths of files."""

    kernel: Path
    """arch/s390/boot/bzImage: a raw kernel image."""
    initrd: Path
    cmdline: Path
    """Text; its last line end does not count."""
    stage3a: Path
    """First loader, of s390-tools."""
    stage3b: Path
    lock: Path | None = None
    """packages.lock of what is inside, where it is known."""


@attrs.frozen(kw_only=True)
class Hosts:
    """Which machines may open it, and what their documents are checked against: paths of files."""

    documents: Sequence[Path]
    root: Path
    certificates: Sequence[Path]
    lists: Sequence[Path]


@attrs.frozen(kw_only=True)
class Order:
    """What is to be made."""

    files: Files
    hosts: Hosts
    out: Path
    profile: str = "prod"
    agent: Mapping[str, Any] = attrs.field(factory=lambda: {"kind": "unknown", "files": {}})
    """Which agent the initrd or root has; only "kata" may become a release."""
    keys: Path | None = None
    """A folder, outside of `out`, that gets the header key and the CCK, mode 0600; without it both are thrown away."""
    signing_key: Ed25519PrivateKey = attrs.field(repr=False)


def build(
    order: Order,
    now: datetime.datetime,
    say: Callable[[str], None] = lambda _text: None,
    keys: Callable[[], se.HeaderKeys] = se.HeaderKeys.fresh,
) -> Path:
    """Verify the hosts, pack, publish; the finished folder. Nothing half-made gets the final name.

    Args:
        order: what, for whom, where.
        now: aware of its zone; documents must be valid then.
        say: told each step.
        keys: gives everything random in the header; fixed in tests only.

    Raises:
        ConfigError: a file cannot be read, is empty or too large; the keys' folder is no place for keys.
        Refused: a document does not hold, or the parts make no image.
    """
    variant = choose("se", "s390x", order.profile)
    lock = order.files.lock.read_text() if order.files.lock else ""
    if (order.out / names.RAW).exists():
        raise ConfigError(
            f"{order.out} has a root disk, which would be removed",
            setting="out",
            remedy="name another folder with --out",
        )
    replaceable(order.out)
    sealed = seal(order, now, say, keys)
    with fresh(order.out) as scratch:
        _lay_down(scratch, sealed, lock)
        facts = manifest(variant, order.agent, scratch, sealed.host_keys)
        (scratch / names.MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        publish(ImageFolder(scratch), order.signing_key, say)
        keep(order, sealed, say)
    say(NOT_SHOWN)
    return order.out


@attrs.frozen(kw_only=True)
class Sealed:
    """The boot image, not written yet."""

    parts: se_image.Parts
    made: se_image.SeImage
    host_keys: list[str]
    """Digests of the keys of the hosts it is for, in hex."""
    secret: se.HeaderKeys = attrs.field(repr=False)


def seal(
    order: Order,
    now: datetime.datetime,
    say: Callable[[str], None],
    keys: Callable[[], se.HeaderKeys] = se.HeaderKeys.fresh,
) -> Sealed:
    """Verify the hosts and encrypt for them; arguments and errors as `build`. Writes nothing."""
    files = {name: _read(name, getattr(order.files, name)) for name in _SIZES}
    _check_keys_folder(order)
    say("verifying the host key documents")
    trust = hostkeys.read_trust(order.hosts.root, order.hosts.certificates, order.hosts.lists)
    documents = [one for path in order.hosts.documents for one in hostkeys.read_certificates(path)]
    hosts = hostkeys.verify(documents, trust, now)
    say(f"encrypting for {len(hosts)} host{'s' if len(hosts) > 1 else ''}")
    parts = se_image.Parts(
        kernel=files["kernel"],
        initrd=files["initrd"],
        command_line=_command_line(files["cmdline"], order.files.cmdline),
    )
    loaders = se_image.Loaders(stage3a=files["stage3a"], stage3b=files["stage3b"])
    secret = keys()
    encryption = se_image.Encryption(os.urandom(64))
    made = se_image.write_image(parts, loaders, hosts, secret, encryption, plaintext_flags=PLAINTEXT_FLAGS)
    return Sealed(parts=parts, made=made, host_keys=sorted(se.key_hash(one).hex() for one in hosts), secret=secret)


def write(folder: Path, sealed: Sealed) -> None:
    """The boot image and its header."""
    (folder / names.SE_IMAGE).write_bytes(sealed.made.data)
    (folder / HEADER).write_bytes(sealed.made.header.raw)


def keep(order: Order, sealed: Sealed, say: Callable[[str], None]) -> None:
    """Write header key and CCK where they are wanted, and say what became of them."""
    if order.keys:
        _keep(order.keys, choose("se", "s390x", order.profile).name, sealed.secret)
        say(f"header key and CCK are in {order.keys}: whoever has them reads the image's secrets")
    else:
        say("header key and CCK are thrown away: nobody can later add secrets or read this image's header")


def _lay_down(folder: Path, sealed: Sealed, lock: str) -> None:
    parts = sealed.parts
    write(folder, sealed)
    (folder / names.KERNEL).write_bytes(parts.kernel)
    (folder / names.INITRD).write_bytes(parts.initrd)
    (folder / names.CMDLINE).write_text(parts.command_line + "\n")
    (folder / names.LOCK).write_text(lock)
    found = _ROOT_HASH.search(parts.command_line)
    if found:
        (folder / names.ROOTHASH).write_text(found[1] + "\n")


def manifest(variant: Variant, agent: Mapping[str, Any], folder: Path, hosts: list[str]) -> dict[str, Any]:
    """What manifest.json says, in the form of the other images' one."""
    image = ImageFolder(folder)
    return {
        "schema": 2,
        "variant": {"tee": variant.tee, "arch": variant.arch, "profile": variant.profile},
        "image_id": variant.image_id,
        "version": VERSION,
        "epoch": inputs.EPOCH,
        "agent": dict(agent),
        "host_keys": hosts,
        "not_shown": NOT_SHOWN,
        "drift": "",
        "files": {
            name: {"sha256": image.sha256(name), "size": (folder / name).stat().st_size} for name in image.files()
        },
    }


def _read(name: str, path: Path) -> bytes:
    try:
        if path.stat().st_size > _SIZES[name]:
            raise ConfigError(f"{path} is too large for a {name}: more than {_SIZES[name]} bytes", setting=name)
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the {name} {path} cannot be read: {error.strerror}", setting=name) from error
    if not data:
        raise ConfigError(f"the {name} {path} is empty", setting=name)
    return data


def _command_line(data: bytes, path: Path) -> str:
    try:
        text = data.decode().rstrip("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text", setting="cmdline") from error
    if "\n" in text or "\0" in text:
        raise ConfigError(f"{path} has more than one line", setting="cmdline")
    return text


def _check_keys_folder(order: Order) -> None:
    if order.keys is None:
        return
    own, published = order.keys.resolve(), order.out.resolve()
    if own == published or published in own.parents:
        raise ConfigError(f"the keys would lie in {order.out}, which is published", setting="keys")
    there = [path.name for path in own.glob(f"{choose('se', 's390x', order.profile).name}.*")]
    if there:
        raise ConfigError(
            f"{order.keys} has keys of an image already: {', '.join(sorted(there))}",
            setting="keys",
            remedy="name another folder: without its keys the older image is lost to its owner",
        )


def _keep(folder: Path, name: str, secret: se.HeaderKeys) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for kind, value in (("header-key", secret.header_key), ("cck", secret.communication_key)):
        with open(os.open(folder / f"{name}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(value)
