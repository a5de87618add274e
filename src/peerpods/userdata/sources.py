"""Where a VM finds its user data: a file, a disk labelled cidata, or its cloud's metadata service.

Blocking and standard library only: it runs once, before anything else in the VM.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from peerpods.errors import GuestError
from peerpods.userdata.cloud_config import MAX_DOCUMENT
from peerpods.userdata.iso import read_iso_file

CIDATA_FILE = "media/cidata/user-data"  # below the root
LABEL = "cidata"
HTTP_TIMEOUT = 5.0  # seconds, one request
METADATA_ADDRESS = "169.254.169.254"
_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MNT_DETACH = 2
_NO_WAY = (errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)


class NotThereYet(Exception):
    """The source did not answer this time; it may later."""


class NoWayYet(NotThereYet):
    """Nothing was asked: this machine's own network does not lead there yet."""


def read_file(path: str) -> bytes:
    """A file's bytes, one more than allowed at most, so that the parser sees that it is too large."""
    with open(path, "rb") as file:
        return file.read(MAX_DOCUMENT + 1)


def volume_label(device: str) -> str:
    """The ISO 9660 or FAT label of a block device or image, lower case; "" when it has neither.

    Read from the device itself: an image without udev has no /dev/disk/by-label.
    """
    try:
        with open(device, "rb") as file:
            boot = file.read(512)
            file.seek(0x8000)
            descriptor = file.read(72)
    except OSError:
        return ""
    if descriptor[:6] == b"\x01CD001":
        return descriptor[40:72].decode("ascii", "replace").strip().lower()
    if boot[510:512] == b"\x55\xaa":
        for kind, label in ((82, 71), (54, 43)):  # FAT32, then FAT12 and FAT16
            if boot[kind : kind + 3] == b"FAT":
                return boot[label : label + 11].decode("ascii", "replace").strip().lower()
    return ""


def find_device(sys_block: str = "/sys/class/block", dev: str = "/dev") -> str:
    """Path of the block device labelled cidata, or ""."""
    for label in (LABEL, LABEL.upper()):
        path = f"{dev}/disk/by-label/{label}"
        if os.path.exists(path):
            return path
    try:
        names = sorted(os.listdir(sys_block))
    except OSError:
        return ""
    return next((f"{dev}/{name}" for name in names if volume_label(f"{dev}/{name}") == LABEL), "")


@contextmanager
def mounted(device: str) -> Iterator[str]:
    """The device mounted read-only on a folder of its own, which is gone afterwards.

    Raises:
        GuestError: when the kernel will not mount it.
    """
    import ctypes
    import tempfile

    libc = ctypes.CDLL(None, use_errno=True)
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    folder = tempfile.mkdtemp(prefix="cidata-")
    try:
        if libc.mount(device.encode(), folder.encode(), b"vfat", flags, None) != 0:
            raise GuestError(f"cannot mount {device}: {os.strerror(ctypes.get_errno())}")
        try:
            yield folder
        finally:
            libc.umount2(folder.encode(), _MNT_DETACH)
    finally:
        os.rmdir(folder)


def read_device(device: str) -> bytes:
    """The file user-data on the device: an ISO is read as it is, a FAT file system is mounted.

    Raises:
        GuestError: when it cannot be read or has no such file.
    """
    try:
        with open(device, "rb") as disk:
            document = read_iso_file(disk, "user-data", MAX_DOCUMENT + 1)
        if document is not None:
            return document
        with mounted(device) as folder:
            return read_file(f"{folder}/user-data")
    except OSError as error:
        raise GuestError(f"{device} has no readable user-data: {error.strerror}") from None


def cloud_of(dmi: str = "/sys/class/dmi/id") -> str:
    """Which cloud's metadata service this machine has, by its DMI strings: aws, azure, gcp or ""."""

    def field(name: str) -> str:
        try:
            with open(f"{dmi}/{name}", encoding="utf-8", errors="replace") as file:
                return file.read(200).strip()
        except OSError:
            return ""

    if field("sys_vendor") == "Amazon EC2" or field("bios_vendor") == "Amazon EC2":
        return "aws"
    if field("chassis_asset_tag") == _AZURE_TAG:
        return "azure"
    if field("product_name") == "Google Compute Engine":
        return "gcp"
    return ""


def _http(host: str, method: str, path: str, headers: dict[str, str]) -> bytes:
    """One request, no proxy, no redirect."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(host, timeout=HTTP_TIMEOUT)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read(2 * MAX_DOCUMENT)
    except (OSError, HTTPException) as error:
        kind = NoWayYet if isinstance(error, OSError) and error.errno in _NO_WAY else NotThereYet
        raise kind(f"the metadata service did not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise NotThereYet(f"the metadata service answered {response.status} to {path.partition('?')[0]}")
    return body


def read_metadata(cloud: str, host: str = METADATA_ADDRESS) -> bytes:
    """User data from the metadata service of `cloud` (aws, azure, gcp).

    Raises:
        NotThereYet: no answer, or another status than 200; worth another try.
        GuestError: an answer that can never be right.
    """
    if cloud == "aws":
        # Only with a session token (IMDSv2): the tokenless form lets a workload's request be forged through proxies.
        ask = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = _http(host, "PUT", "/latest/api/token", ask).decode("ascii", "replace")
        if not token.isprintable():
            raise NotThereYet("the metadata service gave no token")
        return _http(host, "GET", "/latest/user-data", {"X-aws-ec2-metadata-token": token})
    if cloud == "azure":
        path = "/metadata/instance/compute/userData?api-version=2021-01-01&format=text"
        return _unpack(_http(host, "GET", path, {"Metadata": "true"}))
    path = "/computeMetadata/v1/instance/attributes/user-data"
    return _unpack(_http(host, "GET", path, {"Metadata-Flavor": "Google"}))


def _unpack(body: bytes) -> bytes:
    import base64
    import binascii

    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise GuestError("the user data of the metadata service is not base64") from None
