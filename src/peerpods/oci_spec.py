"""The OCI parts of the requests that a CRI runtime and the kata shim make for a container. Pure.

The shapes are those of the recorded lives in tests/fixtures: guest pull, no pid or network namespace, and the
container's process arguments made on the host (the image's own configuration is not consulted).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs

from peerpods.protocols import agent_pb2, oci_pb2

SHARED = "/run/kata-containers/shared/containers"
_CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
]
_MOUNTS: tuple[tuple[str, str, str, str], ...] = (
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
)
"""(destination, type, source, options)."""
_MASKED = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/sys/firmware",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@attrs.frozen(kw_only=True)
class ContainerWish:
    """What a user asks of one container."""

    container_id: str
    sandbox_id: str
    pod: str
    namespace: str
    image: str
    """Reference to pull; literally "pause" for the sandbox container."""
    args: tuple[str, ...]
    env: tuple[str, ...] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    cwd: str = "/"
    terminal: bool = False
    files: tuple[tuple[str, str], ...] = ()
    """(destination in the container, path in the VM) of files copied before."""
    name: str = "main"

    @property
    def is_sandbox(self) -> bool:
        """Whether this is the pod's pause container."""
        return self.container_id == self.sandbox_id


def container_annotations(wish: ContainerWish) -> dict[str, str]:
    """The annotations a CRI runtime puts on a container."""
    kind = "sandbox" if wish.is_sandbox else "container"
    found = {
        "io.kubernetes.cri.container-type": kind,
        "io.kubernetes.cri.sandbox-id": wish.sandbox_id,
        "io.kubernetes.cri.sandbox-name": wish.pod,
        "io.kubernetes.cri.sandbox-namespace": wish.namespace,
        "io.katacontainers.pkg.oci.container_type": "pod_" + kind,
    }
    if not wish.is_sandbox:
        found["io.kubernetes.cri.container-name"] = wish.name
        found["io.kubernetes.cri.image-name"] = wish.image
    return found


def _mounts(wish: ContainerWish) -> list[oci_pb2.Mount]:
    mounts = [
        oci_pb2.Mount(destination=dest, type=kind, source=source, options=options.split(","))
        for dest, kind, source, options in _MOUNTS
    ]
    for destination, source in wish.files:
        mounts.append(
            oci_pb2.Mount(destination=destination, source=source, type="bind", options=["rbind", "rprivate", "rw"])
        )
    mounts.append(
        oci_pb2.Mount(
            destination="/dev/shm",  # noqa: S108
            source="/run/kata-containers/sandbox/shm",
            type="bind",
            options=["rbind"],
        )
    )
    return mounts


def process(args: Sequence[str], env: Sequence[str], cwd: str, terminal: bool) -> oci_pb2.Process:
    """An OCI process as root with a container's usual capabilities."""
    names = ["CAP_" + name for name in _CAPABILITIES]
    return oci_pb2.Process(
        Terminal=terminal,
        User=oci_pb2.User(UID=0, GID=0),
        Args=args,
        Env=env,
        Cwd=cwd,
        Capabilities=oci_pb2.LinuxCapabilities(Bounding=names, Effective=names, Permitted=names),
        NoNewPrivileges=True,
    )


def create_container(wish: ContainerWish) -> agent_pb2.CreateContainerRequest:
    """The CreateContainer request of the guest-pull shape."""
    rootfs = f"/run/kata-containers/{wish.container_id}/rootfs"
    notes = container_annotations(wish)
    env = [*wish.env, f"HOSTNAME={wish.pod}"] + (["TERM=xterm"] if wish.terminal else [])
    spec = oci_pb2.Spec(
        Version="1.0.2-dev",
        Process=process(wish.args, env, wish.cwd, wish.terminal),
        Root=oci_pb2.Root(Path=rootfs, Readonly=wish.is_sandbox),
        Hostname=wish.pod if wish.is_sandbox else "",
        Mounts=_mounts(wish),
        Annotations=notes,
        Linux=oci_pb2.Linux(
            Resources=oci_pb2.LinuxResources(CPU=oci_pb2.LinuxCPU(Shares=2 if wish.is_sandbox else 1024)),
            CgroupsPath=f"/kubepods/besteffort/{wish.sandbox_id[:12]}/{wish.container_id}",
            Namespaces=[oci_pb2.LinuxNamespace(Type=kind) for kind in ("ipc", "uts", "mount")],
            MaskedPaths=_MASKED,
            ReadonlyPaths=_READONLY,
        ),
    )
    storage = agent_pb2.Storage(
        driver="image_guest_pull",
        driver_options=["image_guest_pull=" + json.dumps({"metadata": notes}, sort_keys=True)],
        source=wish.image,
        fstype="overlay",
        mount_point=rootfs,
    )
    return agent_pb2.CreateContainerRequest(
        container_id=wish.container_id, exec_id=wish.container_id, storages=[storage], OCI=spec
    )


def create_sandbox(sandbox_id: str, pod: str, dns: Sequence[str]) -> agent_pb2.CreateSandboxRequest:
    """The CreateSandbox request with its one storage, the shared memory of the pod."""
    shm = agent_pb2.Storage(
        driver="ephemeral",
        source="shm",
        fstype="tmpfs",
        options=["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
        mount_point="/run/kata-containers/sandbox/shm",
    )
    return agent_pb2.CreateSandboxRequest(hostname=pod[:64], dns=dns, storages=[shm], sandbox_id=sandbox_id)


def copy_file(path: str, data: bytes) -> agent_pb2.CopyFileRequest:
    """One CopyFile of a small regular file, modes as the shim sends them."""
    return agent_pb2.CopyFileRequest(path=path, file_size=len(data), file_mode=0o100644, dir_mode=0x800001E8, data=data)
