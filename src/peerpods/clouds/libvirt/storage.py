"""Volumes of an instance in its pool: make, fill, read, remove. Runs in libvirt's threads (`_thd_`)."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import libvirt

from peerpods.clouds.libvirt.failures import GONE

CHUNK = 64 * 1024  # bytes a stream call carries
_EMPTY = "<volume><name>{name}</name><capacity>{size}</capacity>{target}</volume>"
_RAW = "<target><format type='raw'/><permissions><mode>0600</mode></permissions></target>"


def pool_path(pool: Any) -> str:
    """The pool's folder on libvirt's host; empty for pools that are none."""
    return ET.fromstring(pool.XMLDesc(0)).findtext("target/path") or ""  # noqa: S314  (from libvirt itself)


def _thd_lookup(pool: Any, name: str) -> Any | None:
    try:
        return pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise
        return None


def _thd_base(pool: Any, name: str) -> Any | None:
    """A base volume; the pool is read again when it does not know it: images are often copied in by hand."""
    found = _thd_lookup(pool, name)
    if found is None:
        pool.refresh(0)
        found = _thd_lookup(pool, name)
    return found


def _thd_remove(pool: Any, name: str) -> None:
    """Delete a volume; one that is not there is success."""
    volume = _thd_lookup(pool, name)
    if volume is None:
        return
    try:
        volume.delete(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE and "No such file" not in str(error):
            raise


def _thd_write(conn: Any, pool: Any, name: str, content: bytes) -> None:
    """A raw volume with this content, readable by root and the guest alone; replaces one that is there."""
    _thd_remove(pool, name)
    volume = pool.createXML(_EMPTY.format(name=escape(name), size=len(content), target=_RAW), 0)
    stream = conn.newStream(0)
    try:
        volume.upload(stream, 0, len(content), 0)
        for start in range(0, len(content), CHUNK):
            rest = content[start : start + CHUNK]
            while rest:
                rest = rest[stream.send(rest) :]
        stream.finish()
    except BaseException:
        with contextlib.suppress(libvirt.libvirtError):
            stream.abort()
        raise


def _thd_touch(pool: Any, name: str) -> None:
    """An empty raw volume, unless it is there."""
    if _thd_lookup(pool, name) is None:
        pool.createXML(_EMPTY.format(name=escape(name), size=0, target=_RAW), 0)


def _thd_overlay(pool: Any, name: str, base: Any, least: int) -> None:
    """A qcow2 volume over a base volume, at least `least` bytes large; replaces one that is there."""
    _thd_remove(pool, name)
    form = ET.fromstring(base.XMLDesc(0)).find("target/format")  # noqa: S314  (from libvirt itself)
    kind = form.get("type", "raw") if form is not None else "raw"
    pool.createXML(
        f"<volume><name>{escape(name)}</name><capacity>{max(least, base.info()[1])}</capacity>"
        "<target><format type='qcow2'/><permissions><mode>0600</mode></permissions></target>"
        f"<backingStore><path>{escape(base.path())}</path><format type='{escape(kind)}'/></backingStore></volume>",
        0,
    )


def _thd_tail(conn: Any, pool: Any, name: str, size: int) -> bytes:
    """The last bytes of a raw volume; empty when there is none."""
    volume = _thd_lookup(pool, name)
    if volume is None or size <= 0:
        return b""
    length = volume.info()[1]
    start = max(0, length - size)
    if length == start:
        return b""
    stream = conn.newStream(0)
    parts: list[bytes] = []
    try:
        volume.download(stream, start, length - start, 0)
        while data := stream.recv(CHUNK):
            parts.append(data)
        stream.finish()
    except BaseException:
        with contextlib.suppress(libvirt.libvirtError):
            stream.abort()
        raise
    return b"".join(parts)


def cut_file(path: Path, most: int, keep: int) -> bool:
    """Cut a console file that has grown past `most` bytes to its last `keep`; True when it was cut.

    QEMU writes in append mode, so it goes on at the new end. Lines that come while this runs may be lost.
    """
    try:
        if path.stat().st_size <= most:
            return False
        with path.open("r+b") as file:
            file.seek(-keep, 2)
            tail = file.read(keep)
            file.seek(0)
            file.write(tail)
            file.truncate(keep)
    except FileNotFoundError:
        return False
    return True
