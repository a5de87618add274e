"""The provider `libvirt` keeps the contract: a real daemon, a real QEMU, a tiny guest."""

from __future__ import annotations

import uuid
from typing import Any

import attrs
import libvirt
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from peerpods.clouds.libvirt.provider import LibvirtProvider
from peerpods.clouds.libvirt.settings import LibvirtSettings
from tests.clouds.libvirt import tinyguest
from tests.clouds.libvirt.daemon import DaemonProcess
from tests.contract.provider import ProviderContract, Subject

pytestmark = [pytest.mark.root, pytest.mark.vm]


def make_settings(daemon: DaemonProcess, **changes: Any) -> LibvirtSettings:
    """Settings for the private daemon and the tiny guest."""
    values: dict[str, Any] = {
        "uri": daemon.uri,
        "image_dir": str(tinyguest.image_dir()),
        "memory": 128,
        "accel": "tcg",
    }
    return LibvirtSettings(**{**values, **changes})


@pytest_twisted.async_yield_fixture
async def subject(daemon: DaemonProcess) -> Any:
    settings = make_settings(daemon)
    provider = LibvirtProvider(settings, reactor)
    await provider.start()

    def end(identity: str) -> None:
        conn = libvirt.open(daemon.uri)
        conn.lookupByUUIDString(identity).destroy()
        conn.close()

    def wrong(**changes: Any) -> Any:
        return lambda: LibvirtProvider(attrs.evolve(settings, **changes), reactor)

    made = Subject(
        provider=provider,
        end=lambda identity: deferToThread(end, identity),
        wrong=(
            ("uri", wrong(uri="qemu+unix:///system?socket=/nonexistent/sock")),
            ("pool-name", wrong(pool_name="absent")),
            ("network-name", wrong(network_name="absent")),
            ("vol-name", wrong(image_dir="", vol_name="absent.qcow2")),
            ("image-dir", wrong(image_dir="/nonexistent")),
        ),
        console_says=tinyguest.SAYS.encode(),
        slow=60.0,
        cluster=f"c-{uuid.uuid4().hex[:8]}",
    )
    yield made
    await made.close()
    await provider.stop()


class TestLibvirt(ProviderContract):
    """All of the contract."""
