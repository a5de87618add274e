"""What the provider does in libvirt's threads: each function takes a connection and is idempotent."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import libvirt

from peerpods.clouds.libvirt import domain as xml
from peerpods.clouds.libvirt import storage
from peerpods.clouds.libvirt.network import NetworkFacts, choose_address, host_xml, parse_network
from peerpods.errors import CloudError, CloudFailure
from peerpods.model import Instance, InstanceState
from peerpods.obs.log import get_logger

log = get_logger("clouds.libvirt")
_ENDED = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_SHUTDOWN)


@attrs.frozen(kw_only=True)
class Order:
    """A create, with all that the thread needs to carry it out."""

    name: str
    token: str
    tags: Mapping[str, str]
    vcpus: int
    memory_mib: int
    kvm: bool
    image_dir: str
    base: str
    """Name of the base volume; unused with an image_dir."""
    root_bytes: int
    firmware: str
    vtpm: bool
    pool: str
    network: str
    cpuset: str
    cidata: bytes = attrs.field(repr=False)
    """The ISO image with the user data."""


class Leases:
    """The addresses of a network's guests, looked up once for many guests."""

    def __init__(self, conn: Any, network: str) -> None:
        self.facts = NetworkFacts()
        self._leases: list[dict[str, Any]] = []
        try:
            found = conn.networkLookupByName(network)
            self.facts = parse_network(found.XMLDesc(0))
            self._leases = found.DHCPLeases()
        except libvirt.libvirtError as error:
            # A network that has gone, is stopped, or knows no leases: guests then have no known address.
            log.debug("leases_unknown", network=network, error=str(error))

    def of(self, mac: str) -> tuple[str, ...]:
        """The guest's addresses, IPv4 first: what is reserved for it, else what it leased."""
        reserved = self.facts.reserved(mac)
        mine = [lease for lease in self._leases if (lease.get("mac") or "").lower() == mac.lower()]
        mine.sort(key=lambda lease: (lease["type"], -int(lease["expirytime"])))
        found = ([reserved] if reserved else []) + [lease["ipaddr"] for lease in mine]
        return tuple(dict.fromkeys(found))

    def leased(self) -> set[str]:
        """All addresses somebody holds."""
        return {lease["ipaddr"] for lease in self._leases}


def _thd_nothing(conn: Any) -> None:
    """Only connect."""


def _thd_domain(conn: Any, uuid: str) -> tuple[Any, xml.Metadata] | None:
    """The domain and our facts in it; None when it does not exist or is a stranger's."""
    try:
        domain = conn.lookupByUUIDString(uuid)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG):
            return None
        raise
    facts = _thd_facts(domain)
    return (domain, facts) if facts is not None else None


def _thd_facts(domain: Any) -> xml.Metadata | None:
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml.NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        return xml.parse_metadata(text)
    except (libvirt.libvirtError, ValueError) as error:
        if isinstance(error, ValueError) or error.get_error_code() in (
            libvirt.VIR_ERR_NO_DOMAIN_METADATA,
            libvirt.VIR_ERR_NO_DOMAIN,
            libvirt.VIR_ERR_INVALID_ARG,  # a transient domain has no stored form: not ours
        ):
            return None
        raise


def _thd_instance(domain: Any, facts: xml.Metadata, leases: Leases) -> Instance:
    state = domain.state()[0]
    if state in _ENDED:
        shown = InstanceState.STOPPED if facts.started else InstanceState.PENDING
    else:
        shown = InstanceState.RUNNING
    return Instance(
        id=domain.UUIDString(),
        name=domain.name(),
        token=facts.token,
        state=shown,
        addresses=leases.of(xml.instance_mac(facts.token)),
        tags=tuple(sorted(facts.tags)),
    )


def _thd_describe(conn: Any, uuid: str, network: str) -> Instance | None:
    found = _thd_domain(conn, uuid)
    if found is None:
        return None
    try:
        return _thd_instance(*found, Leases(conn, network))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _thd_find(conn: Any, token: str, network: str) -> Instance | None:
    instance = _thd_describe(conn, xml.instance_uuid(token), network)
    return instance if instance is not None and instance.token == token else None


def _thd_list(conn: Any, tags: dict[str, str], network: str) -> list[Instance]:
    leases = Leases(conn, network)
    wanted = set(tags.items())
    found = []
    for domain in conn.listAllDomains():
        facts = _thd_facts(domain)
        if facts is not None and wanted <= set(facts.tags):
            with contextlib.suppress(libvirt.libvirtError):  # gone since the list was made
                found.append(_thd_instance(domain, facts, leases))
    return found


def _thd_create(conn: Any, order: Order) -> Instance:
    """Define, make volumes, reserve, start: each step is repeated harmlessly after a crash in between.

    The domain comes first and goes last, so that whatever exists can be found by it.
    """
    found = _thd_domain(conn, xml.instance_uuid(order.token))
    if found is None or not (found[1].started or found[0].isActive()):
        pool = conn.storagePoolLookupByName(order.pool)
        base = None
        if not order.image_dir:
            base = storage._thd_base(pool, order.base)
            if base is None:
                raise CloudError(
                    f"the image {order.base!r} is not in the storage pool {order.pool}",
                    kind=CloudFailure.NOT_FOUND,
                    remedy="upload it, or name another one in vol-name or the pod's image annotation",
                )
        plan = _plan(order, storage.pool_path(pool))
        _refuse_taken_name(conn, order)
        domain = conn.defineXML(xml.domain_xml(plan))
        _thd_fill(conn, pool, plan, order, base)
        _thd_reserve(conn, order)
        _thd_start(domain, order)
    instance = _thd_describe(conn, xml.instance_uuid(order.token), order.network)
    if instance is None:
        raise CloudError(f"{order.name} disappeared while it was made")
    return instance


def _plan(order: Order, pool_path: str) -> xml.DomainPlan:
    boot: xml.DirectBoot | xml.DiskBoot = xml.DiskBoot(firmware=order.firmware, vtpm=order.vtpm)
    if order.image_dir:
        folder = Path(order.image_dir)
        try:
            cmdline = (folder / "cmdline").read_text().strip()
        except OSError as error:
            raise CloudError(
                f"cannot read the image's kernel command line: {error}",
                kind=CloudFailure.NOT_FOUND,
                remedy="build the image (make image) or correct image-dir",
            ) from error
        boot = xml.DirectBoot(
            kernel=str(folder / "vmlinuz"),
            initrd=str(folder / "initrd.img"),
            cmdline=cmdline,
            root=str(folder / "root.img"),
        )
    return xml.DomainPlan(
        name=order.name,
        token=order.token,
        tags=order.tags,
        vcpus=order.vcpus,
        memory_mib=order.memory_mib,
        kvm=order.kvm,
        boot=boot,
        pool=order.pool,
        pool_path=pool_path,
        network=order.network,
        cpuset=order.cpuset,
    )


def _refuse_taken_name(conn: Any, order: Order) -> None:
    """Volumes are named after the domain: never touch those of another domain with this name."""
    try:
        other = conn.lookupByName(order.name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return
        raise
    if other.UUIDString() != xml.instance_uuid(order.token):
        raise CloudError(
            f"a domain named {order.name} exists already with the UUID {other.UUIDString()}",
            kind=CloudFailure.RETRYABLE,
            remedy="wait until an earlier attempt's VM is deleted, or remove that domain",
        )


def _thd_fill(conn: Any, pool: Any, plan: xml.DomainPlan, order: Order, base: Any | None) -> None:
    names = plan.volumes
    if base is not None:
        storage._thd_overlay(pool, names.root, base, order.root_bytes)
    storage._thd_write(conn, pool, names.user_data, order.cidata)
    storage._thd_touch(pool, names.console)


def _update_flags(network: Any) -> int:
    live = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE if network.isActive() else 0
    stored = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG if network.isPersistent() else 0
    return int(live | stored)


def _thd_reserve(conn: Any, order: Order) -> None:
    """Reserve an address by DHCP, if the network can; without one the guest's lease will be awaited."""
    mac = xml.instance_mac(order.token)
    network = conn.networkLookupByName(order.network)
    for _ in range(8):  # another adaptor may take the address between look and update
        leases = Leases(conn, order.network)
        if leases.facts.reserved(mac):
            return
        address = choose_address(leases.facts, leases.leased())
        if address is None:
            return
        try:
            network.update(
                libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST,
                libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST,
                -1,
                host_xml(mac, address),
                _update_flags(network),
            )
        except libvirt.libvirtError as error:
            log.info("reservation_refused", network=order.network, address=address, error=str(error))
        else:
            return


def _thd_release(conn: Any, mac: str, network_name: str) -> None:
    try:
        network = conn.networkLookupByName(network_name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return
        raise
    address = parse_network(network.XMLDesc(0)).reserved(mac)
    if address is not None:
        network.update(
            libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE,
            libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST,
            -1,
            host_xml(mac, address),
            _update_flags(network),
        )


def _thd_start(domain: Any, order: Order) -> None:
    """Start, once: the mark is set before, so that a VM that ran and stopped is never started again."""
    _thd_mark(domain, order, started=True)
    try:
        domain.create()
    except libvirt.libvirtError:
        _thd_mark(domain, order, started=False)
        raise


def _thd_mark(domain: Any, order: Order, *, started: bool) -> None:
    domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT,
        xml.metadata_xml(order.token, order.tags, started=started),
        "peerpods",
        xml.NAMESPACE,
        libvirt.VIR_DOMAIN_AFFECT_CONFIG,
    )


def _thd_delete(conn: Any, uuid: str, pool_name: str, network: str) -> None:
    """Destroy in whatever state, remove volumes and reservation, undefine last."""
    found = _thd_domain(conn, uuid)
    if found is None:
        return
    domain, facts = found
    if domain.isActive():
        try:
            domain.destroy()
        except libvirt.libvirtError as error:
            # Ended by itself in between.
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise
    try:
        pool = conn.storagePoolLookupByName(pool_name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise
        log.warning("pool_gone", pool=pool_name, instance=uuid)
    else:
        for name in xml.volume_names(domain.name()).all():
            storage._thd_remove(pool, name)
    _thd_release(conn, xml.instance_mac(facts.token), network)
    flags = (
        libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    )
    try:
        domain.undefineFlags(flags)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def _thd_console(conn: Any, uuid: str, pool_name: str, size: int) -> bytes | None:
    """None when there is no such instance."""
    found = _thd_domain(conn, uuid)
    if found is None:
        return None
    pool = conn.storagePoolLookupByName(pool_name)
    return storage._thd_tail(conn, pool, xml.volume_names(found[0].name()).console, size)


def _thd_cut_consoles(conn: Any, uuids: list[str], pool_name: str, most: int, keep: int) -> None:
    """Bound the console files of a local pool."""
    folder = storage.pool_path(conn.storagePoolLookupByName(pool_name))
    for uuid in uuids:
        found = _thd_domain(conn, uuid)
        if found is not None:
            storage.cut_file(Path(folder) / xml.volume_names(found[0].name()).console, most, keep)
