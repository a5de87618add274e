"""libvirt's errors as ours: which kind, and what to do. Pure apart from the numbers of the module `libvirt`."""

from __future__ import annotations

import libvirt

from peerpods.errors import CloudError, CloudFailure

_KINDS = {
    "VIR_ERR_NO_DOMAIN": CloudFailure.NOT_FOUND,
    "VIR_ERR_NO_NETWORK": CloudFailure.NOT_FOUND,
    "VIR_ERR_NO_STORAGE_POOL": CloudFailure.NOT_FOUND,
    "VIR_ERR_NO_STORAGE_VOL": CloudFailure.NOT_FOUND,
    "VIR_ERR_AUTH_FAILED": CloudFailure.DENIED,
    "VIR_ERR_AUTH_CANCELLED": CloudFailure.DENIED,
    "VIR_ERR_AUTH_UNAVAILABLE": CloudFailure.DENIED,
    "VIR_ERR_ACCESS_DENIED": CloudFailure.DENIED,
    "VIR_ERR_OPERATION_DENIED": CloudFailure.DENIED,
    "VIR_ERR_INVALID_ARG": CloudFailure.INVALID,
    "VIR_ERR_XML_ERROR": CloudFailure.INVALID,
    "VIR_ERR_XML_DETAIL": CloudFailure.INVALID,
    "VIR_ERR_CONFIG_UNSUPPORTED": CloudFailure.INVALID,
}
KINDS = {getattr(libvirt, name): kind for name, kind in _KINDS.items()}
_TEXTS = (
    ("No space left on device", CloudFailure.QUOTA, "free space where the storage pool lies"),
    ("Cannot allocate memory", CloudFailure.QUOTA, "free memory on libvirt's host, or ask for a smaller pod"),
    ("cannot set up guest memory", CloudFailure.QUOTA, "free memory on libvirt's host, or ask for a smaller pod"),
    ("Permission denied", CloudFailure.DENIED, "let libvirt's user read the file"),
)
GONE = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
    }
)
"""Codes that mean for a delete: done."""


def connection_lost(error: libvirt.libvirtError) -> bool:
    """Whether the call failed because the daemon went away, so that a new connection may serve it."""
    code, domain = error.get_error_code(), error.get_error_domain()
    if code in (libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_NO_CONNECT):
        return True
    text = error.get_error_message() or ""
    if code == libvirt.VIR_ERR_INTERNAL_ERROR and "client socket is closed" in text:
        return True
    return domain in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE) and code == libvirt.VIR_ERR_SYSTEM_ERROR


def to_cloud_error(error: libvirt.libvirtError, doing: str) -> CloudError:
    """One of our errors with libvirt's own words.

    Args:
        doing: what was tried, for the start of the sentence: "starting podvm-a".
    """
    text = (error.get_error_message() or str(error)).strip()
    for part, kind, remedy in _TEXTS:
        if part in text:
            return CloudError(f"{doing}: libvirt says: {text}", kind=kind, remedy=remedy)
    if connection_lost(error):
        return CloudError(
            f"{doing}: no connection to libvirt: {text}",
            kind=CloudFailure.RETRYABLE,
            remedy="see that the libvirt daemon runs and that the setting uri names it",
        )
    kind = KINDS.get(error.get_error_code(), CloudFailure.RETRYABLE)
    return CloudError(f"{doing}: libvirt says: {text}", kind=kind)
