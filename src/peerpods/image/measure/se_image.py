"""IBM Secure Execution boot images: kernel, initrd and command line encrypted for the ultravisor of chosen hosts.

The file is memory from address 0: a short PSW, a page that says where header and parameter block are, the first loader
(stage 3a) in clear, the header, then the encrypted components in order kernel, initrd, command line, second loader
(stage 3b), then the parameter block (IPIB). The loaders are IBM's (s390-tools, MIT), given as files; their last bytes
are the arguments that this module fills in. Layout: s390-tools pvimg `se_img`, `bootloader`, `ipl`.

Kernel, initrd and command line decide what runs; `plaintext_digests` of them are what two builds have in common.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from peerpods.errors import Refused
from peerpods.image.measure import se

PAGE = 4096
PSW_MASK = 0x180000000  # 64-bit addressing (EA, BA)
KERNEL_ENTRY = 0x10000
STAGE3A_ADDRESS = 0x10000
STAGE3A_ENTRY = STAGE3A_ADDRESS + 0x1000
METADATA_ADDRESS = 0xC000
HEADER_ADDRESS_MIN = 0x14000  # older tools search the header from here on
_SHORT_PSW_BIT = 1 << 51
_KERNEL_MARK = (0x10008, b"S390EP")
_COMMAND_LINE_SIZE_AT = 0x10430
_COMMAND_LINE_MAX = 896  # of kernels that do not say
_TAIL_3A = struct.Struct(">QQQ")
_TAIL_3B = struct.Struct(">QQQQQQQQ")
_METADATA = struct.Struct(">8sQIQ")
_IPIB = struct.Struct(">IB2xB IB3x8s84x3xB4xIQQ")
_IPIB_PART = struct.Struct(">QQQ")

KINDS: Mapping[str, int] = {"kernel": 40, "ramdisk": 50, "cmdline": 60, "stage3b": 70}
"""Component to the number that begins its tweaks."""


@attrs.frozen(kw_only=True)
class Loaders:
    """IBM's two loaders."""

    stage3a: bytes = attrs.field(repr=False)
    stage3b: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Parts:
    """What is to be booted."""

    kernel: bytes = attrs.field(repr=False)
    initrd: bytes = attrs.field(repr=False)
    command_line: str


@attrs.frozen(kw_only=True)
class SeImage:
    """A finished image."""

    data: bytes = attrs.field(repr=False)
    header: se.Header


class Encryption:
    """Encrypts components page by page and keeps the three digests over what it made.

    Args:
        key: 64 bytes.
        salt: gives the 6 random bytes of a component's tweaks; fixed in tests only.
    """

    def __init__(self, key: bytes, salt: Callable[[], bytes] = lambda: os.urandom(6)) -> None:
        self._key = key
        self._salt = salt
        self._content, self._address, self._tweaks = hashlib.sha512(), hashlib.sha512(), hashlib.sha512()
        self._pages = 0

    def tweak(self, kind: str) -> bytes:
        """The first tweak of a component: 16 bytes."""
        return struct.pack(">H6sQ", KINDS[kind], self._salt(), 0)

    def add(self, data: bytes, address: int, tweak: bytes) -> bytes:
        """The component, padded with zeros to whole pages (at least one) and encrypted."""
        out = []
        for index, page in enumerate(_pages(data)):
            own = (int.from_bytes(tweak, "big") + index * PAGE).to_bytes(16, "big")
            encryptor = Cipher(algorithms.AES(self._key), modes.XTS(own)).encryptor()
            out.append(encryptor.update(page) + encryptor.finalize())
            self._content.update(out[-1])
            self._tweaks.update(own)
            self._address.update((address + index * PAGE).to_bytes(8, "big"))
        self._pages += len(out)
        return b"".join(out)

    def components(self) -> se.Components:
        """The digests so far."""
        return se.Components(
            pld=self._content.digest(),
            ald=self._address.digest(),
            tld=self._tweaks.digest(),
            pages=self._pages,
            xts_key=self._key,
        )


def _pages(data: bytes) -> Iterator[bytes]:
    for at in range(0, max(len(data), 1), PAGE):
        yield data[at : at + PAGE].ljust(PAGE, b"\0")


def _aligned(address: int) -> int:
    return -(-address // PAGE) * PAGE


def check_parts(parts: Parts) -> None:
    """Refuse what an IBM Z machine cannot boot.

    Raises:
        Refused: an ELF file or another kernel, a command line that is too long or empty.
    """
    at, mark = _KERNEL_MARK
    if parts.kernel[:4] == b"\x7fELF" or parts.kernel[at : at + len(mark)] != mark:
        raise Refused("the kernel is no raw s390x kernel image", remedy="give arch/s390/boot/bzImage, not vmlinux")
    most = int.from_bytes(parts.kernel[_COMMAND_LINE_SIZE_AT : _COMMAND_LINE_SIZE_AT + 8], "big") or _COMMAND_LINE_MAX
    if not 0 < len(parts.command_line.encode()) < most:
        raise Refused(f"the kernel command line has {len(parts.command_line.encode())} bytes, this kernel takes {most}")


def plaintext_digests(parts: Parts) -> dict[str, str]:
    """SHA-256 of what will run, equal in every build of the same image."""
    named = {"kernel": parts.kernel, "initrd": parts.initrd, "cmdline": parts.command_line.encode()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in named.items()}


def write_image(
    parts: Parts,
    loaders: Loaders,
    hosts: Sequence[ec.EllipticCurvePublicKey],
    keys: se.HeaderKeys,
    encryption: Encryption,
    *,
    plaintext_flags: int = 0,
) -> SeImage:
    """A boot image that only these hosts can open.

    Raises:
        Refused: for parts, loaders or keys that make no image.
    """
    check_parts(parts)
    for name, loader, tail in (("stage3a", loaders.stage3a, _TAIL_3A), ("stage3b", loaders.stage3b, _TAIL_3B)):
        if len(loader) <= tail.size:
            raise Refused(f"the loader {name} has {len(loader)} bytes and no room for its arguments")
    memory = bytearray()

    def put(address: int, data: bytes) -> None:
        memory.extend(bytes(max(address + len(data) - len(memory), 0)))
        memory[address : address + len(data)] = data

    size = 416 + 80 * len(hosts) + 144
    header_at = max(_aligned(STAGE3A_ADDRESS + len(loaders.stage3a)), HEADER_ADDRESS_MIN)
    at = _aligned(header_at + size)
    placed: dict[str, tuple[int, int, bytes]] = {}  # name: address, length in clear, first tweak

    def append(kind: str, data: bytes) -> None:
        nonlocal at
        tweak = encryption.tweak(kind)
        placed[kind] = (at, len(data), tweak)
        encrypted = encryption.add(data, at, tweak)
        put(at, encrypted)
        at += len(encrypted)

    append("kernel", parts.kernel)
    append("ramdisk", parts.initrd)
    append("cmdline", parts.command_line.encode())
    append("stage3b", _with_tail(loaders.stage3b, _stage3b_arguments(placed)))
    components = encryption.components()
    header = se.write_header(
        components, hosts, keys, entry=placed["stage3b"][0], psw_mask=PSW_MASK, plaintext_flags=plaintext_flags
    )
    put(header_at, header)
    put(at, _parameter_block(header_at, len(header), placed))
    arguments_at = STAGE3A_ADDRESS + len(loaders.stage3a) - _TAIL_3A.size
    arguments = _TAIL_3A.pack(header_at - arguments_at, len(header), at - arguments_at)
    put(STAGE3A_ADDRESS, _with_tail(loaders.stage3a, arguments))
    put(METADATA_ADDRESS, _METADATA.pack(b"SeImgLnx", header_at, 1, at))
    put(0, struct.pack(">Q", PSW_MASK | _SHORT_PSW_BIT | STAGE3A_ENTRY))
    return SeImage(data=bytes(memory), header=se.read_header(header))


def _with_tail(loader: bytes, arguments: bytes) -> bytes:
    return loader[: -len(arguments)] + arguments


def _stage3b_arguments(placed: Mapping[str, tuple[int, int, bytes]]) -> bytes:
    words = [word for kind in ("kernel", "cmdline", "ramdisk") for word in placed[kind][:2]]
    return _TAIL_3B.pack(*words, PSW_MASK, KERNEL_ENTRY)


def _parameter_block(header_at: int, header_size: int, placed: Mapping[str, tuple[int, int, bytes]]) -> bytes:
    parts = b"".join(
        _IPIB_PART.pack(int.from_bytes(tweak[:8], "big"), address, _aligned(max(length, 1)))
        for address, length, tweak in placed.values()
    )
    whole = _IPIB.size + len(parts)
    return _IPIB.pack(whole, 0, 1, whole - 8, 5, bytes(8), 1, len(placed), header_at, header_size) + parts


def find_header(data: bytes) -> se.Header:
    """The header of an image, by the page that says where it is.

    Raises:
        Refused: when the file is no Secure Execution image.
    """
    if len(data) < METADATA_ADDRESS + _METADATA.size:
        raise Refused("the file is too short for a Secure Execution image")
    magic, header_at, version, _ = _METADATA.unpack_from(data, METADATA_ADDRESS)
    if magic != b"SeImgLnx" or version != 1:
        raise Refused("the file is no Secure Execution image: it has no image metadata at 0xc000")
    return se.read_header(data[header_at:])


@attrs.frozen(kw_only=True)
class Opened:
    """An image decrypted with its header key, all digests checked."""

    kernel: bytes = attrs.field(repr=False)
    initrd: bytes = attrs.field(repr=False)
    command_line: str


def open_image(data: bytes, header_key: bytes) -> Opened:
    """Do what the ultravisor does: check the header's tag and the three digests, then decrypt.

    Raises:
        Refused: when any byte that counts was changed, or the key is another.
    """
    header = find_header(data)
    secrets = se.open_header(header, header_key)
    ipib_at = _METADATA.unpack_from(data, METADATA_ADDRESS)[3]
    try:
        count = _IPIB.unpack_from(data, ipib_at)[7]
        parts = [_IPIB_PART.unpack_from(data, ipib_at + _IPIB.size + index * _IPIB_PART.size) for index in range(count)]
    except struct.error:
        raise Refused("the Secure Execution image is cut off: its parameter block is not whole") from None
    content, address, tweaks = hashlib.sha512(), hashlib.sha512(), hashlib.sha512()
    plain: dict[int, bytes] = {}
    for prefix, start, length in parts:
        pages = []
        for at in range(start, start + length, PAGE):
            tweak = struct.pack(">QQ", prefix, at - start)
            page = data[at : at + PAGE]
            content.update(page)
            address.update(at.to_bytes(8, "big"))
            tweaks.update(tweak)
            if len(page) < PAGE:
                raise Refused("the Secure Execution image is cut off: a component is not whole")
            decryptor = Cipher(algorithms.AES(secrets.xts_key), modes.XTS(tweak)).decryptor()
            pages.append(decryptor.update(page) + decryptor.finalize())
        plain[prefix >> 48] = b"".join(pages)
    if (content.digest(), address.digest(), tweaks.digest()) != (header.pld, header.ald, header.tld):
        raise Refused("the Secure Execution image was changed: its pages do not match the header's digests")
    return _cut(plain)


def _cut(plain: Mapping[int, bytes]) -> Opened:
    """The components without padding: the second loader's arguments have their sizes."""
    loader, last = plain[KINDS["stage3b"]], struct.pack(">QQ", PSW_MASK, KERNEL_ENTRY)
    end = loader.rfind(last) + len(last)
    if end < _TAIL_3B.size:
        raise Refused("the second loader of the Secure Execution image has no arguments")
    words = _TAIL_3B.unpack(loader[end - _TAIL_3B.size : end])
    kernel, cmdline, initrd = words[1], words[3], words[5]
    return Opened(
        kernel=plain[KINDS["kernel"]][:kernel],
        initrd=plain[KINDS["ramdisk"]][:initrd],
        command_line=plain[KINDS["cmdline"]][:cmdline].decode(),
    )
