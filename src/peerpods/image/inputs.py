"""What goes into the image: the only place that lists it. Pure data.

Every tool that writes a byte of the image (mkfs.erofs, veritysetup, lz4, the Python that compiles) is itself taken
from Debian 13 packages, so that the host's release does not show in the result.
"""

from __future__ import annotations

EPOCH = 1767225600
"""Time stamp of everything in the image: 2026-01-01T00:00:00Z, seconds."""
UUID = "7f9c1c1e-5b0d-4e1a-9a39-6d1f2a5c0b11"
SALT = "9e4d1b7a53c80f26e1b94d7c6a2f5083b7d6e90c14a85f3e2d7b096c8a41f5e3"

SUITES = (
    ("debian", "trixie"),
    ("debian", "trixie-updates"),
    ("debian-security", "trixie-security"),
)
COMPONENT = "main"
KERNEL = "linux-image-cloud-amd64"

PACKAGES = {
    "python3.13-minimal": "forwarder, user data reader, agent",
    "libpython3.13-stdlib": "forwarder, user data reader, agent",
    "libstdc++6": "protobuf's fast half",
    "crun": "containers (development agent)",
    "skopeo": "pulling images (development agent)",
    "umoci": "unpacking images (development agent)",
    "nftables": "looking at the pod's network",
    "iproute2": "looking at the pod's network",
    "busybox-static": "start-up, DHCP, module loading",
    "dmsetup": "verity in the initrd",
    "ca-certificates": "registries",
}
"""Asked for by name; what they depend on comes along, except for DROPPED."""

DROPPED = frozenset(
    {
        # Package management, accounts and the like: nothing is installed, configured or logged into in the VM.
        "adduser",
        "base-passwd",
        "cdebconf",
        "libdebconfclient0",
        "debconf",
        "init-system-helpers",
        "login.defs",
        "passwd",
        "libpam0g",
        "libpam-modules",
        "libpam-modules-bin",
        "libdb5.3t64",
        "libsemanage-common",
        "libsemanage2",
        "libsepol2",
        "libaudit-common",
        "libaudit1",
        "libcap-ng0",
        "libcrypt1",
        "dpkg",
        "perl-base",
        "tar",
        "gcc-14-base",
        "openssl-provider-legacy",
        "tzdata",
        "media-types",
        "netbase",
        # skopeo's library asks for the whole of gnupg and a plugin system; signatures of images are not used here.
        "gnupg",
        "gnupg-l10n",
        "gpg",
        "gpg-agent",
        "gpgsm",
        "gpgconf",
        "dirmngr",
        "pinentry-curses",
        "libksba8",
        "libnpth0t64",
        "libldap2",
        "libsasl2-2",
        "libsasl2-modules-db",
        "libgnutls30t64",
        "libhogweed6t64",
        "libnettle8t64",
        "libp11-kit0",
        "libtasn1-6",
        "libidn2-0",
        "libunistring5",
        "libncursesw6",
        "golang-github-containers-image",
        "golang-github-containers-common",
        "containernetworking-plugins",
        "iptables",
        "libip4tc2",
        "libip6tc2",
        "libnfnetlink0",
        "libnetfilter-conntrack3",
        "libcap2-bin",
        "openssl",
        "readline-common",
    }
)

TOOLS = ("erofs-utils", "cryptsetup-bin", "lz4", "zstd")
"""Debian 13 packages whose programs run during the build; nothing of them is in the image."""

INITRD_MODULES = ("virtio_blk", "virtio_net", "dm-verity", "erofs")
"""Loaded in the initrd, each after what it depends on."""

MODULES = [
    "virtio_blk",
    "virtio_net",
    "virtio_scsi",
    "dm-verity",
    "erofs",
    "overlay",
    "isofs",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "sr_mod",
    "sd_mod",
    "ahci",
    "ata_piix",
    "vxlan",
    "veth",
    "bridge",
    "br_netfilter",
    "tun",
    "dummy",
    "ipvlan",
    "macvlan",
    "nf_tables",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_chain_nat",
    "nft_reject",
    "nft_reject_inet",
    "nf_conntrack",
    "cls_u32",
    "act_mirred",
    "sch_ingress",
    "virtio_rng",
    "virtio_balloon",
    "qemu_fw_cfg",
    "virtiofs",
    "fuse",
    "loop",
    "ext4",
    "dm-crypt",
    "dm-integrity",
    "wireguard",
    "vmw_vsock_virtio_transport",
]
"""In the root, found by modprobe (the kernel asks for most of them by alias)."""

CMDLINE = "console=ttyS0,115200 ro quiet loglevel=4 panic=-1 cryptomgr.notests random.trust_cpu=on"

GUEST_SOURCE = [
    "__init__.py",
    "py.typed",
    "errors.py",
    "aio.py",
    "model.py",
    "oci_spec.py",
    "config",
    "obs/__init__.py",
    "obs/log.py",
    "obs/ready.py",
    "obs/bridge.py",
    "ttrpc",
    "tls",
    "pki",
    "userdata",
    "podnet",
    "forwarder",
    "agent",
    "protocols",
    "cli/__init__.py",
    "cli/services",
]
"""Our own source in the image, relative to src/peerpods; folders whole, without tests, stubs and .proto files."""

FORBIDDEN_IN_GUEST = ("OpenSSL", "cryptography", "structlog", "prometheus_client", "service_identity")
"""Python packages that must not be there: memory and start-up time (a test looks)."""

STRIPPED = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/perl5",
    "usr/share/bash-completion",
    "usr/share/zsh",
    "usr/share/fish",
    "usr/share/apport",
    "usr/share/debconf",
    "usr/share/ca-certificates",
    "usr/share/iproute2-doc",
    "usr/share/python3",
    "usr/share/applications",
    "usr/share/pixmaps",
    "usr/share/containers",
    "usr/lib/python3.13/idlelib",
    "usr/lib/python3.13/lib2to3",
    "usr/lib/python3.13/pydoc_data",
    "usr/lib/python3.13/ensurepip",
    "usr/lib/python3.13/turtledemo",
    "usr/lib/python3.13/tkinter",
    "usr/lib/python3.13/venv",
    "usr/lib/python3.13/test",
    "usr/lib/python3.13/curses",
    "usr/lib/python3.13/dbm",
    "usr/lib/python3.13/wsgiref",
    "usr/lib/python3.13/xmlrpc",
    "usr/lib/python3.13/_pyrepl",
    "usr/lib/python3.13/sqlite3",
    "usr/lib/python3.13/unittest",
    "usr/lib/python3.13/lib-dynload/_sqlite3.cpython-313-x86_64-linux-gnu.so",
    "usr/lib/tc",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/audit",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/sbin/arpd",
    "usr/lib/python3.13/lib-dynload/_dbm.cpython-313-x86_64-linux-gnu.so",
    "usr/lib/python3.13/lib-dynload/_curses.cpython-313-x86_64-linux-gnu.so",
    "usr/lib/python3.13/lib-dynload/_curses_panel.cpython-313-x86_64-linux-gnu.so",
    "usr/lib/init",
    "usr/lib/locale",
    "etc",
    "boot",
    "var",
    "usr/sbin/update-ca-certificates",
]
"""Removed from the unpacked packages; /etc and /var are written anew."""

WHEEL_STRIPPED = [
    "twisted/conch",
    "twisted/mail",
    "twisted/words",
    "twisted/names",
    "twisted/news",
    "twisted/trial",
    "twisted/pair",
    "twisted/spread",
]
"""Removed from the wheels, together with every folder `test` or `tests`."""
